package reconcile

import (
	"context"
	"log/slog"
	"slices"
	"testing"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// still is a driver that has nothing to do.
type still struct{}

func (still) Name() string { return "still" }

func (still) Plan(context.Context, []*catalog.Service) (catalog.Report, error) {
	return catalog.Report{}, nil
}

func (still) Apply(context.Context, []*catalog.Service) (catalog.Report, error) {
	return catalog.Report{}, nil
}

func (still) Resync() {}

func (still) Run(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }

// BenchmarkChange5000 is what the loop itself takes for a change of one of 5,000 services.
func BenchmarkChange5000(b *testing.B) {
	l := New(Config{Sources: []Source{newSource("a")}, Drivers: []Driver{still{}}, Log: slog.New(slog.DiscardHandler)})
	snap := read()
	snap.Source = "a"
	for port := range uint16(5000) {
		snap.Services = append(snap.Services, service("s", port+1, 5))
	}
	others := [2]catalog.Snapshot{snap, snap}
	others[1].Services = slices.Clone(snap.Services)
	others[1].Services[2500] = service("s", 2501, 6)
	for i := 0; b.Loop(); i++ {
		l.take(others[i&1])
		l.work(b.Context())
	}
	if n := len(l.Pass().Want); n != len(snap.Services) {
		b.Fatalf("%d services are wanted", n)
	}
}
