package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// listenShared listens with SO_REUSEPORT, beside which any process of our user could listen too.
func listenShared(t *testing.T, port uint16) {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }), err)
	}}
	l, err := config.Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

// connectFrom makes a client connection whose own source port is the given one, and gives the client's end.
func connectFrom(t *testing.T, port uint16) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// Go's dialer sets SO_REUSEADDR on nothing: a plain client socket.
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)}}
	client, err = dialer.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func TestRealTakenPortNeverReachesTheFile(t *testing.T) {
	thieves := map[string]func(t *testing.T, port uint16) (who string){
		"an ordinary listener": func(t *testing.T, port uint16) string {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return fmt.Sprintf("(pid %d)", os.Getpid())
		},
		"a listener of our own user that shares its port": func(t *testing.T, port uint16) string {
			listenShared(t, port)
			return fmt.Sprintf("(pid %d)", os.Getpid())
		},
		"a client connection with that source port": func(t *testing.T, port uint16) string {
			connectFrom(t, port)
			return "a connection of"
		},
		"such a connection in TIME_WAIT": func(t *testing.T, port uint16) string {
			client, server := connectFrom(t, port)
			client.Close() // who closes first waits
			server.Close()
			return "TIME_WAIT"
		},
	}
	for name, steal := range thieves {
		t.Run(name, func(t *testing.T) {
			h := newRig(t, nil)
			p := freePorts(t, 3)
			a := backend(t, "a")
			h.apply([]*catalog.Service{service(p[0], a)})
			who := steal(t, p[1])
			load := startLoad(t, p[0])
			want := []*catalog.Service{service(p[0], a), service(p[1], a), service(p[2], a)}
			waitLoad(h)
			r := h.apply(want)
			if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Reason, who) || !strings.Contains(r.Problems[0].Subject, fmt.Sprint(p[1])) {
				t.Errorf("problems %+v, want one that names %d and %q", r.Problems, p[1], who)
			}
			mustAnswer(t, p[2], "a")
			text, err := os.ReadFile(h.config.ConfigFile)
			if err != nil || strings.Contains(string(text), fmt.Sprintf(":%d\n", p[1])) {
				t.Errorf("the taken port is in the file (or %v)", err)
			}
			mustNotFail(t, load)
		})
	}
}

// waitLoad lets the pause between two loads pass by moving the driver's clock.
func waitLoad(h *rig) {
	h.driver.now = func() time.Time { return time.Now().Add(time.Hour / 2) }
}

// startLoad asks a service again and again until the function that it gives is called, which tells how many requests were
// made and how many failed.
func startLoad(t *testing.T, port uint16) func() (n, failed int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	type result struct{ n, failed int }
	done := make(chan result)
	go func() {
		var r result
		for ctx.Err() == nil {
			r.n++
			if _, err := ask(port); err != nil {
				r.failed++
			}
		}
		done <- r
	}()
	return func() (int, int) {
		cancel()
		r := <-done
		return r.n, r.failed
	}
}

func TestRealPortIsOfferedWhenItIsFree(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 2)
	a := backend(t, "a")
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p[1]))
	if err != nil {
		t.Fatal(err)
	}
	want := []*catalog.Service{service(p[0], a), service(p[1], a)}
	if r := h.apply(want); len(r.Problems) != 1 {
		t.Fatalf("problems %+v", r.Problems)
	}
	l.Close()
	waitLoad(h)
	if r := h.apply(want); len(r.Problems) != 0 {
		t.Fatalf("problems %+v", r.Problems)
	}
	mustAnswer(t, p[1], "a")
}

func TestRealPausedPortThatWasTaken(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 2)
	a := backend(t, "a")
	both := []*catalog.Service{service(p[0], a), service(p[1], a)}
	h.apply(both)
	h.apply(both[:1])
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p[1])) // Go sets SO_REUSEADDR: a paused port can be taken so
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := h.apply(both)
	if len(r.Problems) != 1 || len(r.Reloads) != 0 {
		t.Fatalf("problems %+v, reloads %q", r.Problems, r.Reloads)
	}
	mustAnswer(t, p[0], "a")
}

func TestRealServiceOnThePortOfTheTemplate(t *testing.T) {
	p := freePorts(t, 2)
	h := newRig(t, func(c *Config) {
		c.TemplateFile = writeText(t, strings.Replace(twoBackends, "{{range .Services}}",
			fmt.Sprintf("listen stats\n    bind 127.0.0.1:%d\n    mode http\n    stats enable\n{{range .Services}}", p[1]), 1))
	})
	a := backend(t, "a")
	r := h.apply([]*catalog.Service{service(p[0], a), service(p[1], a)})
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Reason, "template") {
		t.Errorf("problems %+v", r.Problems)
	}
	mustAnswer(t, p[0], "a")
}
