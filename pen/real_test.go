package pen

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

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

func TestRealRunningTellsWhatIsServed(t *testing.T) {
	r := newRig(t, nil)
	ports := []uint16{port(t), port(t)}
	a, b := echo(t, "a"), echo(t, "b")
	r.apply(udp(ports[0], a, b), udp(ports[1], a))
	r.apply(udp(ports[0], b), udp(ports[1]))
	want := catalog.Places{}
	want.Add(catalog.Key{Port: ports[0], Proto: catalog.UDP}, b)
	want[catalog.Key{Port: ports[1], Proto: catalog.UDP}] = map[netip.AddrPort]bool{}
	if got, err := r.driver.Running(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
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
	report, err := r.driver.Apply(t.Context(), []*catalog.Service{s})
	if got := text(report); err != nil || !strings.HasPrefix(got, "problem: its control socket does not answer servers") {
		t.Errorf("a host can stand still for a second: got %s (%v)", got, err)
	}
	<-r.driver.alarm
	report = r.apply(s)
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
	stray, err := other.start(w.command)
	if err != nil {
		t.Fatal(err)
	}
	gone := udp(port(t), echo(t, "b"))
	w.command.key = gone.Key
	second, err := other.start(w.command)
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
	report, err := r.driver.Apply(t.Context(), []*catalog.Service{s, good})
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
		if report, err = r.driver.Apply(t.Context(), []*catalog.Service{s, good}); err != nil {
			t.Fatal(err)
		}
	}
	if got := text(report); got != "start pen" || dial(t, s.Port).ask() != "a" {
		t.Errorf("free again: %s", got)
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
	if _, err := c.Write([]byte("x")); err != nil { // pen counts a connection when it has seen that the server took it
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); err != nil {
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

// The last service may go while nobody looks.
func TestRealPensAreEndedWhenNothingIsWanted(t *testing.T) {
	r := newRig(t, nil)
	r.apply(udp(port(t), echo(t, "a")))
	r.restart()
	if got := text(r.apply()); got != "stop pen" || len(r.pens()) > 0 || len(r.files()) > 0 {
		t.Errorf("got %s, left %v %v", got, r.pens(), r.files())
	}
}

// pen calls the address of a slot that was never filled unknown.
func TestRealPenIsReplacedByOneWithTheSameGaps(t *testing.T) {
	r := newRig(t, nil)
	a, b := echo(t, "a"), echo(t, "b")
	s := udp(port(t), a, b)
	r.apply(s)
	first := udp(s.Port, b)
	if slots := r.table(s.Key).slots; slots[1] == b {
		first = udp(s.Port, a)
	}
	r.apply(first)
	r.config.Clients = 300
	r.restart()
	if got := text(r.apply(first)); got != "replace pen" {
		t.Errorf("got %s", got)
	}
	if got := r.table(s.Key); len(got.slots) != 1 || got.slots[2] != first.Servers[0].Addr {
		t.Errorf("table %v", got)
	}
	r.tell(s.Key, "server 9 address 127.0.0.9 port 9")
	if got := text(r.apply(first)); got != "remove server 127.0.0.9:9" {
		t.Errorf("after a slot far behind the others was filled: %s", got)
	}
}

// Somebody else has emptied the slot, or we died between telling pen and moving the flows: nothing is to do but that.
func TestRealFlowsThatWereLeftBehindAreMoved(t *testing.T) {
	r := newRig(t, nil)
	a, b := echo(t, "a"), echo(t, "b")
	s := udp(port(t), a, b)
	r.apply(s)
	f := dial(t, s.Port)
	gone, stays, name := a, b, f.ask()
	if name == "b" {
		gone, stays = b, a
	}
	for i, addr := range r.table(s.Key).slots {
		if addr == gone {
			r.tell(s.Key, fmt.Sprintf("server %d address 0.0.0.0 port 0", i))
		}
	}
	if got := text(r.apply(udp(s.Port, stays))); got != "" {
		t.Errorf("got %s", got)
	}
	if now := f.ask(); now == name || now == "nobody" {
		t.Errorf("a flow to the removed %s is answered by %s", name, now)
	}
}
