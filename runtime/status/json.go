package status

import (
	"time"

	"github.com/meltwater/proxymatic/runtime/reconcile"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// ServicesJSON is the answer of /api/v1/services, in the shape of `proxymatic services --output json`.
type ServicesJSON struct {
	Services []catalog.ServiceJSON `json:"services"` // sorted by port and protocol
	Problems []catalog.Problem     `json:"problems"`
}

// StatusJSON is the answer of /api/v1/status. Times are null when the thing never happened; durations are in seconds.
type StatusJSON struct {
	State    string             `json:"state"`     // what /status says: OK, INITIALIZING or TERMINATING
	NotReady []string           `json:"not_ready"` // why /readyz answers 503; empty when it answers 200
	Version  string             `json:"version"`
	Commit   string             `json:"commit,omitempty"`
	Pass     PassJSON           `json:"pass"`
	Wanted   CountJSON          `json:"wanted"`
	Sources  []SourceJSON       `json:"sources"`
	Drivers  []DriverJSON       `json:"drivers"`
	Reloads  []reconcile.Reload `json:"reloads"` // the last 100, oldest first
	Problems []catalog.Problem  `json:"problems"`
}

// PassJSON is the latest pass of the loop.
type PassJSON struct {
	At              *time.Time `json:"at"`
	DurationSeconds float64    `json:"duration_seconds"`
	Count           int        `json:"count"` // passes since the start
}

// CountJSON is how much this host should offer.
type CountJSON struct {
	Services int `json:"services"`
	Servers  int `json:"servers"`
}

// SourceJSON is how one source fares.
type SourceJSON struct {
	Name        string     `json:"name"`
	Up          bool       `json:"up"` // it was read, and can be read now
	LastSuccess *time.Time `json:"last_success"`
	LastHeard   *time.Time `json:"last_heard"`
	LastEvent   *time.Time `json:"last_event"`
	AgeSeconds  *float64   `json:"age_seconds"` // since the last success
	Error       string     `json:"error,omitempty"`
	Services    int        `json:"services"` // that count of it: those of the last good answer, and what is held
	Servers     int        `json:"servers"`
	Held        int        `json:"held"` // servers among them that it does not tell of any more, though nothing said that they ended
}

// DriverJSON is how one driver fares.
type DriverJSON struct {
	Name          string            `json:"name"`
	Up            bool              `json:"up"`      // its latest pass succeeded
	Applied       bool              `json:"applied"` // a pass succeeded at least once
	LastSuccess   *time.Time        `json:"last_success"`
	Error         string            `json:"error,omitempty"`
	Reloads       int               `json:"reloads"` // since the start, as all three
	DriftRepaired int               `json:"drift_repaired"`
	Changes       map[string]int    `json:"changes"` // by action
	LastChanges   []catalog.Change  `json:"last_changes"`
	Problems      []catalog.Problem `json:"problems"` // services that it left out
	Facts         []catalog.Fact    `json:"facts"`    // its proxy's version, process and the like
}

// ChangesJSON is the answer of /api/v1/changes.
type ChangesJSON struct {
	Changes []reconcile.AppliedChange `json:"changes"` // the last 1000, oldest first
}

func servicesJSON(pass *reconcile.Pass) ServicesJSON {
	return ServicesJSON{Services: catalog.ListJSON(pass.Want), Problems: list(pass.Problems)}
}

func statusJSON(pass *reconcile.Pass, state string, cfg Config, now time.Time) StatusJSON {
	j := StatusJSON{
		State:    state,
		NotReady: notReady(pass, state),
		Version:  cfg.Version,
		Commit:   cfg.Commit,
		Pass:     PassJSON{At: moment(pass.At), DurationSeconds: pass.Took.Seconds(), Count: pass.Passes},
		Wanted:   CountJSON{Services: len(pass.Want), Servers: catalog.CountServers(pass.Want)},
		Sources:  []SourceJSON{},
		Drivers:  []DriverJSON{},
		Reloads:  list(pass.Reloads),
		Problems: list(pass.Problems),
	}
	for _, s := range pass.Sources {
		j.Sources = append(j.Sources, sourceJSON(s, now))
	}
	for _, d := range pass.Drivers {
		j.Drivers = append(j.Drivers, driverJSON(d))
	}
	return j
}

func sourceJSON(s reconcile.SourceState, now time.Time) SourceJSON {
	j := SourceJSON{Name: s.Name, Up: sourceUp(s), LastSuccess: moment(s.Succeeded), LastHeard: moment(s.Heard),
		LastEvent: moment(s.Event), Error: s.Err, Services: len(s.Services), Servers: catalog.CountServers(s.Services), Held: s.Held}
	if !s.Succeeded.IsZero() {
		age := now.Sub(s.Succeeded).Seconds()
		j.AgeSeconds = &age
	}
	return j
}

func driverJSON(d reconcile.DriverState) DriverJSON {
	changes := d.Changes
	if changes == nil {
		changes = map[string]int{}
	}
	return DriverJSON{Name: d.Name, Up: driverUp(d), Applied: d.Applied, LastSuccess: moment(d.Succeeded), Error: d.Err,
		Reloads: d.Reloads, DriftRepaired: d.Drift, Changes: changes,
		LastChanges: list(d.Report.Changes), Problems: list(d.Report.Problems), Facts: list(d.Report.Facts)}
}

func sourceUp(s reconcile.SourceState) bool { return s.Err == "" && !s.Succeeded.IsZero() }

func driverUp(d reconcile.DriverState) bool { return d.Err == "" && d.Applied }

// moment is null for the time of something that never happened.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// list is never null: programs iterate over it.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
