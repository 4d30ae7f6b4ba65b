package haproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// settle ends a pass: what was proven is remembered, the file follows, removed servers are deleted where they can be, and
// what needs another look later is put on the alarm.
func (d *Driver) settle(ctx context.Context, v view, r catalog.Report, errs []error) (catalog.Report, error) {
	d.forgetRefused(v)
	if v.blocked != nil {
		errs = append(errs, v.blocked)
	}
	if !v.have.alive {
		d.rechecks = 0
		d.Resync()
		d.describe(v, &r)
		d.wakeIn(d.next(v))
		if err := d.pace.failure(v); err != nil {
			errs = append(errs, err)
		}
		if len(errs) == 0 {
			errs = append(errs, fmt.Errorf("HAProxy ended soon after it was started; it is started again, with growing pauses"), d.process.refused(ctx))
		}
		return r, errors.Join(errs...)
	}
	waiting := map[catalog.Key]bool{} // not as wanted yet
	for _, key := range v.plan.fresh {
		waiting[key] = true
	}
	d.forgetBalks(v)
	for _, s := range d.letWait(v.plan.steps, v.refused) {
		waiting[s.key] = true
		errs = append(errs, s.undone(v.refused))
	}
	if err := d.keepHands(v.hands); err != nil {
		errs = append(errs, err)
	}
	d.remember(ctx, v, waiting)
	if err := d.dismiss(v); err != nil {
		errs = append(errs, err)
	}
	if err := d.deleteServers(ctx, v, &r); err != nil {
		errs = append(errs, err)
	}
	d.follow(v)
	if p := d.fileErr.Load(); p != nil {
		errs = append(errs, *p)
	}
	if err := d.pace.failure(v); err != nil {
		errs = append(errs, err)
	}
	d.describe(v, &r)
	if len(errs) == 0 && v.keys == nil {
		d.resync.Store(false)
	}
	if d.rechecks > 0 {
		d.rechecks--
		d.Resync()
	}
	d.wakeIn(d.next(v))
	return r, errors.Join(errs...)
}

// undone tells of a step that has no effect, with HAProxy's words where it has refused it.
func (s step) undone(refused []refusedStep) error {
	for _, r := range refused {
		if r.id == s.id() {
			return fmt.Errorf("%s: HAProxy answers %q to %s", s.change.Service, r.words, s.change.Detail)
		}
	}
	return fmt.Errorf("%s: %s is still to be done after it was: %s", s.change.Service, s.change.Action, s.change.Detail)
}

// remember keeps what was proven.
func (d *Driver) remember(ctx context.Context, v view, waiting map[catalog.Key]bool) {
	if v.have.pid != d.last.pid {
		replace(d.worker, v.have.pid)
	}
	d.last = v.have.info
	d.recount(ctx, v)
	if len(v.plan.reloads) == 0 {
		d.crowd.full = ""
	}
	if v.keys == nil {
		d.verified, d.gone = slices.Clone(v.layout.sections), d.stillGone(v)
		for key := range waiting {
			d.verify(key, v, waiting)
		}
		return
	}
	for _, key := range v.keys {
		d.verify(key, v, waiting)
		if b, ok := v.have.built.service(key); !ok || v.layout.sections.find(key) != nil || !v.have.runs(b) {
			delete(d.gone, key)
		} else if _, known := d.gone[key]; !known {
			d.gone[key] = d.now()
		}
	}
}

// dismiss ends what listens on our addresses beside a process that is met for the first time: an HAProxy without a socket, which serves
// what it did when proxymatic was killed while it was being replaced. It gets a share of all new connections.
// One of another run, which ours is to replace, is not ours to end.
func (d *Driver) dismiss(v view) error {
	if v.keys != nil || !v.have.known || d.alone == v.have.pid || d.beside.Load() != nil {
		return nil
	}
	addrs := slices.Clone(v.have.built.Binds)
	for _, b := range v.have.built.Services {
		addrs = append(addrs, b.Binds...)
	}
	err := d.process.dismiss(v.have.pid, addrs)
	if err == nil {
		d.alone = v.have.pid
	}
	return err
}

// verify keeps what was proven of one service.
func (d *Driver) verify(key catalog.Key, v view, waiting map[catalog.Key]bool) {
	switch s := v.layout.sections.find(key); {
	case s == nil:
		d.verified = d.verified.drop(key)
	case waiting[key]:
		d.verified = d.verified.put(&section{key: key}) // differs from whatever is wanted next, its removal too
	default:
		d.verified = d.verified.put(s)
	}
}

// stillGone gives the running services that are not wanted, since when.
func (d *Driver) stillGone(v view) map[catalog.Key]time.Time {
	out := map[catalog.Key]time.Time{}
	for key, b := range v.have.built.Services {
		if v.layout.sections.find(key) != nil || !v.have.runs(b) {
			continue
		}
		since, ok := d.gone[key]
		if !ok {
			since = d.now()
		}
		out[key] = since
	}
	return out
}

// follow lets haproxy.cfg say what runs now. Services that wait for a reload stay as they are in it.
func (d *Driver) follow(v view) {
	state := fileState{outer: v.layout.outer, hash: v.have.hash, sections: v.layout.sections, partial: v.layout.outer.hash != v.have.built.Outer}
	if len(v.plan.fresh) > 0 {
		state.keep, state.partial = map[catalog.Key]bool{}, true
		for _, key := range v.plan.fresh {
			state.keep[key] = true
		}
		state.sections = without(state.sections, state.keep)
	}
	if v.have.known {
		d.file.follow(state)
	}
}

// next gives the time until something has to be looked at again; 0 for never.
func (d *Driver) next(v view) time.Duration {
	var soonest time.Duration
	within := func(t time.Duration) {
		if t = max(t, time.Millisecond); soonest == 0 || t < soonest {
			soonest = t
		}
	}
	now := d.now()
	for _, l := range d.leaving {
		switch left := d.config.Drain - now.Sub(l.since); {
		case v.plan.dialect.adds:
			within(l.again(d.config.Drain).Sub(now))
		case left > 0: // only a load deletes
			within(left)
		}
	}
	for _, since := range d.gone {
		if left := d.config.ReleaseAfter - now.Sub(since); left > 0 { // a reload that is overdue waits for its own time
			within(left)
		}
	}
	if len(d.taken) > 0 {
		within(lookAgain)
	}
	for _, b := range d.balks {
		if !b.trial {
			within(b.until.Sub(now))
		}
	}
	for _, q := range d.refused {
		if !q.trial {
			within(q.until.Sub(now))
		}
	}
	switch {
	case v.blocked != nil:
		within(lookAgain)
	case len(v.plan.reloads) > 0 && d.crowd.full != "":
		within(d.crowd.again.Sub(now))
	case len(v.plan.reloads) > 0:
		within(d.pace.next(v).Sub(now))
	}
	if d.rechecks > 0 {
		within(afterFailure)
	}
	if d.crowd.asks > 0 {
		within(asksAgain)
	}
	return soonest
}

// wakeIn asks Run for another pass after a while.
func (d *Driver) wakeIn(t time.Duration) {
	if t == 0 {
		return
	}
	replace(d.alarm, t)
}

// replace puts a message into a channel of size 1 in the place of an older one. Only one goroutine may send.
func replace[T any](c chan T, message T) {
	select {
	case <-c:
	default:
	}
	c <- message
}

// describe adds what an operator wants to know.
func (d *Driver) describe(v view, r *catalog.Report) {
	for _, key := range slices.SortedFunc(maps.Keys(d.taken), catalog.Key.Compare) {
		r.Problems = append(r.Problems, catalog.Problem{Source: d.Name(), Subject: key.String(),
			Reason: "the port cannot be used: " + d.taken[key] + "; the service is offered as soon as it is free"})
	}
	r.Problems = slices.Concat(r.Problems, d.refusedProblems(), d.balkProblems(), v.hands.problems())
	if v.layout.fixed {
		r.Problems = append(r.Problems, staticProblems(v.layout.sections)...)
	}
	slices.SortFunc(r.Problems, func(a, b catalog.Problem) int { return strings.Compare(a.Subject, b.Subject) })
	if !v.have.alive {
		return
	}
	r.Problems = append(r.Problems, v.plan.dialect.problems(v.have.version)...)
	r.Problems = append(r.Problems, d.crowd.problems()...)
	r.Facts = []catalog.Fact{{Name: "version", Value: v.have.version}, {Name: "pid", Value: strconv.Itoa(v.have.pid)},
		{Name: "structure", Value: v.have.hash}, {Name: "socket", Value: d.config.Socket},
		{Name: "old_workers", Value: strconv.Itoa(len(d.crowd.since))}, {Name: "servers_by_hand", Value: strconv.Itoa(len(v.hands))}, {Name: "servers_leaving", Value: strconv.Itoa(len(d.leaving))}, {Name: "ports_paused", Value: strconv.Itoa(len(d.gone))}}
}

// staticProblems names the services that the socket cannot change: together, where the template gives many one reason.
func staticProblems(sections sections) []catalog.Problem {
	byReason := map[string][]string{}
	for _, s := range sections {
		if s.static != "" {
			byReason[s.static] = append(byReason[s.static], title(s.name, s.key))
		}
	}
	var out []catalog.Problem
	for reason, services := range byReason {
		subject := services[0]
		if len(services) > 1 {
			subject = fmt.Sprintf("%d services", len(services))
		}
		out = append(out, catalog.Problem{Source: "haproxy", Subject: subject, Reason: "each change of servers needs a reload: " + reason})
	}
	return out
}
