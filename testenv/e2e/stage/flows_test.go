package stage

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/backend"
)

// relay answers what clients send as answer tells, not at all when that is empty. It gives its port.
func relay(t *testing.T, answer func(datagram string) string) int {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		packet := make([]byte, 1024)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(packet)
			if err != nil {
				return
			}
			if text := answer(string(packet[:n])); text != "" {
				_, _ = conn.WriteToUDPAddrPort([]byte(text), from) // UDP promises nothing
			}
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr).Port
}

// play lets flows run until they have sent some hundred datagrams.
func play(t *testing.T, port int) FlowsResult {
	t.Helper()
	f, err := StartFlows([]int{port}, 10, 2000)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Wait(t.Context(), 300); err != nil {
		t.Fatal(err)
	}
	return f.Stop()
}

func TestFlowsKnowWhoAnswered(t *testing.T) {
	s, err := backend.ListenUDP("127.0.0.1:0", "one")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	began := time.Now()
	r := play(t, port(t, s))
	if sent, lost := r.Sent(began), r.Lost(began); sent < 300 || len(lost) > 0 || r.Misdelivered > 0 {
		t.Errorf("%d sent, lost %v, %d misdelivered; want none", sent, lost, r.Misdelivered)
	}
	for name, want := range map[string]bool{"one": true, "two": false} {
		for i, d := range r.Reached(began, func(by string) bool { return by == name }) {
			if (d.After != Never) != want || d.Lost > 0 {
				t.Errorf("flow %d reached %s: %+v", i, name, d)
			}
		}
	}
}

func TestFlowsSeeLosses(t *testing.T) {
	n := 0
	at := relay(t, func(datagram string) string {
		if n++; n%10 == 0 {
			return ""
		}
		return "one " + datagram
	})
	r := play(t, at)
	if lost, want := len(r.Lost(time.Time{})), r.Sent(time.Time{})/10; lost != want {
		t.Errorf("%d lost, want %d", lost, want)
	}
}

func TestFlowsSeeWhatIsNotTheirs(t *testing.T) {
	last := ""
	at := relay(t, func(datagram string) string {
		answer := last
		last = "one " + datagram
		return answer
	})
	r := play(t, at)
	if sent := r.Sent(time.Time{}); r.Misdelivered != sent-1 || len(r.Lost(time.Time{})) != sent {
		t.Errorf("%d sent, %d misdelivered, %d lost; want all", sent, r.Misdelivered, len(r.Lost(time.Time{})))
	}
}

// A client that nobody listens to is refused, and goes on.
func TestFlowsOutliveThatNobodyListens(t *testing.T) {
	s, err := backend.ListenUDP("127.0.0.1:0", "one")
	if err != nil {
		t.Fatal(err)
	}
	f, err := StartFlows([]int{port(t, s)}, 10, 2000)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Born(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Close()
	closed := time.Now()
	if err := f.Wait(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	again, err := backend.ListenUDP(s.Addr(), "two")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := f.Wait(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	r := f.Stop()
	if lost := len(r.Lost(closed)); lost < 50 {
		t.Errorf("%d lost while nobody listened", lost)
	}
	for i, d := range r.Reached(closed, func(by string) bool { return by == "two" }) {
		if d.After == Never || d.Lost == 0 {
			t.Errorf("flow %d was answered again: %+v", i, d)
		}
	}
}

func port(t *testing.T, s *backend.Server) int {
	t.Helper()
	addr, err := netip.ParseAddrPort(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return int(addr.Port())
}
