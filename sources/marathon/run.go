package marathon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/hostname"
)

// signOfLife is how often a snapshot is sent at least while Marathon is heard, so that its age can be seen.
const signOfLife = 15 * time.Second

// run is the state of Source.Run, of which only its goroutine knows. At most one list and a few apps are asked for at a time,
// each by a goroutine of its own: an event that takes a task away waits for none, and no app for another.
type run struct {
	config Config
	reader *reader
	pulse  *pulse
	out    chan<- catalog.Snapshot

	callbacks *callbacks      // nil without
	hints     <-chan struct{} // of theirs

	fleet   *fleet
	agenda  agenda
	asking  sync.WaitGroup
	lists   chan listed
	visits  chan visited
	listing bool
	away    map[string]bool // apps that are being asked for
	hosts   hostRetry
	first   int // the replica that is asked for the list first
	doubt   *doubt
	pause   backoff

	accepts bool             // there is a last good answer
	read    time.Time        // when
	failing string           // why Marathon cannot be read now
	last    catalog.Snapshot // the last one sent
	sent    time.Time
}

// listed is an answer to the question for all apps.
type listed struct {
	reading
	why reason
	err error
}

// visited is one to the question for one.
type visited struct {
	reading
	id    string
	asked visit
	err   error
}

// doubt is about a list that lost most servers.
type doubt struct {
	servers int // that it would leave
	tries   int
	since   time.Time // only a list that is asked for later confirms it
}

// maxConfirmations bounds how often answers that grow, but stay small, are read again.
const maxConfirmations = 10

// newRun prepares a run. The first reading comes once there is a subscription, or none to be had, or one that takes too long.
func newRun(config Config, reader *reader, out chan<- catalog.Snapshot) *run {
	r := &run{config: config, reader: reader, pulse: newPulse(), out: out, pause: backoff{first: config.RetryPause},
		fleet:  newFleet(config.Name, config.GroupSize),
		agenda: newAgenda(config.Settle, time.Now().Add(time.Second)),
		lists:  make(chan listed, 1), visits: make(chan visited, maxVisits), away: map[string]bool{},
		hosts: hostRetry{answers: make(chan map[string]hostname.Answer, 1)}}
	r.first = int(reader.client.preferred.Load())
	r.last = config.snapshot()
	return r
}

func (r *run) loop(ctx context.Context) error {
	defer r.asking.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, out := r.news(time.Now())
		r.ask(ctx, time.Now())
		r.askHosts(ctx, time.Now())
		timer.Reset(time.Until(r.next(time.Now())))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case out <- next:
			r.last, r.sent = next, time.Now()
		case <-r.pulse.wake:
			r.hear(time.Now())
		case <-r.hints:
			r.hint(time.Now())
		case l := <-r.lists:
			r.listing = false
			r.takeList(ctx, l, time.Now())
		case v := <-r.visits:
			delete(r.away, v.id)
			r.takeVisit(ctx, v, time.Now())
		case answers := <-r.hosts.answers:
			r.takeHosts(answers, time.Now())
		case <-timer.C:
		}
	}
}

// next is when there is something to do though nothing comes in.
func (r *run) next(now time.Time) time.Time {
	next := now.Add(signOfLife)
	sooner := func(at time.Time) {
		if at.Before(next) {
			next = at
		}
	}
	if !r.listing {
		sooner(r.agenda.next())
	}
	if at := r.agenda.nextVisit(now, r.away); r.failing == "" && !at.IsZero() {
		sooner(at)
	}
	if at := r.hosts.next(); !at.IsZero() {
		sooner(at)
	}
	return next
}

// confirmPause is how long after an event that told all that matters its app is asked for, so that events which come together, as
// when a task is killed and another one takes its place, are confirmed by one answer.
const confirmPause = 500 * time.Millisecond

// hear takes the events in that have come.
func (r *run) hear(now time.Time) {
	events, opened := r.pulse.take()
	if opened {
		r.agenda.soon(0, now, polled)
	}
	r.agenda.came(len(events), now)
	if len(events) > 0 && (!r.accepts || r.failing != "") {
		r.agenda.everything(now)
	}
	if !r.accepts {
		return
	}
	for _, e := range events {
		switch r.fleet.hear(e, now) {
		case nothing:
		case everything:
			r.agenda.everything(now)
		case confirm:
			for _, id := range e.apps() {
				r.agenda.visit(id, visit{at: now.Add(confirmPause)})
			}
		case atOnce:
			for _, id := range e.apps() {
				r.agenda.visit(id, visit{at: now, announced: true})
			}
		}
	}
	r.fleet.settle(now)
}

// hint has the list read: a burst of callbacks is over. While Marathon cannot be read, it is asked again anyway.
func (r *run) hint(now time.Time) {
	if r.failing == "" {
		r.agenda.hint(now)
	}
}

// ask asks for what is due.
func (r *run) ask(ctx context.Context, now time.Time) {
	for id, v := range r.visitsDue(now) {
		r.away[id] = true
		r.asking.Go(func() {
			got, err := r.reader.one(ctx, id)
			r.visits <- visited{got, id, v, err}
		})
	}
	if !r.listing && !r.agenda.next().After(now) {
		r.listing = true
		why, first := r.agenda.begin(now, r.config.RefreshInterval), r.first
		r.asking.Go(func() {
			got, err := r.reader.all(ctx, first)
			r.lists <- listed{got, why, err}
		})
	}
}

// visitsDue gives none while Marathon cannot be read.
func (r *run) visitsDue(now time.Time) map[string]visit {
	if r.failing != "" {
		return nil
	}
	return r.agenda.due(now, r.away)
}

// takeList takes an answer on all apps in. One that lost most servers is a failover's or a lone standby's as likely as the truth:
// it counts when a second one, of another replica where there is one, agrees. A second one that has more stands in its
// place.
func (r *run) takeList(ctx context.Context, l listed, now time.Time) {
	if l.err != nil {
		if ctx.Err() == nil {
			r.fail(l.err, now)
		}
		return
	}
	r.agenda.took = now.Sub(l.asked)
	next, differing := r.fleet.renewed(l.reading, now)
	r.first = l.replica
	if r.doubts(next.board.servers, l.reading, now) {
		return
	}
	r.callbacks.polled(r.accepts && r.failing == "" && len(next.board.changed) > 0)
	r.doubt, r.failing = nil, ""
	r.pause.reset()
	changed := !r.accepts || len(next.board.changed) > 0 || !slices.Equal(next.problems(), r.fleet.problems())
	r.fleet, r.accepts = next, true
	r.read = now
	r.pulse.alive()
	r.agenda.differ(differing, 0, now)
	r.await(l.apps, now)
	if l.why == announced && !changed {
		// Up to 1.2 an event may come before the list shows what it announced.
		r.agenda.soon(r.config.Settle, now, settled)
	}
}

// readinessPause is how long after an answer an app is asked for again whose new tasks are not ready yet.
const readinessPause = time.Second

// await has apps asked for again whose tasks wait to be ready, and hosts whose addresses could not be had.
func (r *run) await(apps []app, now time.Time) {
	for _, id := range r.fleet.unready(apps) {
		r.agenda.visit(id, visit{at: now.Add(readinessPause)})
	}
	r.hosts.await(r.fleet, apps, now)
}

// doubts reports whether an answer is to be confirmed by a list that is asked for later: it would leave less than half of the
// servers, or none, though no event said so.
func (r *run) doubts(left int, got reading, now time.Time) bool {
	if !r.accepts || !massLoss(r.fleet.board.servers, left) {
		return false
	}
	tries := 0
	if r.doubt != nil {
		tries = r.doubt.tries
		if got.asked.After(r.doubt.since) && (left <= r.doubt.servers || tries >= maxConfirmations) {
			return false
		}
	}
	r.doubt = &doubt{servers: left, tries: tries + 1, since: now}
	r.first = got.replica + 1
	r.agenda.soon(r.config.ConfirmPause, now, settled)
	return true
}

func massLoss(before, now int) bool { return before > 0 && (now == 0 || 2*now < before) }

// takeVisit takes the answer on one app in. When it cannot be had, or would take most servers away, the list must tell; later
// failures of the same app only have it asked for again.
func (r *run) takeVisit(ctx context.Context, v visited, now time.Time) {
	if ctx.Err() != nil {
		return
	}
	if v.err != nil {
		if v.asked.pause == 0 && !errors.Is(v.err, errMalformed) {
			r.agenda.everything(now)
		} else {
			r.agenda.failed(v.id, v.asked, now)
		}
		return
	}
	if left := r.fleet.servers(v.reading, now); massLoss(r.fleet.board.servers, left) {
		r.doubts(left, v.reading, now)
		return
	}
	switch r.fleet.visited(v.reading, now) {
	case differs:
		r.agenda.differ([]string{v.id}, v.asked.pause, now)
	case unchanged:
		r.agenda.unchanged(v.id, v.asked, now)
	case lost:
		r.agenda.everything(now)
	}
	r.await(v.apps, now)
	r.read = now
	r.pulse.alive()
}

// fail keeps the services while Marathon cannot be read, and asks again soon.
func (r *run) fail(err error, now time.Time) {
	r.doubt = nil
	r.failing = hostname.Reason(err)
	r.agenda.soon(min(r.pause.next(), r.config.RefreshInterval), now, polled)
}

// news gives a snapshot of what is known, and a channel for it if it says anything new, or nothing was sent for long.
func (r *run) news(now time.Time) (catalog.Snapshot, chan<- catalog.Snapshot) {
	next := r.last
	next.Succeeded, next.Heard, next.Event, next.Err = r.read, r.pulse.lastHeard(), r.pulse.lastEvent(), r.failing
	if r.accepts {
		next.Services, next.Problems = r.fleet.board.all(), r.problems()
		next.Missing, next.Partial, next.Listed = r.fleet.missing(), r.fleet.partials(), r.fleet.listed
	}
	alive := r.failing == "" && now.Sub(r.sent) >= min(signOfLife, r.config.RefreshInterval) && !next.Heard.Equal(r.last.Heard)
	switch {
	case next.Err != r.last.Err, r.accepts && (r.sent.IsZero() || alive || !same(r.last, next)):
		return next, r.out
	default:
		return next, nil
	}
}

// same reports whether two snapshots say the same: a list of services that has not changed is not made anew.
func same(a, b catalog.Snapshot) bool {
	return catalog.SameList(a.Services, b.Services) && slices.Equal(a.Problems, b.Problems) &&
		maps.Equal(a.Partial, b.Partial) && reflect.ValueOf(a.Missing).Pointer() == reflect.ValueOf(b.Missing).Pointer() // they are replaced, never written to
}

func (r *run) problems() []catalog.Problem {
	all := r.fleet.problems()
	if r.failing != "" {
		return all
	}
	add := func(subject, reason string) {
		p := problem(subject, reason)
		p.Source = r.config.Name
		all = sortProblems(append(slices.Clip(all), p))
	}
	if trouble := r.pulse.trouble.Load().(string); trouble != "" {
		add("event stream", fmt.Sprintf("%s; changes are seen each refresh interval (%s) only", trouble, r.config.RefreshInterval))
	}
	if trouble := r.callbacks.complaint(); trouble != "" {
		add("callbacks", trouble)
	}
	return all
}
