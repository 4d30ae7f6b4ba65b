package pen

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// rig is a driver with real pens of its own.
type rig struct {
	t      testing.TB
	config Config
	driver *Driver
}

// needRoot skips a test where it cannot become another user; in CI it must.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("CI must run as root, to become another user")
	}
	t.Skip("only root can become another user")
}

func needPen(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("pen"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("pen is not installed")
		}
		t.Skip("pen is not installed")
	}
}

// newRig gives a rig whose pens are ended with the test. They run as nobody where that may be.
func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	needPen(t)
	dir, err := os.MkdirTemp("", "pm")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, config: Config{Servers: 32, Clients: 256, User: "nobody", RunDir: dir, BindAddress: netip.MustParseAddr("127.0.0.1"), TCP: true}}
	if change != nil {
		change(&r.config)
	}
	r.restart()
	t.Cleanup(func() {
		if err := r.driver.Close(context.Background(), true); err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	return r
}

// restart replaces the driver by one that remembers nothing.
func (r *rig) restart() {
	r.t.Helper()
	d, err := New(r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	r.driver = d
}

// apply applies, and checks that a second plan is empty.
func (r *rig) apply(want ...*catalog.Service) catalog.Report {
	r.t.Helper()
	report, err := r.driver.Apply(r.t.Context(), want)
	if err != nil {
		r.t.Fatal(err)
	}
	r.driver.Resync()
	again, err := r.driver.Plan(r.t.Context(), want)
	if err != nil || len(again.Changes) > 0 {
		r.t.Fatalf("after %+v %+v a second plan is not empty: %+v (%v)", report.Changes, report.Problems, again.Changes, err)
	}
	return report
}

// text gives a report in few words.
func text(r catalog.Report) string {
	var out []string
	for _, c := range r.Changes {
		out = append(out, strings.TrimSpace(c.Action+" "+c.Server))
	}
	for _, p := range r.Problems {
		out = append(out, "problem: "+p.Reason)
	}
	return strings.Join(out, ", ")
}

// pens gives the processes, by service.
func (r *rig) pens() map[catalog.Key]process {
	r.t.Helper()
	found, err := r.driver.files.scan()
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[catalog.Key]process{}
	for _, p := range found {
		if was, twice := out[p.key]; twice {
			r.t.Errorf("two pens for %s: %d and %d", p.key, was.pid, p.pid)
		}
		out[p.key] = p
	}
	return out
}

func (r *rig) files() []string {
	var out []string
	for _, dir := range []string{r.driver.files.dir(), r.driver.files.own()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			r.t.Fatal(err)
		}
		for _, e := range entries {
			if !e.IsDir() {
				out = append(out, e.Name())
			}
		}
	}
	return out
}

func port(t testing.TB) uint16 {
	t.Helper()
	p, err := freeport.Get(1)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(p[0])
}

func udp(port uint16, servers ...netip.AddrPort) *catalog.Service {
	s := &catalog.Service{Key: catalog.Key{Port: port, Proto: catalog.UDP}, Name: "dns", Source: "test", Mode: catalog.ModeTCP}
	for _, addr := range servers {
		s.Servers = append(s.Servers, catalog.Server{Addr: addr, Weight: catalog.DefaultWeight})
	}
	return s.Canonical()
}

func tcp(port uint16, servers ...netip.AddrPort) *catalog.Service {
	s := udp(port, servers...)
	s.Proto, s.Name = catalog.TCP, "web"
	return s
}

// echo answers each datagram with its name.
func echo(t testing.TB, name string) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(name), from)
		}
	}()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

// client is one UDP flow.
type client struct {
	t testing.TB
	net.Conn
}

func dial(t testing.TB, port uint16) client {
	t.Helper()
	c, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return client{t, c}
}

// ask sends one datagram and gives who answers; "nobody" after a while.
func (c client) ask() string {
	c.t.Helper()
	if _, err := c.Write([]byte("?")); err != nil {
		return err.Error()
	}
	if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	buf := make([]byte, 2048)
	n, err := c.Read(buf)
	if err != nil {
		return "nobody"
	}
	return string(buf[:n])
}

// table reads what a service's pen has.
func (r *rig) table(key catalog.Key) table {
	r.t.Helper()
	t, err := r.driver.servers(r.t.Context(), r.pens()[key])
	if err != nil {
		r.t.Fatal(err)
	}
	return t
}

// tell gives a service's pen a command, as somebody else could, and has the driver look.
func (r *rig) tell(key catalog.Key, command string) {
	r.t.Helper()
	p := r.pens()[key]
	if _, _, err := (control{p.socket}).ask(r.t.Context(), command); err != nil {
		r.t.Fatal(err)
	}
	r.driver.Resync()
}
