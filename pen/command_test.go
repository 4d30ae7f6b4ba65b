package pen

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meltwater/proxymatic/sources/catalog"
)

func TestCommands(t *testing.T) {
	f := files{"/run/pm"}
	udp, tcp := catalog.Key{Port: 53, Proto: catalog.UDP}, catalog.Key{Port: 80, Proto: catalog.TCP}
	v4, v6 := netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("2001:db8::1")
	for _, c := range []struct {
		name string
		command
		want string
	}{
		{"UDP", command{key: udp, bind: v4, flows: 10}, "-f -U -r -b 5 -x 10 -c 256 {} 0.0.0.0:53"},
		{"TCP", command{key: tcp, bind: v4, flows: 10}, "-f -P -r -O 'pending_max 1000000' -t 2 -b 5 -x 10 -c 256 -e /run/pm/pen/none.sock {} 0.0.0.0:80"},
		{"root opens its control socket only when told to stay root", command{key: udp, bind: v4, flows: 1, asRoot: true},
			"-f -U -r -b 5 -x 1 -c 256 -u root {} 0.0.0.0:53"},
		{"IPv6 without brackets", command{key: tcp, bind: v6, flows: 1},
			"-f -P -r -O 'pending_max 1000000' -t 2 -b 5 -x 1 -c 256 -e /run/pm/pen/none.sock {} 2001:db8::1:80"},
	} {
		base := string(c.key.Proto) + "-" + strings.TrimLeft(c.key.String()[:2], "0") + "-" + c.id()
		paths := "-C /run/pm/pen/own/s.sock -F /run/pm/pen/" + base + ".cfg"
		want := strings.Replace(c.want, "{}", paths, 1)
		args := c.args(f, "/run/pm/pen/own/s.sock")
		for i, a := range args {
			if strings.Contains(a, " ") {
				args[i] = "'" + a + "'"
			}
		}
		if got := strings.Join(args, " "); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, want)
		}
	}
}

// The id stands for all that pen is started with, and for nothing else.
func TestIDsDifferWithTheCommand(t *testing.T) {
	base := command{key: catalog.Key{Port: 53, Proto: catalog.UDP}, bind: netip.MustParseAddr("0.0.0.0"), flows: 10, options: []string{"a", "b"}}
	seen := map[string]string{base.id(): "the same"}
	if again := base; again.id() != base.id() {
		t.Errorf("the same command has the ids %s and %s", base.id(), again.id())
	}
	for name, change := range map[string]func(*command){
		"port":       func(c *command) { c.key.Port = 54 },
		"protocol":   func(c *command) { c.key.Proto = catalog.TCP },
		"address":    func(c *command) { c.bind = netip.MustParseAddr("127.0.0.1") },
		"flows":      func(c *command) { c.flows = 11 },
		"root":       func(c *command) { c.asRoot = true },
		"options":    func(c *command) { c.options = []string{"a"} },
		"one option": func(c *command) { c.options = []string{"a b"} },
		"order":      func(c *command) { c.options = []string{"b", "a"} },
	} {
		c := base
		change(&c)
		if was, twice := seen[c.id()]; twice {
			t.Errorf("another %s has the id of %s", name, was)
		}
		seen[c.id()] = name
		if n := len(c.id()); n != 8 {
			t.Errorf("id %s", c.id())
		}
	}
}

func TestFileNamesAreReadAsTheyAreWritten(t *testing.T) {
	f := files{"/run/pm"}
	for _, want := range []catalog.Key{{Port: 1, Proto: catalog.TCP}, {Port: 65535, Proto: catalog.UDP}} {
		key, id, ok := f.readConfig(f.config(want, "0a1b2c3d"))
		if key != want || id != "0a1b2c3d" || !ok {
			t.Errorf("%s: got %v %q %t", want, key, id, ok)
		}
		for _, path := range []string{f.config(want, "0a1b2c3d"), f.newSocket(want, "0a1b2c3d"), f.log(want), f.statistics(want), f.commands(want), f.config(want, "x") + ".new"} {
			if got := keyOf(path[strings.LastIndex(path, "/")+1:]); got != fileName(want) {
				t.Errorf("%s is of %q, want %q", path, got, fileName(want))
			}
		}
	}
	for _, path := range []string{"", f.sink(), "udp-53-a.cfg", "/run/pm/udp-53-a.cfg", "/run/pm/pen/own/udp-53-a.cfg", "/run/pm/pen/udp-53.cfg", "/run/pm/pen/udp-53-a.sock",
		"/run/pm/pen/udp-53-a-b.cfg", "/run/pm/pen/sctp-53-a.cfg", "/run/pm/pen/udp-0-a.cfg", "/run/pm/pen/udp-65536-a.cfg", "/run/other/pen/udp-53-a.cfg"} {
		if key, id, ok := f.readConfig(path); ok {
			t.Errorf("%q is taken for the configuration of %s %s", path, key, id)
		}
	}
	for _, name := range []string{"", "own", "none.sock", "none.sock.new", "udp", "udp-53", "notes.txt", "haproxy.cfg", "sctp-53.log"} {
		if got := keyOf(name); got != "" {
			t.Errorf("%q is taken for a file of %s", name, got)
		}
	}
}

func TestRunDirectoriesThatPenCannotUseAreRefused(t *testing.T) {
	longest := "/" + strings.Repeat("d", maxSocketPath-len("/pen/own/udp-65535-00000000-00000000.sock")-1)
	for dir, want := range map[string]string{
		"/run/pm":       "",
		longest:         "",
		longest + "ddd": "run directory " + longest + "ddd: it is 3 bytes too long for the paths of pen's sockets",
		"/run/p m":      `run directory "/run/p m": pen takes no path with blanks, colons or characters beyond ASCII`,
		"/run/p:m":      `run directory "/run/p:m": pen takes no path with blanks, colons or characters beyond ASCII`,
		"/run/ü":        `run directory "/run/ü": pen takes no path with blanks, colons or characters beyond ASCII`,
	} {
		got := ""
		if err := (files{dir}).checkPaths(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", dir, got, want)
		}
	}
}
