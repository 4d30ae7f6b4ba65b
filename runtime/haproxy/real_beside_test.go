package haproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// What the checks of the other HAProxy have found out is not forgotten when ours takes over.
func TestRealFailedChecksAreTakenOver(t *testing.T) {
	rare := func(c *Config) { c.TemplateFile = writeTemplate(t, "", " inter 60s") } // what a server is, ours was told
	old := newRig(t, rare)
	live, dead := backend(t, "one"), backend(t, "two")
	if dead.Compare(live) < 0 {
		live, dead = dead, live // a new process checks the first server at once, the second after half of its interval
	}
	s := service(freePorts(t, 1)[0], live, dead)
	for i := range s.Servers {
		s.Servers[i].Check = true
	}
	want := []*catalog.Service{s}
	old.apply(want)
	name := dead.String() + ":c"
	if _, err := old.driver.cli.do(t.Context(), []string{"set server " + listenName(s) + "/" + name + " health down"}); err != nil {
		t.Fatal(err)
	}
	serving, err := old.driver.Serving(t.Context())
	if err != nil || len(serving.Down) != 1 || serving.Down[0].Service != s.Key || !slices.Equal(serving.Down[0].Servers, []string{name}) {
		t.Fatalf("serving %+v, %v, want %s to be down", serving, err, name)
	}
	ours := newRig(t, func(c *Config) {
		rare(c)
		c.Beside = &Beside{Socket: old.config.Socket, Listens: serving.Listens, Down: serving.Down}
	})
	ours.apply(want)
	have, err := ours.driver.observe(t.Context(), looking{load: ours.driver.store.load})
	if err != nil {
		t.Fatal(err)
	}
	servers := have.servers[listenName(s)]
	if servers[name].up || !servers[live.String()+":c"].up {
		t.Errorf("the servers are %+v, want only the live one up", servers)
	}
}

// An end that is given up has closed the ports, and leaves the connections to HAProxy.
func TestRealCancelledCloseCutsNothing(t *testing.T) {
	h := newRig(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := service(freePorts(t, 1)[0], netip.MustParseAddrPort(l.Addr().String()))
	h.apply([]*catalog.Service{s})
	address := netip.AddrPortFrom(h.config.BindAddress, s.Port).String()
	client, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := io.WriteString(client, "x"); err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	closed := make(chan error, 1)
	go func() { closed <- h.driver.Close(ctx, true) }()
	for !errors.Is(err, syscall.ECONNREFUSED) { // until the port is closed
		var conn net.Conn
		if conn, err = net.Dial("tcp", address); err == nil {
			conn.Close()
		}
	}
	cancel()
	if err := <-closed; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
	if _, err := io.WriteString(server, "y"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
		t.Errorf("the connection was cut: %v", err)
	}
}

// A driver whose run was interrupted watches the worker that it knows.
func TestRealRunAgain(t *testing.T) {
	h := newRig(t, nil)
	run := func() (woken chan struct{}, stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		woken = make(chan struct{}, 1)
		var group sync.WaitGroup
		group.Go(func() {
			_ = h.driver.Run(ctx, func() {
				select {
				case woken <- struct{}{}:
				default:
				}
			})
		})
		return woken, func() { cancel(); group.Wait() }
	}
	_, stop := run()
	h.apply([]*catalog.Service{service(freePorts(t, 1)[0], backend(t, "a"))})
	for len(h.driver.worker) > 0 { // until Run has taken it
		runtime.Gosched()
	}
	stop()
	for len(h.driver.alarm) > 0 {
		<-h.driver.alarm // which would wake up too
	}
	woken, stop := run()
	defer stop()
	h.kill()
	select {
	case <-woken:
	case <-t.Context().Done():
		t.Error("the death of the worker went unnoticed")
	}
}

func TestRealRunningTellsWhatIsServed(t *testing.T) {
	h := newRig(t, nil)
	if got, err := h.driver.Running(t.Context()); err != nil || len(got) > 0 {
		t.Errorf("before the start %v, %v, want nothing", got, err)
	}
	p := freePorts(t, 2)
	one, two := backend(t, "one"), backend(t, "two")
	h.apply([]*catalog.Service{service(p[0], one, two), service(p[1], one)})
	h.apply([]*catalog.Service{service(p[0], two), service(p[1])})
	want := catalog.Places{}
	want.Add(service(p[0]).Key, two)
	want[service(p[1]).Key] = map[netip.AddrPort]bool{}
	got, err := h.driver.Running(t.Context())
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); err != nil || diff != "" {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
}
