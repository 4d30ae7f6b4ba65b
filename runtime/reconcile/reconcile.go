// Package reconcile has the loop between sources and drivers: it takes the sources' snapshots, decides what this host
// should offer, hands that to each driver, and publishes what came of it as a Pass.
package reconcile

import (
	"context"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// Source knows where services are.
type Source interface {
	// Name is the source's name in logs, status, Service.Source and Snapshot.Source, such as "marathon".
	Name() string
	// Read reads everything once: no stream, no subscription, nothing left behind.
	Read(ctx context.Context) (catalog.Snapshot, error)
	// Run sends a whole snapshot when something may have changed, and when the source begins or ceases to fail,
	// until ctx ends. A failing source sends its last services again with Err; before its first success it sends
	// a snapshot with Err and a zero Succeeded. Run retries for ever and returns only when ctx ends.
	Run(ctx context.Context, out chan<- catalog.Snapshot) error
}

// Driver makes one kind of proxy offer services. It takes the services that are meant for it and ignores the rest.
// Plan, Apply and Resync are called by one goroutine, never at the same time.
type Driver interface {
	// Name is the driver's name in logs and status, such as "haproxy".
	Name() string
	// Plan observes the proxy and tells what Apply would do now. It touches nothing.
	Plan(ctx context.Context, want []*catalog.Service) (catalog.Report, error)
	// Apply makes the proxy offer what is wanted, and proves it by reading back. An error means that it must be
	// called again; what could be done was done all the same.
	Apply(ctx context.Context, want []*catalog.Service) (catalog.Report, error)
	// Resync makes the next Plan or Apply observe everything, not only what changed.
	Resync()
	// Run looks after the driver's processes and files until ctx ends, then leaves everything written. It calls wake
	// when another pass is needed. It never waits for Plan or Apply; ctx ends only after the last Apply has returned.
	Run(ctx context.Context, wake func()) error
}
