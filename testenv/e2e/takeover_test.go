package e2e

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

// house is where a run is taken over by another one: containers, which share a run directory and the network, or one host.
type house struct {
	world
	tcp, udp []int
	flags    []string
}

// newHouse starts a run with services.
func newHouse(t *testing.T, contained, withPen bool) house {
	t.Helper()
	fullSpeed(t)
	w := worldWith(t, "haproxy", "pen")
	if w.host.Contained = contained; contained {
		asRoot(t)
	}
	w.host.NoHAProxy = withPen
	w.notified()
	h := house{world: w, tcp: w.services(5, 2), udp: w.udpServices(2, 2), flags: []string{"--drain", "20s", "--on-exit", "drain"}}
	h.begin()
	return h
}

// notified has the run tell a stand-in for systemd how it fares.
func (w world) notified() {
	w.Helper()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: w.host.Path("notify"), Net: "unixgram"})
	w.must(err)
	w.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for buffer := make([]byte, 4096); err == nil; {
			_, err = l.Read(buffer)
		}
	}()
	w.host.Env = append(os.Environ(), "NOTIFY_SOCKET="+l.LocalAddr().String())
}

// begin starts the run of the house and waits until it serves everything.
func (h house) begin(more ...string) {
	h.Helper()
	h.must(h.host.Start(h.with(more...)...))
	h.must(h.host.Ready(h.patient()))
	h.serves()
}

func (h house) with(more ...string) []string {
	return append(append([]string{"--marathon", h.site.URL}, h.flags...), more...)
}

// serves waits until the running proxies are those that are wanted, one for each service.
func (h house) serves() {
	h.Helper()
	if h.host.NoHAProxy {
		h.penSettled()
	} else {
		h.settled()
		h.penSettled()
	}
	h.served(h.tcp...)
	h.udpServed(h.udp...)
}

// next gives the house with a run to come, on which nothing runs yet: with the same run directory, and with a haproxy.cfg of its
// own if it is in a container.
func (h house) next() house {
	h.Helper()
	beside, err := stage.NewHost(h.host.Binary)
	h.must(err)
	h.Cleanup(func() {
		if h.Failed() {
			h.Logf("log of the successor:\n%s", shorten(beside.Log()))
		}
		h.must(beside.Close())
	})
	beside.RunDir, beside.StatusAddr, beside.Contained, beside.NoHAProxy = h.host.RunDir, h.host.StatusAddr, h.host.Contained, h.host.NoHAProxy
	after := h
	after.host = beside
	after.flags = append([]string{"--haproxy-socket", h.host.RunDir + "/haproxy.sock"}, h.flags...)
	h.must(os.Symlink(h.host.RunDir+"/haproxy.sock", beside.Path("haproxy.sock")))
	if !beside.Contained {
		after.flags = append(after.flags, "--haproxy-config", h.host.Config())
		h.must(os.Symlink(h.host.Config(), beside.Config()))
	}
	return after
}

// says waits until the log of the host's run has some words.
func (h house) logs(words string) {
	h.Helper()
	h.must(stage.Until(h.patient(), func() error {
		if !strings.Contains(h.host.Log(), words) {
			return fmt.Errorf("%q is not in the log", words)
		}
		return nil
	}))
}

// long are connections whose requests are under way.
type long []net.Conn

func (h house) long(n int) long {
	h.Helper()
	var out long
	for i := range n {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.tcp[i%len(h.tcp)]))
		h.must(err)
		h.Cleanup(func() { _ = conn.Close() })
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\n")
		h.must(err)
		out = append(out, conn)
	}
	return out
}

// finish lets the requests come to their ends and counts those that were answered.
func (l long) finish() int {
	good := 0
	for _, conn := range l {
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // a connection that is cut is not counted
		_, err := io.WriteString(conn, "Host: long\r\nConnection: close\r\n\r\n")
		if err != nil {
			continue
		}
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil && resp.StatusCode == http.StatusOK {
			good++
		}
		_ = conn.Close()
	}
	return good
}

func TestTakeOver(t *testing.T) {
	for name, c := range map[string]struct{ contained, pen bool }{
		"between containers":           {true, false},
		"between containers, with pen": {true, true},
		"on one host":                  {false, false},
		"on one host, with pen":        {false, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, c.contained, c.pen)
			load, conns, flows := h.load(h.tcp, 500), h.long(20), h.flows(h.udp, 20, 400)
			began, listeners := time.Now(), h.listeners()
			for range 2 {
				old := h
				h = old.next()
				h.must(load.WaitRequests(h.patient(), 100))
				asked := time.Now()
				h.must(h.host.Start(h.with("--take-over")...))
				h.logs("taken over")
				t.Logf("taken over after %s", time.Since(asked).Round(time.Millisecond))
				if good := conns.finish(); good != len(conns) {
					t.Errorf("%d of %d long connections were answered", good, len(conns))
				}
				code, err := old.host.Wait(h.patient())
				h.must(err)
				if code != 0 {
					t.Errorf("the former run ended with %d, want 0", code)
				}
				h.must(h.host.Ready(h.patient()))
				_, err = h.site.AddTask(h.tcp[0])
				h.must(err)
				h.addUDPTask(h.udp[0])
				h.serves()
				h.says(h.command("plan", h.flags...), 0, "nothing to change")
				conns = h.long(20)
				h.must(flows.Wait(h.patient(), 1600))
				if now := h.listeners(); !c.pen && !maps.Equal(now, listeners) {
					t.Errorf("the listening sockets were not handed over: %v, before %v", now, listeners)
				}
			}
			h.must(load.WaitRequests(h.patient(), 200))
			if good := conns.finish(); good != len(conns) {
				t.Errorf("%d of %d long connections were answered", good, len(conns))
			}
			h.losses(flows.Stop(), began, 0.005)
			if c.pen {
				h.nearlyFlawless(load)
			} else {
				h.flawless(load)
			}
			h.leaves(h.host.RunDir, c.pen)
		})
	}
}

// leaves checks what two take-overs leave in the run directory: nothing of the former proxies.
func (h house) leaves(dir string, pen bool) {
	h.Helper()
	want := []string{"control.sock", "haproxy.sock", "lock", "place", "place-2"}
	if pen {
		want = slices.DeleteFunc(want, func(name string) bool { return name == "haproxy.sock" })
	}
	h.must(stage.Until(h.patient(), func() error {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		var names []string
		for _, e := range entries {
			if test := []string{"haproxy.cfg", "log", "notify", "state"}; !slices.Contains(test, e.Name()) { // the first host's
				names = append(names, e.Name())
			}
		}
		if !slices.Equal(names, want) {
			return fmt.Errorf("%q is left in the run directory, want %q", names, want)
		}
		return nil
	}))
}

// listeners gives the inodes of the sockets that listen on the ports of TCP services.
func (h house) listeners() map[int]uint32 {
	h.Helper()
	sockets, err := host.Sockets(host.TCP, host.Listening, 0)
	h.must(err)
	out := map[int]uint32{}
	for _, s := range sockets {
		if port := int(s.Local.Port()); s.Listen && slices.Contains(h.tcp, port) {
			out[port] = s.Inode
		}
	}
	return out
}

// The holder hands over what it knows, so that nobody waits for a source that is down.
func TestTakeOverWhileASourceIsDown(t *testing.T) {
	h := newHouse(t, false, false)
	load, flows := h.load(h.tcp, 300), h.flows(h.udp, 10, 200)
	next := h.next()
	args := next.with("--take-over")
	args[1] = "http://127.0.0.1:1" // in the place of Marathon's URL
	h.must(next.host.Start(args...))
	next.logs("taken over")
	code, err := h.host.Wait(h.patient())
	h.must(err)
	if code != 0 {
		t.Errorf("the former run ended with %d, want 0", code)
	}
	next.serves()
	// A plain restart takes over what the successor has.
	worker, pens := next.worker(), next.host.Pens()
	next.host.Kill()
	next.begin()
	next.sameWorker(worker)
	next.samePens(pens)
	next.reloaded(0, 0, "a restart after a hand-over")
	h.flawless(load)
	flows.Stop()
}

// nearlyFlawless ends a load on pens: what had come to the port of one, and was not accepted yet when that was closed, is reset.
func (h house) nearlyFlawless(l *stage.Load) {
	h.Helper()
	r := l.Stop()
	h.Logf("%d requests, %d failed: %v", r.Requests, len(r.Failed), r.Failed)
	for _, f := range r.Failed {
		if len(r.Failed) > r.Requests/500 || !strings.Contains(f.Reason, "reset") {
			h.Errorf("a request failed: %s", f)
		}
	}
}
