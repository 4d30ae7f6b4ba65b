package haproxy

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// What was taken out of service since the last pass is found by the end of a run, as at HUP, and the next driver leaves it alone. A start
// that asks what runs gets it too, whatever the sources are slow to tell.
func TestMaintenanceByHandOutlivesTheDriver(t *testing.T) {
	for name, admin := range map[string]int{"maintenance": adminMaint, "drain": adminDrain} {
		t.Run(name, func(t *testing.T) {
			a := addrs("10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3")
			p, d := pickySim(t, func(c *Config) { c.RespectMaint = true }, service(80, a...))
			want := []*catalog.Service{service(80, a[:2]...)}
			p.worker.proxies[0].servers[2].conns = 1 // stays in maintenance, which is not by hand
			if _, err := d.Apply(t.Context(), want); err != nil {
				t.Fatal(err)
			}
			byHand := p.worker.proxies[0].servers[0]
			byHand.admin = admin
			ended, end := context.WithCancel(t.Context())
			end()
			if err := d.Run(ended, func() {}); err != nil {
				t.Fatal(err)
			}
			next, err := p.driver(d.config)
			if err != nil {
				t.Fatal(err)
			}
			running, err := next.Running(t.Context())
			if got := slices.Collect(maps.Keys(running[want[0].Key])); err != nil || len(got) != 2 || !running[want[0].Key][a[0]] {
				t.Errorf("running %v, %v, want %v and %v", got, err, a[0], a[1])
			}
			r, err := next.Apply(t.Context(), want)
			if err != nil || byHand.admin != admin || !hasProblem(r, "s80.test-80/10.0.0.1:1", "by hand") {
				t.Errorf("%v, state %d, problems %+v, want that it is left alone", err, byHand.admin, r.Problems)
			}
		})
	}
}
