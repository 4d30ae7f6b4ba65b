package pen

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// cpu gives the time that a process has used, in ticks of 10 ms.
func cpu(t *testing.T, pid int) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	var user, system int
	if _, err := fmt.Sscan(strings.Join(strings.Fields(rest)[11:13], " "), &user, &system); err != nil {
		t.Fatal(err)
	}
	return user + system
}

// A pen whose servers all refuse closes its clients' connections and then rests, whoever runs the driver.
func TestRealPenRestsWhenAllServersRefuse(t *testing.T) {
	r := newRig(t, nil)
	s := tcp(port(t), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port(t)))
	for range 2 {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.driver.Run(ctx, func() {}) }()
		for { // else pen would leave it out for 5 s
			if c, err := net.Dial("unix", r.driver.files.sink()); err == nil {
				_ = c.Close()
				break
			}
		}
		r.apply(s)
		pid := r.pens()[s.Key].pid
		for range 100 {
			c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", s.Port))
			if err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("read %d bytes of nobody", n)
			}
			_ = c.Close()
		}
		before, own := cpu(t, pid), cpu(t, os.Getpid())
		for cpu(t, os.Getpid())-own < 20 { // as long as we work for 0.2 s
			_ = strings.Repeat("x", 100000)
		}
		if used := cpu(t, pid) - before; used > 5 {
			t.Errorf("pen had nothing to do, and used %d0 ms while we used 200", used)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		r.restart()
	}
}
