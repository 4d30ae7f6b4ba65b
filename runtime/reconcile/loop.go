package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meltwater/proxymatic/runtime/policy"
	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	defaultResync = 60 * time.Second
	silenceLimit  = 30 * time.Second // how long a source may keep the first pass waiting before a line names it
	stopGrace     = 5 * time.Second  // for a pass that runs when the loop is to end
	applyLimit    = 5 * time.Minute  // for a driver that forgot a deadline; a start and two reload commands take 3 min at most
)

// Config is what a Loop works with. Log must not be nil.
type Config struct {
	Sources []Source
	Drivers []Driver // applied at the same time, reported in this order
	Policy  policy.Policy
	Guard   policy.Guard  // against sources that forget what lives
	Flaps   int           // how often a minute a server may come until it is held out; 0 is without limit
	Resync  time.Duration // how often drivers observe everything, give or take a tenth; 0 means 60 s
	Log     *slog.Logger
}

// Loop brings what the sources report to the drivers. One goroutine, that of Run, owns its state; the exported methods
// may be called from any.
type Loop struct {
	cfg    Config
	inbox  inbox
	asked  chan struct{} // somebody wants a pass
	fresh  chan struct{} // somebody wants a pass that observes everything
	plans  chan planRequest
	acks   chan chan []catalog.Problem
	done   chan struct{} // closed when nobody answers plans any more
	latest atomic.Pointer[Pass]
	passed chan struct{} // a pass was made that Passed has not told of

	// The rest belongs to the goroutine of Run.
	snaps     map[string]catalog.Snapshot
	weighed   map[string]*weighed         // what counts of each
	known     map[string]catalog.Snapshot // of sources before the start
	drivers   []driver
	decision  policy.Decision
	decided   []catalog.Snapshot // what it was made of; nil when not by our own policy, but by that of a loop before
	history   history
	resyncAt  time.Time
	standInAt time.Time // when silent sources are stood in for; zero once they were
	warnAt    time.Time // when a source that has not spoken is named; zero once that was done
}

type planRequest struct {
	ctx   context.Context
	next  *Loop              // whose plan it is, if it continued with fresh; nil for our own
	fresh []catalog.Snapshot // newer than ours
	reply chan planReply
}

type planReply struct {
	pass *Pass
	err  error
}

// New prepares a loop. Nothing happens until Run.
func New(cfg Config) *Loop {
	if cfg.Resync <= 0 {
		cfg.Resync = defaultResync
	}
	l := &Loop{
		cfg:     cfg,
		inbox:   inbox{snaps: map[string]catalog.Snapshot{}},
		asked:   make(chan struct{}, 1),
		fresh:   make(chan struct{}, 1),
		plans:   make(chan planRequest),
		done:    make(chan struct{}),
		snaps:   map[string]catalog.Snapshot{},
		weighed: map[string]*weighed{},
		acks:    make(chan chan []catalog.Problem),
		passed:  make(chan struct{}, 1),
	}
	for _, d := range cfg.Drivers {
		l.drivers = append(l.drivers, driver{Driver: d, state: DriverState{Name: d.Name()}})
	}
	l.latest.Store(l.newPass(time.Time{}))
	return l
}

// Pass gives what the latest pass found and did. It is never nil: before the first pass it tells what is waited for.
func (l *Loop) Pass() *Pass { return l.latest.Load() }

// Passed tells that there is another pass than the last time. Only one may listen.
func (l *Loop) Passed() <-chan struct{} { return l.passed }

// Wake asks for a pass in which every driver observes everything. It does not wait for it.
func (l *Loop) Wake() { signal(l.fresh) }

// Plan tells what a pass over the current snapshots would do: its Drivers have the plans in place of reports. It waits
// for a running pass. The error names a source that has not spoken yet, or joins what the drivers could not plan; only
// in the second case is there a Pass too. It needs Run beside it.
func (l *Loop) Plan(ctx context.Context) (*Pass, error) { return l.ask(planRequest{ctx: ctx}) }

// PlanNext tells what next would do if it continued l now, and its sources gave the fresh snapshots: those whose settings are new.
// A source that has said nothing yet is left out, as next would go on without it. Run of next must not have begun, and it must
// not be used for anything else. Otherwise it is as Plan.
func (l *Loop) PlanNext(ctx context.Context, next *Loop, fresh []catalog.Snapshot) (*Pass, error) {
	return l.ask(planRequest{ctx: ctx, next: next, fresh: fresh})
}

func (l *Loop) ask(request planRequest) (*Pass, error) {
	ctx := request.ctx
	request.reply = make(chan planReply, 1)
	select {
	case l.plans <- request:
	case <-l.done:
		return nil, errors.New("plan: stopping")
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the running pass: %w", ctx.Err())
	}
	answer := <-request.reply // comes for sure: once taken, a request is answered, and at the latest when ctx ends
	return answer.pass, answer.err
}

// Run starts the sources and drivers and makes passes until ctx ends. Drivers end after the last pass, so that what it
// did is written. It returns when all have ended, with what went wrong while they did. It may be called once.
func (l *Loop) Run(ctx context.Context) error {
	var group sync.WaitGroup
	in := make(chan catalog.Snapshot)
	group.Go(func() { l.collect(ctx, in) })
	for _, s := range l.cfg.Sources {
		group.Go(func() {
			l.keep(ctx, slog.String("source", s.Name()), func() error { return s.Run(ctx, in) })
		})
	}
	driverCtx, stopDrivers := context.WithCancel(context.WithoutCancel(ctx))
	defer stopDrivers()
	errs := make([]error, len(l.drivers))
	for i, d := range l.cfg.Drivers {
		group.Go(func() {
			err := l.keep(driverCtx, slog.String("driver", d.Name()), func() error {
				return d.Run(driverCtx, func() { signal(l.asked) })
			})
			if err != nil && !errors.Is(err, context.Canceled) {
				errs[i] = fmt.Errorf("stop driver %s: %w", d.Name(), err)
			}
		})
	}
	l.loop(ctx)
	close(l.done)
	stopDrivers()
	group.Wait()
	l.takeInbox() // for the loop that continues this one
	return errors.Join(errs...)
}

// keep calls run until ctx ends. Sources and drivers promise to return no earlier; one that breaks the promise is
// reported and started again, since a source that ended silently would freeze this host.
func (l *Loop) keep(ctx context.Context, who slog.Attr, run func() error) error {
	for attempt := 0; ; attempt++ {
		err := run()
		if ctx.Err() != nil {
			return err
		}
		l.cfg.Log.LogAttrs(ctx, slog.LevelError, "ended by itself, is started again", who, slog.Any("err", err))
		select {
		case <-time.After(backoff(attempt, rand.Float64())):
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *Loop) loop(ctx context.Context) {
	now := time.Now()
	l.resyncAt, l.warnAt = l.nextResync(now), now.Add(silenceLimit)
	l.standInAt = now.Add(standInAfter)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Reset(time.Until(l.nextTimer()))
		select {
		case <-ctx.Done():
			return
		case request := <-l.plans:
			l.takeInbox() // who put something there has asked for a pass too
			request.reply <- request.by(l).plan(ctx, request.ctx)
			continue
		case reply := <-l.acks:
			reply <- l.release()
		case <-l.asked:
		case <-l.fresh:
			l.resync()
		case <-timer.C:
		}
		l.drain()
		l.onTimer(time.Now())
		l.work(ctx)
	}
}

// by gives the loop that plans. That of l has taken everything.
func (r planRequest) by(l *Loop) *Loop {
	if r.next == nil {
		return l
	}
	n := r.next
	n.inherit(l)
	for _, s := range r.fresh {
		n.take(s)
	}
	if len(n.silent()) == 0 {
		n.forget()
	}
	return n
}

// drain takes everything that was asked for meanwhile, so that one pass answers it all.
func (l *Loop) drain() {
	received(l.asked) // before the inbox is emptied: what comes in later asks again
	if received(l.fresh) {
		l.resync()
	}
	l.takeInbox()
}

func (l *Loop) takeInbox() {
	snaps := l.inbox.empty()
	for _, source := range l.cfg.Sources {
		if s, came := snaps[source.Name()]; came {
			l.take(s)
		}
	}
}

// take replaces a source's snapshot. What was read once is never unlearned: a source that is started again and fails
// keeps what it had read before.
func (l *Loop) take(s catalog.Snapshot) {
	old, read := l.snaps[s.Source], !s.Succeeded.IsZero()
	if !read && !old.Succeeded.IsZero() {
		s.Services, s.Problems, s.Succeeded = old.Services, old.Problems, old.Succeeded
	}
	l.snaps[s.Source] = s
	logSource(l.cfg.Log, old, s)
	switch {
	case read:
		was := l.weighedOf(s.Source)
		if before, ok := l.known[s.Source]; ok && old.Succeeded.IsZero() {
			was.kept = l.adopted(before)
		}
		l.weigh(s.Source, l.cfg.Guard.Next(was.kept, s, time.Now()), was.damper)
	case s.Err != "":
		l.standIn(l.source(s.Source))
	}
}

// resync makes the next pass observe everything.
func (l *Loop) resync() {
	l.resyncAt = l.nextResync(time.Now())
	for _, d := range l.drivers {
		d.Resync()
	}
}

func (l *Loop) nextResync(now time.Time) time.Time {
	return now.Add(time.Duration(float64(l.cfg.Resync) * (0.9 + 0.2*rand.Float64())))
}

// nextTimer is when the loop has something to do though nobody asks.
func (l *Loop) nextTimer() time.Time {
	next := l.resyncAt
	if !l.warnAt.IsZero() && l.warnAt.Before(next) {
		next = l.warnAt
	}
	if !l.standInAt.IsZero() && l.standInAt.Before(next) && slices.ContainsFunc(l.cfg.Sources, l.mayStandIn) {
		next = l.standInAt
	}
	for _, w := range l.weighed {
		if !w.letIn.IsZero() && w.letIn.Before(next) {
			next = w.letIn
		}
	}
	for _, d := range l.drivers {
		if !d.retryAt.IsZero() && d.retryAt.Before(next) {
			next = d.retryAt
		}
	}
	return next
}

func (l *Loop) onTimer(now time.Time) {
	if !now.Before(l.resyncAt) {
		l.resync()
	}
	for name, w := range l.weighed {
		if !w.letIn.IsZero() && !now.Before(w.letIn) {
			l.weigh(name, w.kept, w.damper)
		}
	}
	if !l.standInAt.IsZero() && !now.Before(l.standInAt) {
		l.standInAt = time.Time{}
		for _, s := range l.cfg.Sources {
			l.standIn(s)
		}
	}
	if !l.warnAt.IsZero() && !now.Before(l.warnAt) {
		l.warnAt = time.Time{}
		for _, s := range l.silent() {
			l.cfg.Log.Warn("nothing is applied until this source has answered", "source", s.Name, "err", s.Err)
		}
	}
}

// collect puts what the sources send into the inbox. No source so waits for a pass, and no pass works through what is
// outdated already: 20 services that are new within one reload share the next.
func (l *Loop) collect(ctx context.Context, in <-chan catalog.Snapshot) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-in:
			l.inbox.put(s)
			signal(l.asked)
		}
	}
}

// inbox holds the latest snapshot of each source until the loop takes it.
type inbox struct {
	mu    sync.Mutex
	snaps map[string]catalog.Snapshot
}

func (b *inbox) put(s catalog.Snapshot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.snaps[s.Source] = s
}

func (b *inbox) empty() map[string]catalog.Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	snaps := b.snaps
	b.snaps = map[string]catalog.Snapshot{}
	return snaps
}

// signal leaves a message in a channel of size 1 unless one lies there already.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// received takes a message from a channel if one lies there.
func received(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// backoff is the pause after so many failures in a row: from 0.25 s, doubled each time, to 30 s. random is in [0, 1).
func backoff(failures int, random float64) time.Duration {
	d := min(250*time.Millisecond<<min(failures, 10), 24*time.Second)
	return d + time.Duration(float64(d)/4*random)
}
