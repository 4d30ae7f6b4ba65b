package registrator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/hostname"
)

// perService is how long to wait for more, for each service there is, once a change was sent: a burst of changes then takes
// a small part of a core. The first change of a burst waits for nothing.
const perService = 2 * time.Microsecond

// nameInterval is how often the resolver is asked for all names. It remembers most of its answers for longer.
const nameInterval = 5 * time.Second

// run is the state of Run, of which only its goroutine knows, apart from what the followers have.
type run struct {
	config    Config
	followers []*follower
	wake      chan struct{}
	out       chan<- catalog.Snapshot
	board     *board
	unsent    bool              // services or problems differ from what was sent last
	notes     []catalog.Problem // that are not of a key
	last      catalog.Snapshot  // what was sent last
	told      bool              // something was sent in this Run
	sent      time.Time         // when
	burst     time.Duration     // how long to wait for more before the next update

	hosts     *hostname.Resolver
	resolved  chan names
	resolving bool      // hosts belongs to another goroutine, which will put something into resolved
	asked     time.Time // when names were resolved last
	late      string    // why the names do not suffice for a first snapshot
}

// names is what became of host names.
type names struct {
	answers map[string]hostname.Answer
	late    error
}

// update puts together what is known, and sends it if it is news or due.
func (r *run) update(ctx context.Context, wait *sync.WaitGroup) {
	ready, trouble, heard := r.collect()
	r.resolve(ctx, wait)
	next := r.last
	switch {
	case !ready:
		next.Err = trouble
	case r.last.Succeeded.IsZero() && (r.resolving || r.late != ""):
		next.Err = r.late
	default:
		r.unsent = r.board.build() || r.unsent
		next.Services, next.Err = r.board.services, trouble
		if r.unsent {
			next.Problems = append(r.board.problems(), r.notes...)
		}
		if trouble == "" {
			next.Succeeded = heard
		}
	}
	next.Heard = heard
	r.burst = 0
	if next.Err == "" && next.Succeeded.IsZero() {
		return // it is being read for the first time
	}
	if r.unsent || !r.told || next.Err != r.last.Err || time.Since(r.sent) >= r.config.RefreshInterval {
		r.send(ctx, next)
	}
}

func (r *run) send(ctx context.Context, next catalog.Snapshot) {
	select {
	case r.out <- next:
		if r.unsent && !next.Succeeded.IsZero() {
			r.burst = time.Duration(len(next.Services)) * perService
			r.unsent = false
		}
		r.last, r.told, r.sent = next, true, time.Now()
	case <-ctx.Done():
	}
}

// collect takes what the followers have said. The trouble joins that of all stores.
func (r *run) collect() (ready bool, trouble string, heard time.Time) {
	ready = true
	var troubles []string
	var notes []catalog.Problem
	for i, f := range r.followers {
		report := f.mail.take()
		for _, c := range report.changes {
			r.board.apply(i, c)
		}
		ready = ready && report.ready
		if report.heard.After(heard) {
			heard = report.heard
		}
		switch name := f.store.name(); {
		case report.trouble != "":
			troubles = append(troubles, report.trouble)
		case report.doubts.any && report.doubts.empty:
			troubles = append(troubles, fmt.Sprintf(
				"the %s store at %s has no key below %s any more; its last services stay until keys are written there again", name, f.at, f.prefix))
		case report.doubts.any:
			notes = append(notes, catalog.Problem{Source: sourceName, Subject: "the " + name + " store", Reason: fmt.Sprintf(
				"it lost its keys; services of those that nobody writes again stay until %s", report.doubts.until.Format(time.TimeOnly))})
		}
	}
	if !slices.Equal(notes, r.notes) {
		r.notes, r.unsent = notes, true
	}
	return ready, strings.Join(troubles, "; "), heard
}

// resolve has the names in values resolved, beside everything else: a slow name server holds up nobody but the names that
// are new.
func (r *run) resolve(ctx context.Context, wait *sync.WaitGroup) {
	hosts := r.board.names()
	if r.resolving || len(hosts) == 0 || !r.board.unasked() && time.Since(r.asked) < nameInterval {
		return
	}
	r.resolving, r.asked = true, time.Now()
	settled := !r.last.Succeeded.IsZero()
	wait.Go(func() {
		if settled {
			r.hosts.Settle()
		}
		answers := r.hosts.Resolve(ctx, hosts)
		r.resolved <- names{answers: answers, late: r.hosts.Late(answers, time.Now())}
	})
}

func (r *run) take(got names) {
	r.resolving, r.late = false, ""
	if got.late != nil {
		r.late = got.late.Error()
	}
	r.board.resolved(got.answers)
}

// next is how long to wait when nothing happens.
func (r *run) next() time.Duration {
	wait := r.config.RefreshInterval
	if r.told {
		wait = max(0, wait-time.Since(r.sent))
	}
	if len(r.board.hosts) > 0 {
		wait = min(wait, nameInterval)
	}
	return wait
}
