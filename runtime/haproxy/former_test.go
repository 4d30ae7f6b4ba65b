package haproxy

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// unaware lets the worker that a load replaced answer every second time, as if it had not been told yet that it is to stop.
type unaware struct {
	*sim
	answers int // how many more
	turn    bool
}

func (u *unaware) do(ctx context.Context, commands []string) ([]string, error) {
	if u.turn = !u.turn; u.before == nil || u.answers == 0 || u.turn {
		return u.sim.do(ctx, commands)
	}
	u.answers--
	var answers []string
	for _, command := range commands {
		answers = append(answers, strings.TrimSpace(u.before.execute(command, &u.world, false)))
	}
	return answers, nil
}

// simulatedUnaware gives a driver whose one service is loaded.
func simulatedUnaware(t *testing.T, s *catalog.Service) (*unaware, *Driver) {
	t.Helper()
	dir := t.TempDir()
	sim, d, err := newSim(Config{ConfigFile: filepath.Join(dir, "haproxy.cfg"), Start: Managed, Reload: Managed, Socket: "/run/s", RunDir: dir,
		BindAddress: netip.MustParseAddr("127.0.0.1"), MaxConnections: 100, Drain: time.Minute, ReleaseAfter: time.Hour, RespectMaint: true})
	if err != nil {
		t.Fatal(err)
	}
	u := &unaware{sim: sim}
	d.cli = u
	if _, err := d.Apply(t.Context(), []*catalog.Service{s}); err != nil {
		t.Fatal(err)
	}
	return u, d
}

// What was known of servers reaches the process that serves, and the pass ends with it: it needs no second load.
func TestOldWorkerIsNotTakenForTheNewOne(t *testing.T) {
	a := addrs("10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3")
	s := service(80, a...)
	s.Servers[1].Check = true
	u, d := simulatedUnaware(t, s)
	proxy := u.worker.proxies[0]
	proxy.servers[0].admin, proxy.server(a[1].String()+":c").down = adminMaint, true
	d.Resync()
	u.answers = 20
	want := []*catalog.Service{s, service(81, a[0])}
	r, err := d.Apply(t.Context(), want)
	if err != nil || len(r.Reloads) != 1 || u.loads != 2 || d.last.pid != u.worker.pid || u.answers == 20 {
		t.Fatalf("%v, reloads %q, %d loads, process %d, want %d; %d old answers are left", err, r.Reloads, u.loads, d.last.pid, u.worker.pid, u.answers)
	}
	now := u.worker.proxies[0]
	if now.servers[0].admin&adminMaint == 0 || !now.server(a[1].String()+":c").down {
		t.Errorf("the new process has %+v, %+v", now.servers[0], now.server(a[1].String()+":c"))
	}
	r, err = d.Apply(t.Context(), []*catalog.Service{s, service(81, a[:2]...)})
	if err != nil || len(r.Reloads) != 0 || len(u.worker.proxies[1].servers) != 2 {
		t.Errorf("%v, reloads %q, servers %+v", err, r.Reloads, u.worker.proxies[1].servers)
	}
}

// Where the number is another process' by now, that one is heard at last.
func TestProcessWithTheNumberOfTheOldOneIsHeard(t *testing.T) {
	s := service(80, addrs("10.0.0.1:1")[0])
	u, d := simulatedUnaware(t, s)
	first := u.worker.pid
	want := []*catalog.Service{s, service(81, addrs("10.0.0.1:1")[0])}
	if _, err := d.Apply(t.Context(), want); err != nil || d.former != first {
		t.Fatalf("%v, replaced %d, want %d", err, d.former, first)
	}
	u.restart()
	u.worker.pid = first
	d.Resync()
	if _, err := d.Apply(t.Context(), want); err != nil || d.last.pid != first {
		t.Errorf("%v, process %d, want %d", err, d.last.pid, first)
	}
}
