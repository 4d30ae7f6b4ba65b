package pen

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// rig is a driver with real pens of its own.
type rig struct {
	t      *testing.T
	config Config
	driver *Driver
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
func newRig(t *testing.T, change func(*Config)) *rig {
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
func (r *rig) apply(want ...catalog.Service) catalog.Report {
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
		if err != nil {
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

func udp(port uint16, servers ...netip.AddrPort) catalog.Service {
	s := catalog.Service{Key: catalog.Key{Port: port, Proto: catalog.UDP}, Name: "dns", Source: "test", Mode: catalog.ModeTCP}
	for _, addr := range servers {
		s.Servers = append(s.Servers, catalog.Server{Addr: addr, Weight: catalog.DefaultWeight})
	}
	catalog.Sort([]catalog.Service{s})
	return s
}

func tcp(port uint16, servers ...netip.AddrPort) catalog.Service {
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

func TestRealUDPServiceMoves(t *testing.T) {
	r := newRig(t, nil)
	p := port(t)
	a, b, c := echo(t, "a"), echo(t, "b"), echo(t, "c")
	if got := text(r.apply(udp(p, a, b))); got != "start pen" {
		t.Errorf("first: %s", got)
	}
	pid := r.pens()[catalog.Key{Port: p, Proto: catalog.UDP}].pid
	var flows []client
	seen := map[string]int{}
	for range 20 {
		f := dial(t, p)
		flows = append(flows, f)
		seen[f.ask()]++
	}
	if seen["a"] != 10 || seen["b"] != 10 {
		t.Errorf("two servers share %v", seen)
	}
	if got, want := text(r.apply(udp(p, b, c))), fmt.Sprintf("add server %s, remove server %s", c, a); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	seen = map[string]int{}
	for _, f := range flows {
		seen[f.ask()]++
	}
	if seen["b"]+seen["c"] != 20 || seen["c"] < 5 {
		t.Errorf("after the change: %v", seen)
	}
	if now := r.pens()[catalog.Key{Port: p, Proto: catalog.UDP}].pid; now != pid {
		t.Errorf("pen %d became %d", pid, now)
	}
	if got := text(r.apply()); got != "stop pen" {
		t.Errorf("removed: %s", got)
	}
	if left := r.files(); len(r.pens()) > 0 || len(left) > 0 {
		t.Errorf("left: %v %v", r.pens(), left)
	}
}

func TestRealPenIsAdopted(t *testing.T) {
	r := newRig(t, nil)
	p := port(t)
	a, b, c := echo(t, "a"), echo(t, "b"), echo(t, "c")
	r.apply(udp(p, a, b, c))
	before := r.pens()
	f := dial(t, p)
	who := f.ask()
	r.restart()
	if got := text(r.apply(udp(p, a, b, c))); got != "" {
		t.Errorf("adopting changes: %s", got)
	}
	r.restart()
	rest := slices.DeleteFunc([]netip.AddrPort{a, b, c}, func(addr netip.AddrPort) bool {
		return map[string]netip.AddrPort{"a": a, "b": b, "c": c}[who] == addr
	})
	r.apply(udp(p, rest...))
	if now := f.ask(); now == who || now == "nobody" {
		t.Errorf("a flow to the removed %s is answered by %s", who, now)
	}
	if now := r.pens(); len(now) != 1 || now[catalog.Key{Port: p, Proto: catalog.UDP}] != before[catalog.Key{Port: p, Proto: catalog.UDP}] {
		t.Errorf("pens %v, before %v", now, before)
	}
}

func TestRealServiceWithoutServersKeepsItsPen(t *testing.T) {
	r := newRig(t, nil)
	p := port(t)
	a := echo(t, "a")
	r.apply(udp(p, a))
	before := r.pens()
	f := dial(t, p)
	f.ask()
	if got, want := text(r.apply(udp(p))), fmt.Sprintf("remove server %s", a); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if err := f.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, _ = f.Write([]byte("?"))
	if n, err := f.Read(make([]byte, 10)); err == nil {
		t.Errorf("answered by nobody's server: %d bytes", n)
	}
	r.apply(udp(p, a))
	if got := f.ask(); got != "a" || r.pens()[catalog.Key{Port: p, Proto: catalog.UDP}] != before[catalog.Key{Port: p, Proto: catalog.UDP}] {
		t.Errorf("back: %s, pens %v", got, r.pens())
	}
}

func TestRealPenIsReplacedWhenItsStartChanges(t *testing.T) {
	for _, proto := range []catalog.Proto{catalog.UDP, catalog.TCP} {
		r := newRig(t, nil)
		s := udp(port(t), echo(t, "a"))
		s.Proto = proto
		r.apply(s)
		before := r.pens()[s.Key]
		r.config.Clients = 300
		r.restart()
		if got := text(r.apply(s)); got != "replace pen" {
			t.Errorf("got %s", got)
		}
		if now := r.pens()[s.Key]; now.pid == 0 || now.pid == before.pid {
			t.Errorf("pen %v became %v", before, now)
		}
		if n := len(r.files()); n != 3 {
			t.Errorf("%d files: %v", n, r.files())
		}
	}
}

// A pen that is stopped answers nobody. Another takes its place.
func TestRealDeafPenIsReplaced(t *testing.T) {
	r := newRig(t, nil)
	s := udp(port(t), echo(t, "a"))
	r.apply(s)
	before := r.pens()[s.Key]
	if err := syscall.Kill(before.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.driver.Resync()
	report := r.apply(s)
	if got := text(report); got != "replace pen" || !strings.Contains(report.Changes[0].Detail, "does not answer") {
		t.Errorf("got %+v", report)
	}
	if now := r.pens()[s.Key]; now.pid == before.pid || dial(t, s.Port).ask() != "a" {
		t.Errorf("pens %v", r.pens())
	}
}

func TestRealStraysAreEnded(t *testing.T) {
	r := newRig(t, nil)
	s := udp(port(t), echo(t, "a"))
	r.apply(s)
	before := r.pens()[s.Key]
	other, err := New(r.config)
	if err != nil {
		t.Fatal(err)
	}
	if other.user, err = findIdentity(r.config.User); err != nil {
		t.Fatal(err)
	}
	w := wanted{service: s, command: command{key: s.Key, bind: r.config.BindAddress, flows: 99}}
	stray, err := other.start(t.Context(), w.command)
	if err != nil {
		t.Fatal(err)
	}
	gone := udp(port(t), echo(t, "b"))
	w.command.key = gone.Key
	second, err := other.start(t.Context(), w.command)
	if err != nil {
		t.Fatal(err)
	}
	r.driver.Resync()
	if got := text(r.apply(s)); got != "stop pen, stop pen" {
		t.Errorf("got %s", got)
	}
	<-stray.done
	<-second.done
	if now := r.pens(); len(now) != 1 || now[s.Key] != before {
		t.Errorf("pens %v, want %v", now, before)
	}
}

func TestRealDeadPenIsBackAndPassesAreAskedFor(t *testing.T) {
	r := newRig(t, nil)
	s := tcp(port(t), echo(t, "a"))
	r.apply(s)
	ctx, stop := context.WithCancel(t.Context())
	woken, ended := make(chan struct{}, 10), make(chan error)
	go func() { ended <- r.driver.Run(ctx, func() { woken <- struct{}{} }) }()
	before := r.pens()[s.Key]
	if err := syscall.Kill(before.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-woken
	report := r.apply(s)
	if got := text(report); got != "start pen" || !strings.Contains(report.Changes[0].Detail, "signal: killed") {
		t.Errorf("got %+v", report)
	}
	if now := r.pens()[s.Key]; now.pid == 0 || now.pid == before.pid {
		t.Errorf("pen %v", now)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestRealTakenPortIsNamed(t *testing.T) {
	r := newRig(t, nil)
	s, good := udp(port(t), echo(t, "a")), udp(port(t), echo(t, "a"))
	thief, err := net.ListenPacket("udp4", fmt.Sprintf("127.0.0.1:%d", s.Port))
	if err != nil {
		t.Fatal(err)
	}
	report, err := r.driver.Apply(t.Context(), []catalog.Service{s, good})
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("start pen, problem: port %s is taken by pen.test (pid %d); end that, or give the service another port", s.Key, os.Getpid())
	if got := text(report); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := dial(t, good.Port).ask(); got != "a" {
		t.Errorf("the other service: %s", got)
	}
	_ = thief.Close()
	for r.pens()[s.Key].pid == 0 {
		wait := <-r.driver.alarm
		r.driver.now = func() time.Time { return time.Now().Add(wait + time.Hour) }
		if report, err = r.driver.Apply(t.Context(), []catalog.Service{s, good}); err != nil {
			t.Fatal(err)
		}
	}
	if got := text(report); got != "start pen" || dial(t, s.Port).ask() != "a" {
		t.Errorf("free again: %s", got)
	}
}

func TestRealPenRunsAsItsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	for user, uid := range map[string]int{"nobody": 65534, "root": 0} {
		r := newRig(t, func(c *Config) { c.User = user })
		s := udp(port(t), echo(t, "a"))
		r.apply(s)
		if got := r.pens()[s.Key]; got.uid != uid || dial(t, s.Port).ask() != "a" {
			t.Errorf("--pen-user %s: runs as %d", user, got.uid)
		}
	}
	r := newRig(t, func(c *Config) { c.User = "no-such-user" })
	report := r.apply(udp(port(t), echo(t, "a")))
	if got := text(report); !strings.HasPrefix(got, "start pen, problem: pen runs as nobody, since the user no-such-user does not exist") {
		t.Errorf("got %s", got)
	}
}

// The kernel gives no datagram to a second pen of another user, so the first must go before.
func TestRealPenOfAnotherUserIsReplaced(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	r := newRig(t, func(c *Config) { c.User = "root" })
	s := udp(port(t), echo(t, "a"))
	r.apply(s)
	r.config.User = "nobody"
	r.restart()
	if got := text(r.apply(s)); got != "replace pen" || r.pens()[s.Key].uid != 65534 || dial(t, s.Port).ask() != "a" {
		t.Errorf("got %s, %v", got, r.pens())
	}
}

func TestRealLogIsBounded(t *testing.T) {
	r := newRig(t, nil)
	a, b := echo(t, "a"), echo(t, "b")
	s := udp(port(t), a)
	r.apply(s)
	if err := os.WriteFile(r.driver.files.log(s.Key), make([]byte, 2*maxLog), 0o644); err != nil {
		t.Fatal(err)
	}
	r.apply(udp(s.Port, b))
	if info, err := os.Stat(r.driver.files.log(s.Key)); err != nil || info.Size() > 4096 {
		t.Errorf("log of %d bytes (%v)", info.Size(), err)
	}
}

func TestRealDrainedTCPServiceWaitsForItsConnections(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Drain = time.Minute })
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := tcp(port(t), netip.MustParseAddrPort(l.Addr().String()))
	r.apply(s)
	c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", s.Port))
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	pid := r.pens()[s.Key].pid
	closed := make(chan error)
	go func() { closed <- r.driver.Close(context.Background(), true) }()
	for range 50 { // through the connection as long as that takes; pen would be gone long before
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.Close()
	_ = server.Close()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := host.WaitExit(t.Context(), pid); err != nil || len(r.pens()) > 0 {
		t.Errorf("left: %v (%v)", r.pens(), err)
	}
}
