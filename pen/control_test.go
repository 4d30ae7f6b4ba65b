package pen

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

func TestServersAreRead(t *testing.T) {
	got, err := readServers(`0 addr 0.0.0.0 port 0 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0
1 addr 10.0.0.1 port 31000 conn 3 max 0 hard 0 weight 0 prio 0 sx 6 rx 9
2 addr 0.0.0.0 port 0 conn 2 max 0 hard 0 weight 0 prio 0 sx 6 rx 0
3 addr 2001:db8::1 port 53 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0
4 addr ::ffff:10.0.0.4 port 53 conn 0
5 addr 10.0.0.5 port 0 conn 0
6 addr 0.0.0.0 port 53 conn 0
7 addr (unknown address family 0 port 0 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0
`)
	if err != nil {
		t.Fatal(err)
	}
	want := slots{1: netip.MustParseAddrPort("10.0.0.1:31000"), 3: netip.MustParseAddrPort("[2001:db8::1]:53"), 4: netip.MustParseAddrPort("10.0.0.4:53")}
	if !maps.Equal(got.slots, want) || got.size != 8 || got.flows[1] != 3 || got.flows[2] != 2 || got.flows[3] != 0 {
		t.Errorf("got %+v, want the slots %v", got, map[int]netip.AddrPort(want))
	}
	for _, text := range []string{"do_cmd: ignoring command starting with 'servers'\n", "\n", "1 addr 10.0.0.1 port 31000 conn 3\n", "0 addr 10.0.0.1 port 31000\n",
		"0 addr 10.0.0.1 port 65536 conn 0\n", "0 addr 10.0.0.1 port -1 conn 0\n", "x addr 10.0.0.1 port 1 conn 0\n", "0 addr 10.0.0.1 port 1 conn x\n",
		"0 at 10.0.0.1 port 1 conn 0\n", "0 addr 10.0.0.1 port 1 conn 0\n0 addr 10.0.0.1 port 1 conn 0\n", "0 addr 10.0.0.1 port 1 conn 0\n2 addr 10.0.0.1 port 1 conn 0\n"} {
		if got, err := readServers(text); err == nil {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	if got, err := readServers(""); err != nil || got.size != 0 {
		t.Errorf("no answer: %+v, %v", got, err)
	}
}

// peerOf is a control socket that we answer ourselves.
func peerOf(t *testing.T, answer func(command string, c net.Conn)) control {
	t.Helper()
	dir, err := os.MkdirTemp("", "pm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			command, _ := bufio.NewReader(c).ReadString('\n')
			answer(command, c)
			_ = c.Close()
		}
	}()
	return control{filepath.Join(dir, "s")}
}

func TestControlSocketsThatDoNotAnswerAsPenDoes(t *testing.T) {
	short := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	t.Run("nobody", func(t *testing.T) {
		_, _, err := control{filepath.Join(t.TempDir(), "s")}.servers(t.Context())
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	t.Run("silent", func(t *testing.T) {
		asked := make(chan struct{})
		c := peerOf(t, func(string, net.Conn) { <-asked })
		_, _, err := c.ask(short(t), "servers")
		close(asked)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	})
	t.Run("endless", func(t *testing.T) {
		text, _, err := peerOf(t, func(_ string, c net.Conn) {
			for line := []byte(strings.Repeat("x", 1<<16)); ; {
				if _, err := c.Write(line); err != nil {
					return
				}
			}
		}).ask(t.Context(), "servers")
		if err != nil || len(text) != maxAnswer {
			t.Errorf("%d bytes, %v", len(text), err)
		}
	})
	t.Run("talkative", func(t *testing.T) {
		_, _, err := peerOf(t, func(_ string, c net.Conn) { fmt.Fprintln(c, "hello") }).servers(t.Context())
		if err == nil {
			t.Error(err)
		}
	})
}

func TestACommandIsOneLineAndTheAnswererIsKnown(t *testing.T) {
	text, pid, err := peerOf(t, func(command string, c net.Conn) { fmt.Fprintf(c, "%q", command) }).ask(t.Context(), "include /x")
	if text != `"include /x\n"` || pid != os.Getpid() || err != nil {
		t.Errorf("got %s from %d, %v", text, pid, err)
	}
}

// Of two pens with one control socket the newer has it: what it answers is not the older's.
func TestTheTableOfAnotherProcessIsNotTaken(t *testing.T) {
	dir, err := os.MkdirTemp("", "pm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	d := &Driver{files: files{dir}}
	p := process{pid: os.Getpid(), key: catalog.Key{Port: 53, Proto: catalog.UDP}, id: "x", socket: peerOf(t, func(string, net.Conn) {}).path}
	if _, err := d.servers(t.Context(), p); err != nil {
		t.Error(err)
	}
	p.pid++
	if _, err := d.servers(t.Context(), p); !errors.Is(err, errOther) {
		t.Errorf("error %v", err)
	}
}

// The page was written by pen 0.34.1: three flows in slots 1, 2 and 1.
func TestFlowsAreRead(t *testing.T) {
	page, err := os.ReadFile("testdata/flows.html")
	if err != nil {
		t.Fatal(err)
	}
	want := []flow{{0, 1}, {1, 2}, {2, 1}}
	if got := readFlows(string(page)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	rows := string(page)
	for old, new := range map[string]string{"<td>2</td>\n</tr>\n<tr>\n<td>2</td>": "<td>-1</td>\n</tr>\n<tr>\n<td>2</td>"} {
		changed := strings.Replace(rows, old, new, 1)
		if got := readFlows(changed); changed == rows || !slices.Equal(got, []flow{{0, 1}, {2, 1}}) {
			t.Errorf("a flow without a server: got %v", got)
		}
	}
	before, _, _ := strings.Cut(rows, "<h2>Active connections</h2>")
	for name, text := range map[string]string{"empty": "", "other tables alone": before, "cut": rows[:strings.Index(rows, "<h2>Active connections</h2>")+60],
		"too large a number": strings.Replace("<h2>Active connections</h2><tr>\n<td>N</td>\n"+strings.Repeat("<td>1</td>\n", 6)+"</tr>", "N", strings.Repeat("9", 40), 1)} {
		if got := readFlows(text); len(got) > 0 {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// pen's own directory belongs to its user, who could put anything there.
func TestOnlyFilesAreReadInPensDirectory(t *testing.T) {
	dir := t.TempDir()
	file, link, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(file, []byte("page"), 0o600), os.Symlink(file, link), syscall.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, err := readStatistics(file); got != "page" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	for _, path := range []string{link, fifo, dir, filepath.Join(dir, "none")} {
		if got, err := readStatistics(path); err == nil {
			t.Errorf("%s is read: %q", path, got)
		}
	}
}

func TestATableThatIsNotAsWasToldIsNotProven(t *testing.T) {
	var table atomic.Value // the pen's goroutine may be a moment behind
	d := &Driver{files: files{t.TempDir()}}
	p := process{pid: os.Getpid(), key: catalog.Key{Port: 80, Proto: catalog.TCP}, id: "x", socket: peerOf(t, func(_ string, c net.Conn) { fmt.Fprint(c, table.Load()) }).path}
	want := slots{1: at(1)}
	for text, proven := range map[string]bool{
		"0 addr 0.0.0.0 port 0 conn 0\n1 addr 10.0.0.1 port 31000 conn 0\n":                                    true,
		"0 addr 0.0.0.0 port 0 conn 0\n1 addr 10.0.0.1 port 31000 conn 0\n2 addr 10.0.0.2 port 31000 conn 0\n": false,
		"0 addr 0.0.0.0 port 0 conn 0\n1 addr 10.0.0.1 port 31001 conn 0\n":                                    false,
		"0 addr 10.0.0.1 port 31000 conn 0\n":                                                                  false,
		"":                                                                                                     false,
	} {
		table.Store(text)
		if err := d.verify(t.Context(), p, want); (err == nil) != proven {
			t.Errorf("%q: %v", text, err)
		}
	}
}
