package reconcile

import (
	"cmp"
	"slices"
	"time"

	"github.com/meltwater/proxymatic/runtime/policy"
	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	keptChanges = 1000
	keptReloads = 100

	// actionReload is the Action of a change that loads the proxy anew.
	actionReload = "reload"
)

// Pass is what the loop knows after a pass: what is wanted, where that comes from, and what became of it. It is never
// changed once published, so that anybody may read it at any time.
type Pass struct {
	At       time.Time          // when it ended; zero before anything happened
	Applied  bool               // every driver has applied a pass without an error at least once
	Want     []*catalog.Service // what this host should offer, in canonical order
	Problems []catalog.Problem  // of sources, policy and drivers, sorted, each once
	Sources  []SourceState      // in the order of the configuration
	Drivers  []DriverState      // in the order of Config.Drivers

	Passes  int             // made since the start
	Took    time.Duration   // the last of them
	Changes []AppliedChange // the last 1000, oldest first
	Reloads []Reload        // the last 100, oldest first
}

// SourceState is how one source fares.
type SourceState struct {
	Name      string
	Priority  int
	Succeeded time.Time          // when its services were read; zero if never
	Heard     time.Time          // when it last gave any sign of life
	Event     time.Time          // when it last told of something by itself; zero if never
	Err       string             // why it cannot be read now; empty when it can
	Services  []*catalog.Service // that count of it: those of its last good answer, and what is held
	Held      int                // servers among them that it does not tell of any more
}

// DriverState is how one driver fares.
type DriverState struct {
	Name      string
	Report    catalog.Report // of its latest pass, or its plan in what Loop.Plan returns
	Err       string         // why its latest pass failed; empty when it did not
	Applied   bool           // it has applied a pass without an error at least once
	Succeeded time.Time      // when it last did
	Reloads   int            // since the start
	Drift     int            // changes by somebody else that it repaired since the start
	Changes   map[string]int // changes since the start by their Action
}

// AppliedChange is a change that a driver made, in the shape that /api/v1/changes serves too.
type AppliedChange struct {
	At     time.Time `json:"at"` // when the pass that made it ended, in UTC
	Driver string    `json:"driver"`
	Drift  bool      `json:"drift"` // it repaired what somebody else had changed
	catalog.Change
}

// Reload is one time that a proxy was loaded anew, in the shape that /api/v1/status serves too.
type Reload struct {
	At      time.Time `json:"at"` // when it was done, in UTC
	Driver  string    `json:"driver"`
	Reasons []string  `json:"reasons"` // never nil
}

// history is what outlives a pass. Its slices are only appended to and cut at the front, so that a Pass can share them.
type history struct {
	passes  int
	took    time.Duration
	changes []AppliedChange
	reloads []Reload
}

func (h *history) add(now time.Time, driver string, report catalog.Report) {
	drift := setOf(report.Drift)
	for _, c := range report.Changes {
		h.changes = append(h.changes, AppliedChange{At: now.UTC(), Driver: driver, Drift: drift[c], Change: c})
	}
	h.changes = h.changes[max(0, len(h.changes)-keptChanges):]
	if countReloads(report) > 0 {
		at := report.Loaded
		if at.IsZero() {
			at = now
		}
		h.reloads = append(h.reloads, Reload{At: at.UTC(), Driver: driver, Reasons: append([]string{}, report.Reloads...)})
	}
	h.reloads = h.reloads[max(0, len(h.reloads)-keptReloads):]
}

// newPass is the loop's present state.
func (l *Loop) newPass(now time.Time) *Pass {
	states := make([]DriverState, 0, len(l.drivers))
	for _, d := range l.drivers {
		states = append(states, d.state)
	}
	return l.buildPass(now, l.decision, states)
}

func (l *Loop) buildPass(now time.Time, decision policy.Decision, drivers []DriverState) *Pass {
	return &Pass{
		At:       now,
		Applied:  l.history.passes > 0 && !slices.ContainsFunc(drivers, func(d DriverState) bool { return !d.Applied }),
		Want:     decision.Want,
		Problems: joinProblems(l.snapshots(), decision.Problems, drivers),
		Sources:  l.sourceStates(),
		Drivers:  drivers,
		Passes:   l.history.passes,
		Took:     l.history.took,
		Changes:  l.history.changes,
		Reloads:  l.history.reloads,
	}
}

func (l *Loop) sourceStates() []SourceState {
	states := make([]SourceState, 0, len(l.cfg.Sources))
	for _, source := range l.cfg.Sources {
		s := l.snaps[source.Name()]
		states = append(states, SourceState{Name: source.Name(), Priority: s.Priority, Succeeded: s.Succeeded, Heard: s.Heard, Event: s.Event, Err: s.Err,
			Services: l.weighedOf(source.Name()).kept.Services, Held: len(l.weighedOf(source.Name()).kept.Held)})
	}
	return states
}

// joinProblems gives everybody's problems in one order, each once: a policy may hand on what a source reported.
func joinProblems(snaps []catalog.Snapshot, decided []catalog.Problem, drivers []DriverState) []catalog.Problem {
	all := slices.Clone(decided)
	for _, s := range snaps {
		all = append(all, s.Problems...)
	}
	for _, d := range drivers {
		all = append(all, d.Report.Problems...)
	}
	slices.SortFunc(all, func(a, b catalog.Problem) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Reason, b.Reason))
	})
	return slices.Compact(all)
}

// countReloads is how often the proxy was loaded anew. Several reasons share one reload, so the changes count; a driver
// that gives reasons without such a change made one.
func countReloads(report catalog.Report) int {
	n := 0
	for _, c := range report.Changes {
		if c.Action == actionReload {
			n++
		}
	}
	if n == 0 && len(report.Reloads) > 0 {
		return 1
	}
	return n
}

func setOf[T comparable](list []T) map[T]bool {
	set := make(map[T]bool, len(list))
	for _, v := range list {
		set[v] = true
	}
	return set
}
