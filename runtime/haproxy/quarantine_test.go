package haproxy

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
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
