package marathon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meltwater/proxymatic/sources/hostname"
)

// maxPause is the longest wait between two attempts.
const maxPause = 15 * time.Second

// pulse is what the stream's goroutine tells the source's: events, and signs of life.
type pulse struct {
	wake    chan struct{} // holds one mark: further ones, while it waits to be taken, add nothing
	lock    sync.Mutex    // of what is to be taken
	events  []event
	opened  bool         // a stream was: what was changed before is not told
	heard   atomic.Int64 // when Marathon last gave a sign of life, in Unix nanoseconds
	event   atomic.Int64 // when the last event came, the same
	trouble atomic.Value // a string: why there is no stream now, or empty
}

// maxEvents is how many events may wait to be taken. They are taken within a millisecond.
const maxEvents = 1 << 14

func newPulse() *pulse {
	p := &pulse{wake: make(chan struct{}, 1)}
	p.trouble.Store("")
	return p
}

// hear passes an event on. Where too many wait, one that may be anything stands for the rest.
func (p *pulse) hear(e event) {
	p.lock.Lock()
	defer p.lock.Unlock()
	switch n := len(p.events); {
	case n < maxEvents:
		p.events = append(p.events, e)
	case n == maxEvents:
		p.events = append(p.events, event{odd: true})
	}
	p.mark()
}

// look says that any app may have changed.
func (p *pulse) look() {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.opened = true
	p.mark()
}

func (p *pulse) mark() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take gives what has come since it was called last.
func (p *pulse) take() (events []event, opened bool) {
	p.lock.Lock()
	defer p.lock.Unlock()
	select {
	case <-p.wake:
	default:
	}
	events, opened = p.events, p.opened
	p.events, p.opened = nil, false
	return events, opened
}

func (p *pulse) alive() { p.heard.Store(time.Now().UnixNano()) }

func (p *pulse) lastHeard() time.Time { return unixNano(p.heard.Load()) }

func (p *pulse) lastEvent() time.Time { return unixNano(p.event.Load()) }

func unixNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// follower keeps a subscription to the events of one replica after another.
type follower struct {
	client  *client
	pulse   *pulse
	silence time.Duration
	settle  time.Duration
	retry   time.Duration
}

var errSilent = errors.New("the stream fell silent")

// run subscribes again whenever a stream ends, until ctx ends.
func (f *follower) run(ctx context.Context) {
	pause := backoff{first: f.retry}
	for i := 0; ctx.Err() == nil; i++ {
		began := time.Now()
		r := f.client.replicas[f.choose(i)]
		err := f.follow(ctx, r)
		f.pulse.trouble.Store(fmt.Sprintf("%s: %s", r, hostname.Reason(err)))
		if i == 0 {
			f.pulse.look() // whoever waited for the first subscription waits no longer
		}
		// A replica that is not ready to lead says 200 and closes at once, so only a stream that lasted was a success.
		// Behind a standby's proxy an idle one lasts 10 s.
		if time.Since(began) >= 5*time.Second {
			pause.reset()
		}
		// Another replica may know a leader, so the pauses grow from round to round only.
		if (i+1)%len(f.client.replicas) == 0 {
			sleep(ctx, pause.next())
		} else {
			sleep(ctx, rand.N(f.retry))
		}
	}
}

// choose gives the replica for the first and each further try: every other time the leader, where it is known. Up to 1.6 a
// standby passes the stream on, through a proxy that breaks when nothing comes for 10 s.
func (f *follower) choose(try int) int {
	leader, ok := f.client.leader()
	switch {
	case !ok:
		return try % len(f.client.replicas)
	case try%2 == 0:
		return leader
	default:
		return (leader + (try+1)/2) % len(f.client.replicas)
	}
}

// follow subscribes at one replica and marks what is heard until the stream ends, which is always an error.
func (f *follower) follow(ctx context.Context, r replica) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	deadline := time.AfterFunc(f.silence, func() { cancel(fmt.Errorf("%w for %s", errSilent, f.silence)) })
	defer deadline.Stop()
	body, err := f.subscribe(ctx, r)
	if err != nil {
		return causeOf(ctx, err)
	}
	defer body.Close()
	// The answer's head comes a moment before the subscription counts, and the first event says that it does. Old
	// Marathons may send none, so a moment's wait stands in for it.
	f.pulse.trouble.Store("")
	first := time.AfterFunc(f.settle, func() { f.pulse.look() })
	defer first.Stop()
	heard := onRead{r: body, do: func() { deadline.Reset(f.silence); f.pulse.alive() }}
	err = readEvents(heard, maxEvent, func(e event) {
		if first.Stop() {
			f.pulse.look()
		}
		f.pulse.event.Store(time.Now().UnixNano())
		if e.matters() {
			f.pulse.hear(e)
		}
	})
	return causeOf(ctx, err)
}

func (f *follower) subscribe(ctx context.Context, r replica) (io.ReadCloser, error) {
	// Marathon compares Accept as a string and answers 405 to anything else.
	req, err := r.request(ctx, eventsPath(), "text/event-stream")
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := f.client.do(r, req)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode != http.StatusOK:
		err = statusError(resp.StatusCode, nil)
	case !isEventStream(resp.Header.Get("Content-Type")):
		err = errors.New("the answer is no event stream")
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp.Body, nil
}

// causeOf prefers our own reason for an end to the one that the connection saw.
func causeOf(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return cause
	case errors.Is(err, io.EOF):
		return errors.New("the stream was closed")
	default:
		return err
	}
}

// onRead calls do whenever bytes come in.
type onRead struct {
	r  io.Reader
	do func()
}

// Read reads on.
func (o onRead) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if n > 0 {
		o.do()
	}
	return n, err
}

// backoff gives pauses that double, each cut by up to a half at random so that many proxies do not ask in step.
type backoff struct {
	first, last time.Duration
}

func (b *backoff) reset() { b.last = 0 }

func (b *backoff) next() time.Duration {
	b.last = min(max(b.first, 2*b.last), max(maxPause, b.first))
	return b.last - rand.N(b.last/2+1)
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
