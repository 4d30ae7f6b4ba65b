package haproxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// session is a client's connection through a service, and the backend's end of it.
type session struct {
	t              *testing.T
	client, server net.Conn
}

// silent listens, and leaves what comes to newSession.
func silent(t *testing.T) (*net.TCPListener, netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener), l.Addr().(*net.TCPAddr).AddrPort()
}

func newSession(t *testing.T, port uint16, l *net.TCPListener) session {
	t.Helper()
	_ = l.SetDeadline(time.Now().Add(10 * time.Second))
	client, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	s := session{t, client, server}
	s.mustCarry("hello")
	return s
}

// mustCarry checks that the session lives.
func (s session) mustCarry(text string) {
	s.t.Helper()
	buf := make([]byte, len(text))
	_ = s.server.SetReadDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprint(s.client, text)
	if _, err := io.ReadFull(s.server, buf); err != nil || string(buf) != text {
		s.t.Fatalf("the session carries %q, %v, want %q", buf, err, text)
	}
}

// cut waits a moment for the session's end, and reports whether it has come.
func (s session) cut() bool {
	_ = s.client.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	_, err := s.client.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// mustDelete makes passes until no server is leaving.
func (h *rig) mustDelete(want []*catalog.Service) {
	h.t.Helper()
	now := h.driver.now()
	h.driver.now = func() time.Time { now = now.Add(time.Second); return now }
	for range 1000 {
		if h.apply(want); len(h.driver.leaving) == 0 {
			return
		}
		sleep(h.t.Context(), time.Millisecond)
	}
	h.t.Fatalf("leaving %v", h.driver.leaving)
}

func needAdds(t *testing.T, h *rig) {
	t.Helper()
	if !dialectOf(h.driver.last.version).adds {
		if os.Getenv("CI") != "" {
			t.Fatal("CI must have an HAProxy that can add servers")
		}
		t.Skip("this HAProxy cannot add servers")
	}
}

// A task whose check is switched on gets another name. What it does goes on, however long it takes.
func TestRealConnectionsOfATaskThatGetsAnotherNameGoOn(t *testing.T) {
	for name, drain := range map[string]time.Duration{"cut at once": 0, "drained": time.Minute} {
		t.Run(name, func(t *testing.T) {
			h := newRig(t, func(c *Config) { c.Drain = drain })
			p := freePorts(t, 1)[0]
			l, addr := silent(t)
			h.apply([]*catalog.Service{service(p, addr)})
			needAdds(t, h)
			open := newSession(t, p, l)
			checked := service(p, addr)
			checked.Servers[0].Check = true
			want := []*catalog.Service{checked}
			h.apply(want)
			now := time.Now()
			for i := range 20 { // an hour passes
				h.driver.now = func() time.Time { return now.Add(time.Duration(i) * 3 * time.Minute) }
				h.apply(want)
			}
			if len(h.driver.leaving) != 1 {
				t.Fatalf("leaving %v, want the old form", h.driver.leaving)
			}
			open.mustCarry("still here")
			if wait := <-h.driver.alarm; wait != livesSlowest {
				t.Errorf("the next look comes after %s, want %s", wait, livesSlowest)
			}
			h.mustBeSettled(want)
			open.client.Close()
			open.server.Close()
			h.mustDelete(want)
		})
	}
}

// The old form lives as long as the task is wanted: once it is not, the drain time counts.
func TestRealConnectionsOfARemovedTaskEndWithTheDrainTime(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 1)[0]
	l, addr := silent(t)
	other := backend(t, "other")
	h.apply([]*catalog.Service{service(p, addr)})
	needAdds(t, h)
	open := newSession(t, p, l)
	checked := service(p, addr)
	checked.Servers[0].Check = true
	h.apply([]*catalog.Service{checked})
	gone := []*catalog.Service{service(p, other)}
	h.apply(gone)
	if open.cut() {
		t.Fatal("the session was cut before the drain time")
	}
	now := time.Now().Add(2 * time.Minute)
	h.driver.now = func() time.Time { return now }
	for range 1000 {
		now = now.Add(time.Second)
		if h.apply(gone); open.cut() {
			h.mustDelete(gone)
			return
		}
	}
	t.Fatal("the session outlives the drain time")
}

// However short before the end of the drain time somebody has tried.
func TestRealTheEndOfTheDrainTimeCutsAtOnce(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 1)[0]
	l, addr := silent(t)
	h.apply([]*catalog.Service{service(p, addr)})
	needAdds(t, h)
	newSession(t, p, l)
	now := time.Now()
	h.driver.now = func() time.Time { return now }
	gone := []*catalog.Service{service(p, backend(t, "other"))}
	h.apply(gone)
	now = now.Add(h.driver.config.Drain - time.Millisecond)
	h.apply(gone)
	now = now.Add(time.Millisecond)
	h.apply(gone)
	for _, l := range h.driver.leaving { // it may need a moment to be deleted
		if !l.tried.Equal(now) {
			t.Errorf("it was tried %s before the end of the drain time, and not then", now.Sub(l.tried))
		}
	}
}

func TestRealDrainOfZeroCutsAtOnce(t *testing.T) {
	h := newRig(t, func(c *Config) { c.Drain = 0 })
	p := freePorts(t, 1)[0]
	l, addr := silent(t)
	h.apply([]*catalog.Service{service(p, addr)})
	needAdds(t, h)
	open := newSession(t, p, l)
	h.apply([]*catalog.Service{service(p, backend(t, "other"))}) // one pass
	for range 200 {
		if open.cut() {
			return
		}
	}
	t.Fatal("the session was not cut")
}
