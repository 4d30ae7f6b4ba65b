package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/meltwater/proxymatic/runtime/policy"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// driver is a Driver and what its passes came to.
type driver struct {
	Driver
	state    DriverState
	failures int       // retries that failed in a row
	retryAt  time.Time // when a failed pass is tried again; zero when it did not fail
}

// work makes one pass: decide, let the drivers apply it, publish. Before the first pass every source must have spoken;
// one that the configuration got later keeps nothing waiting, for what is served does not come from it.
func (l *Loop) work(ctx context.Context) {
	began := time.Now()
	silent := l.silent()
	if len(silent) == 0 {
		l.forget()
	}
	if len(silent) == 0 || l.history.passes > 0 {
		l.warnAt = time.Time{}
		l.decide()
		l.apply(ctx)
		l.history.passes++
		l.history.took = time.Since(began)
	}
	pass := l.newPass(time.Now())
	logProblems(l.cfg.Log, l.Pass().Problems, pass.Problems)
	l.latest.Store(pass)
	signal(l.passed)
}

// decide makes the decision, unless the last one is of the same lists. What that says of services that are the same now need not be
// thought of again.
func (l *Loop) decide() {
	var last policy.Decision
	snaps := l.snapshots()
	if l.decided != nil {
		if slices.EqualFunc(snaps, l.decided, decidedAlike) {
			return
		}
		last = l.decision
	}
	l.decision, l.decided = l.cfg.Policy.Next(last, snaps), snaps
}

// decidedAlike reports whether two snapshots are the same to a policy.
func decidedAlike(a, b catalog.Snapshot) bool {
	return a.Source == b.Source && a.Priority == b.Priority && catalog.SameList(a.Services, b.Services)
}

// apply lets the drivers apply the decision at the same time: one that must wait for its proxy costs the others nothing. Then it
// keeps and logs what came of it.
func (l *Loop) apply(ctx context.Context) {
	if ctx.Err() != nil {
		return // stopping: untouched drivers are better than interrupted ones
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyLimit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(stopGrace, cancel) }) // what has begun, a reload say, is finished
	defer stop()
	reports, errs := make([]catalog.Report, len(l.drivers)), make([]error, len(l.drivers))
	apply := func(i int) { reports[i], errs[i] = l.drivers[i].Apply(limited, l.decision.Want) }
	var group sync.WaitGroup
	for i := range l.drivers {
		if i > 0 {
			group.Go(func() { apply(i) })
		}
	}
	if len(l.drivers) > 0 {
		apply(0) // here, since another thread would have to wake up first
	}
	group.Wait()
	for i := range l.drivers {
		l.keepReport(ctx, &l.drivers[i], reports[i], errs[i])
	}
}

// keepReport keeps and logs what a driver did.
func (l *Loop) keepReport(ctx context.Context, d *driver, report catalog.Report, err error) {
	now := time.Now()
	l.history.add(now, d.state.Name, report)
	logReport(l.cfg.Log, d.state.Name, report)
	if err != nil && ctx.Err() != nil {
		return // interrupted because we stop, which is nobody's failure
	}
	old := d.state
	d.state = old.after(now, report, err)
	d.retry(now, err)
	logDriver(l.cfg.Log, old, d.state)
}

// retry sets when a failed pass is tried again. Passes that are made earlier for another reason do not lengthen the
// pause, or a busy source could starve the retries.
func (d *driver) retry(now time.Time, err error) {
	switch {
	case err == nil:
		d.failures, d.retryAt = 0, time.Time{}
		return
	case d.retryAt.IsZero() || !now.Before(d.retryAt):
		d.retryAt = now.Add(backoff(d.failures, rand.Float64()))
		d.failures++
	}
	d.Resync()
}

// after is the state that follows a pass.
func (s DriverState) after(now time.Time, report catalog.Report, err error) DriverState {
	s.Reloads += countReloads(report)
	s.Drift += len(report.Drift)
	s.Changes = maps.Clone(s.Changes) // published states share the old one
	for _, c := range report.Changes {
		if s.Changes == nil {
			s.Changes = map[string]int{}
		}
		s.Changes[c.Action]++
	}
	if err != nil { // a pass that failed early has not looked at everything: what was known stays known
		s.Err = err.Error()
		if len(report.Problems) == 0 {
			report.Problems = s.Report.Problems
		}
		if len(report.Facts) == 0 {
			report.Facts = s.Report.Facts
		}
	} else {
		s.Err, s.Applied, s.Succeeded = "", true, now
	}
	s.Report = report
	return s
}

// plan asks every driver what it would do. It ends with either context.
func (l *Loop) plan(loop, caller context.Context) planReply {
	if silent := l.silent(); len(silent) > 0 && l.history.passes == 0 {
		return planReply{err: fmt.Errorf("plan: source %s was never read: %s", silent[0].Name, silent[0].Err)}
	}
	ctx, cancel := context.WithTimeout(caller, applyLimit)
	defer cancel()
	defer context.AfterFunc(loop, cancel)()
	decision := l.cfg.Policy.Decide(l.snapshots())
	var states []DriverState
	var errs []error
	for _, d := range l.drivers {
		report, err := d.Plan(ctx, decision.Want)
		state := d.state
		state.Report, state.Err = report, ""
		if err != nil {
			state.Err = err.Error()
			errs = append(errs, fmt.Errorf("plan of driver %s: %w", state.Name, err))
		}
		states = append(states, state)
	}
	pass := l.buildPass(time.Now(), decision, states)
	return planReply{pass: pass, err: errors.Join(errs...)}
}

// snapshots gives the latest of each source, in the order of their names, with the services that count.
func (l *Loop) snapshots() []catalog.Snapshot {
	out := make([]catalog.Snapshot, 0, len(l.snaps))
	for _, name := range slices.Sorted(maps.Keys(l.snaps)) {
		s, w := l.snaps[name], l.weighedOf(name)
		s.Services = w.services
		s.Problems = slices.Concat(s.Problems, l.cfg.Guard.Problems(w.kept, name), w.damper.Problems(name))
		out = append(out, s)
	}
	return out
}

// forget drops the snapshots of sources that the configuration has no more. Until then they count: a source that came
// in their place may not have spoken yet.
func (l *Loop) forget() {
	for name := range l.snaps {
		if !slices.ContainsFunc(l.cfg.Sources, func(s Source) bool { return s.Name() == name }) {
			delete(l.snaps, name)
			delete(l.weighed, name)
		}
	}
}

// silent gives the sources that could never be read, with the reason.
func (l *Loop) silent() []SourceState {
	var out []SourceState
	for _, s := range l.sourceStates() {
		if !s.Succeeded.IsZero() {
			continue
		}
		if s.Err == "" {
			s.Err = "no answer so far"
		}
		out = append(out, s)
	}
	return out
}
