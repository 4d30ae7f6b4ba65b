package haproxy

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// picky is a HAProxy that refuses services of mode http.
type picky struct {
	*sim
	says   func(text string) string // what it says to a text that it refuses
	checks int                      // how often it was asked
}

// names gives words that name the line.
func (p *picky) names(text string) string {
	before, _, _ := strings.Cut(text, "mode http")
	return "[ALERT]    (1) : config : parsing [haproxy.cfg:" + strconv.Itoa(strings.Count(before, "\n")+1) + "] : no mode http here"
}

func (p *picky) check(_ context.Context, path string) error {
	p.checks++
	text, err := os.ReadFile(path)
	if err == nil && strings.Contains(string(text), "mode http") {
		return &refusedError{"haproxy refuses " + path, p.says(string(text))}
	}
	return err
}

func (p *picky) reload(ctx context.Context) error {
	if err := p.check(ctx, p.file); err != nil {
		p.loads++
		p.why = err
		return err
	}
	return p.sim.reload(ctx)
}

// pickySim gives a driver of such a HAProxy, which runs the services.
func pickySim(t *testing.T, change func(*Config), want ...*catalog.Service) (*picky, *Driver) {
	t.Helper()
	dir := t.TempDir()
	config := Config{ConfigFile: filepath.Join(dir, "haproxy.cfg"), Start: Managed, Reload: Managed, Socket: "/run/s", RunDir: dir,
		BindAddress: netip.MustParseAddr("127.0.0.1"), MaxConnections: 100, Drain: time.Minute, ReleaseAfter: time.Hour}
	if change != nil {
		change(&config)
	}
	s, d, err := newSim(config)
	if err != nil {
		t.Fatal(err)
	}
	p := &picky{sim: s}
	p.says = p.names
	d.process, d.check = p, p.check
	if _, err := d.Apply(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	return p, d
}

// A service that was removed, and comes back as HAProxy refuses it, serves nobody: it holds nobody else up.
func TestRefusedServiceThatWasRemovedBlocksNobody(t *testing.T) {
	a := addrs("10.0.0.1:1")[0]
	for name, gap := range map[string]time.Duration{"loaded at once": 0, "loaded later": time.Minute} {
		t.Run(name, func(t *testing.T) {
			p, d := pickySim(t, func(c *Config) { c.ReloadInterval = gap }, service(80, a), service(81, a))
			if _, err := d.Apply(t.Context(), []*catalog.Service{service(80, a)}); err != nil {
				t.Fatal(err)
			}
			if err := d.file.flush(); err != nil { // its section goes
				t.Fatal(err)
			}
			want := []*catalog.Service{service(80, a), httpService(service(81, a)), service(82, a)}
			for range 2 {
				r, err := d.Apply(t.Context(), want)
				if err != nil {
					t.Fatalf("%v, problems %+v", err, r.Problems)
				}
				p.pass(2 * time.Minute)
			}
			if p.worker.listens(81) || !p.worker.listens(82) || !p.worker.listens(80) || d.refused[want[1].Key] == nil {
				t.Errorf("serves 80 %t, 81 %t, 82 %t, want all but 81", p.worker.listens(80), p.worker.listens(81), p.worker.listens(82))
			}
		})
	}
}

// One that serves is not taken away, and the same one is named each time.
func TestRefusedServicesThatServeAreToldInOrder(t *testing.T) {
	a := addrs("10.0.0.1:1")[0]
	want := []*catalog.Service{service(80, a), service(81, a), service(82, a), service(83, a)}
	p, d := pickySim(t, nil, want...)
	if err := os.WriteFile(d.config.ConfigFile, []byte("# somebody else's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want = slices.Clone(want)
	for i := range want[:3] {
		want[i] = httpService(want[i])
	}
	p.says = func(string) string {
		return "[ALERT] 's80.test-80/x', no\n[ALERT] 's81.test-81/x', no\n[ALERT] 's82.test-82/x', no"
	}
	for range 5 {
		_, err := d.Apply(t.Context(), append(want, service(84, a)))
		if err == nil || !strings.Contains(err.Error(), want[0].Title()+", which runs, is refused, and haproxy.cfg does not tell") {
			t.Fatalf("error %v, want one about %s", err, want[0].Title())
		}
		p.pass(2 * time.Minute)
	}
}

// Only HAProxy's refusal is a service's fault. What else stops the search stops it; those that were found are left out.
func TestOnlyARefusalBlames(t *testing.T) {
	a := addrs("10.0.0.1:1")[0]
	all := []*catalog.Service{service(80, a), httpService(service(81, a)), service(82, a), service(83, a)}
	for name, c := range map[string]struct {
		checks  int // until haproxy cannot be asked any more
		refused int
	}{
		"in the first half": {2, 0},  // refused, and without suspects accepted
		"in the second":     {4, 1},  // and refused with all, and with 81
		"never":             {99, 1}, // as it should be
	} {
		t.Run(name, func(t *testing.T) {
			p, d := pickySim(t, nil, all[0])
			p.says = func(string) string { return "[ALERT] something is wrong" }
			asked := 0
			d.check = func(ctx context.Context, path string) error {
				if asked++; asked > c.checks {
					return context.Canceled
				}
				return p.check(ctx, path)
			}
			if _, err := d.Apply(t.Context(), all); (err == nil) != (c.checks == 99) {
				t.Errorf("error %v", err)
			}
			if len(d.refused) != c.refused || len(d.refused) > 0 && d.refused[all[1].Key] == nil {
				t.Errorf("refused %v after %d checks, want %d services", d.refused, asked, c.refused)
			}
		})
	}
}

// A search that takes too long ends, and what was found counts at the next load.
func TestSearchForRefusedServicesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := addrs("10.0.0.1:1")[0]
		want := []*catalog.Service{service(80, a)}
		p, d := pickySim(t, nil, want...)
		p.says = func(string) string { return "[ALERT] something is wrong" }
		d.check = func(ctx context.Context, path string) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(7 * time.Second):
				return p.check(ctx, path)
			}
		}
		for port := range uint16(16) {
			want = append(want, service(81+port, a))
		}
		want[3] = httpService(want[3])
		began := time.Now()
		_, err := d.Apply(t.Context(), want)
		if took := time.Since(began); took > mostAsking || !errors.Is(err, context.DeadlineExceeded) || len(d.refused) != 0 {
			t.Errorf("after %s: %v, refused %v", took, err, d.refused)
		}
	})
}

// A trial only asks haproxy: nothing has to be looked at again when it is refused.
func TestRefusedTrialDisturbsNothing(t *testing.T) {
	a := addrs("10.0.0.1:1")[0]
	p, d := pickySim(t, nil, service(80, a))
	want := []*catalog.Service{service(80, a), httpService(service(81, a))}
	for range 2 {
		if _, err := d.Apply(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		d.rechecks = 0
		d.resync.Store(false)
		p.pass(refusedFirst)
	}
	if q := d.refused[want[1].Key]; q == nil || q.delay != 2*refusedFirst {
		t.Fatalf("refused %+v, want that it was tried again", q)
	}
	d.refused[want[1].Key].until = p.now()
	if _, err := d.Apply(t.Context(), want); err != nil || d.rechecks != 0 || d.resync.Load() {
		t.Errorf("%v, %d rechecks, resync %t", err, d.rechecks, d.resync.Load())
	}
}
