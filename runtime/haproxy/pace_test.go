package haproxy

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// paced gives a driver, with a long reload interval, that has just made a reload for its second service.
func paced(t *testing.T) (*sim, *Driver, []*catalog.Service) {
	t.Helper()
	dir := t.TempDir()
	s, d, err := newSim(Config{ConfigFile: filepath.Join(dir, "haproxy.cfg"), Start: Managed, Reload: Managed, Socket: "/run/s", RunDir: dir,
		BindAddress: netip.MustParseAddr("127.0.0.1"), MaxConnections: 100, Drain: time.Minute, ReloadInterval: 5 * time.Minute, ReleaseAfter: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	a := addrs("10.0.0.1:1")[0]
	want := []*catalog.Service{service(80, a), service(81, a)}
	for _, some := range [][]*catalog.Service{want[:1], want} {
		if _, err := d.Apply(t.Context(), some); err != nil {
			t.Fatal(err)
		}
		s.pass(5 * time.Minute)
	}
	if _, err := d.Apply(t.Context(), append(want, service(82, a))); err != nil || s.loads != 3 {
		t.Fatalf("%v, %d loads, want 3", err, s.loads)
	}
	return s, d, append(want, service(82, a))
}

// Reloads are spaced. A dead HAProxy is no reload: nobody is served until it is started.
func TestReloadIntervalDelaysNoStart(t *testing.T) {
	s, d, want := paced(t)
	s.pass(time.Second)
	s.worker = nil
	if _, err := d.Apply(t.Context(), want); err != nil || s.worker == nil {
		t.Fatalf("error %v, worker %v, want that it is started at once", err, s.worker)
	}
	s.pass(time.Second)
	s.worker = nil // soon after its start: with growing pauses
	for _, pause := range []time.Duration{0, firstDelay, 2 * firstDelay} {
		s.pass(pause)
		if _, err := d.Apply(t.Context(), want); err != nil || s.worker == nil {
			t.Fatalf("after %s: error %v, worker %v", pause, err, s.worker)
		}
		s.worker = nil
		if _, err := d.Apply(t.Context(), want); err == nil || s.worker != nil {
			t.Fatalf("after %s: error %v, worker %v, want a pause", pause, err, s.worker)
		}
	}
}

func TestReloadIntervalIsNotThePauseAfterAFailure(t *testing.T) {
	s, d, want := paced(t)
	s.pass(5 * time.Minute)
	want = append(want, service(83, addrs("10.0.0.1:1")[0]))
	s.armed = badConfig
	for len(d.alarm) > 0 {
		<-d.alarm
	}
	if _, err := d.Apply(t.Context(), want); err == nil {
		t.Fatal("a refused reload succeeded")
	}
	if pause := d.pace.notBefore.Sub(d.pace.failedAt); pause != firstDelay {
		t.Errorf("the next try comes after %s, want %s", pause, firstDelay)
	}
	s.worker = nil // the pause is the reload's
	if _, err := d.Apply(t.Context(), want); err != nil || s.worker == nil {
		t.Errorf("error %v, worker %v, want that it is started at once", err, s.worker)
	}
}
