// Package marathon finds services in Marathon: the apps' service ports, and the tasks that serve them now.
//
// An event of Marathon's stream only says "look again": the app that it names is then read, or the whole list of apps with
// their tasks, as each refresh interval. What the list means is worked out by pure functions, app by app (parse.go, ports.go, labels.go, routable.go); the rest asks
// the replicas (client.go, read.go), listens to events (events.go, stream.go) and decides what counts (source.go).
package marathon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/hostname"
)

const (
	sourceName = "marathon"
	// priority puts Marathon over registrator (200) and the services file (100).
	priority = 300
)

// Config says which Marathon to read and how. Every zero duration means the default that is named.
type Config struct {
	// URLs are the replicas of one Marathon, such as "http://user:password@marathon1:8080/".
	URLs []string
	// RefreshInterval is how often everything is read when no event asks for it (60 s).
	RefreshInterval time.Duration
	// GroupSize is how many proxies share the connections of a server: a maxconn label is divided by it. 0 means 1.
	GroupSize int

	// Timeout is for one whole answer of one replica (60 s).
	Timeout time.Duration
	// Silence is how long an event stream may be without a byte; Marathon sends one every 10 s (35 s).
	Silence time.Duration
	// ConfirmPause is the wait before an answer that lost most servers is read again (1 s).
	ConfirmPause time.Duration
	// Settle is how long Marathon may take to show what an event announced (100 ms).
	Settle time.Duration
	// RetryPause is the first wait after a failure; the following ones double up to 15 s (0.5 s).
	RetryPause time.Duration
	// Resolve gives the addresses of an agent's host name (nil: the system's resolver).
	Resolve hostname.Lookup
}

// Source reads one Marathon. It satisfies reconcile.Source.
type Source struct {
	config Config
	client *client
	before *run // the last Run, of which the next knows what had been read
}

// New checks the configuration. The error names the bad URL, without its user name and password.
func New(config Config) (*Source, error) {
	if len(config.URLs) == 0 {
		return nil, errors.New("no marathon URL")
	}
	if config.GroupSize < 0 {
		return nil, fmt.Errorf("group size %d: want 1 or more", config.GroupSize)
	}
	config.GroupSize = max(config.GroupSize, 1)
	var replicas []replica
	for _, raw := range config.URLs {
		r, err := parseReplica(raw)
		if err != nil {
			return nil, err
		}
		replicas = append(replicas, r)
	}
	setDefault(&config.RefreshInterval, time.Minute)
	setDefault(&config.Timeout, time.Minute)
	setDefault(&config.Silence, 35*time.Second)
	setDefault(&config.ConfirmPause, time.Second)
	setDefault(&config.Settle, 100*time.Millisecond)
	setDefault(&config.RetryPause, 500*time.Millisecond)
	return &Source{config: config, client: newClient(replicas, config.Timeout)}, nil
}

func setDefault(d *time.Duration, otherwise time.Duration) {
	if *d <= 0 {
		*d = otherwise
	}
}

// Name is "marathon".
func (s *Source) Name() string { return sourceName }

// Read reads everything once from the first replica that gives a usable answer.
func (s *Source) Read(ctx context.Context) (catalog.Snapshot, error) {
	got, err := s.reader().read(ctx, int(s.client.preferred.Load()))
	if err != nil {
		return catalog.Snapshot{}, fmt.Errorf("read marathon: %w", err)
	}
	got.snapshot.Heard = got.snapshot.Succeeded
	return got.snapshot, nil
}

func (s *Source) reader() *reader {
	return &reader{client: s.client, groupSize: s.config.GroupSize, forgive: s.config.RefreshInterval,
		versions: make(map[versionKey]knownVersion),
		hosts:    hostname.New(s.config.Resolve)}
}

// Run sends a snapshot when something has changed, when reading begins or ceases to fail, and one each refresh
// interval as a sign of life, until ctx ends; it returns ctx's error.
func (s *Source) Run(ctx context.Context, out chan<- catalog.Snapshot) error {
	r := &run{config: s.config, reader: s.reader(), pulse: newPulse(), out: out, pause: backoff{first: s.config.RetryPause}}
	r.last = catalog.Snapshot{Source: sourceName, Priority: priority}
	if s.before != nil { // an answer that lost most servers is no more believed for a new Run
		r.reader, r.last, r.accepts = s.before.reader, s.before.last, s.before.accepts
	}
	defer func() { s.before = r }()
	f := follower{client: s.client, pulse: r.pulse, silence: s.config.Silence, settle: s.config.Settle, retry: s.config.RetryPause}
	var wait sync.WaitGroup
	wait.Go(func() { f.run(ctx) })
	defer func() {
		wait.Wait()
		s.client.http.CloseIdleConnections()
	}()
	// The first reading comes once there is a subscription, or none to be had, or one that takes too long.
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	for {
		var why cause
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.pulse.wake:
			why = r.pulse.take()
		case <-timer.C:
			why = cause{announced: r.pulse.take().announced}
		}
		timer.Reset(r.update(ctx, why))
	}
}

// run is the state of Run, of which only its goroutine knows.
type run struct {
	config  Config
	reader  *reader
	pulse   *pulse
	out     chan<- catalog.Snapshot
	pause   backoff
	base    reading          // the last one that counted, for what changes in it; none while reading fails
	last    catalog.Snapshot // the last good answer, with Err while reading fails
	sent    time.Time        // when a snapshot was sent last
	accepts bool             // there is a last good answer
}

// update reads what may have changed, sends what came of it, and tells when to read everything at the latest.
func (r *run) update(ctx context.Context, why cause) time.Duration {
	got, err := r.accept(ctx, why.apps)
	if ctx.Err() != nil {
		return r.config.RefreshInterval
	}
	if err != nil {
		r.base = reading{}
		r.fail(ctx, hostname.Reason(err))
		return min(r.pause.next(), r.config.RefreshInterval)
	}
	r.base = got
	r.pause.reset()
	r.pulse.alive()
	changed := r.succeed(ctx, got.snapshot)
	left := max(0, r.config.RefreshInterval-time.Since(got.whole))
	if why.announced && !changed {
		// Up to 1.2 an event may come before the list shows what it announced.
		return min(r.config.Settle, left)
	}
	return left
}

// accept reads until an answer counts. One that lost most servers is a failover's or a lone standby's as likely as the
// truth: it counts when a second reading, of another replica where there is one, agrees. A second one that has more
// stands in its place.
func (r *run) accept(ctx context.Context, apps []string) (reading, error) {
	got, err := r.read(ctx, apps)
	for range maxConfirmations {
		if err != nil || !r.suspicious(got.snapshot) {
			break
		}
		sleep(ctx, r.config.ConfirmPause)
		before := catalog.CountServers(got.snapshot.Services)
		got, err = r.reader.read(ctx, got.replica+1)
		if err != nil || catalog.CountServers(got.snapshot.Services) <= before {
			break
		}
	}
	return got, err
}

// read reads the apps that changed. It reads everything when that is not known, cannot be had, or is due anyway: events
// may be lost.
func (r *run) read(ctx context.Context, apps []string) (reading, error) {
	if len(apps) > 0 && r.base.apps != nil && time.Since(r.base.whole) < r.config.RefreshInterval {
		if got, err := r.reader.refresh(ctx, r.base, apps); err == nil {
			return got, nil
		}
	}
	return r.reader.read(ctx, int(r.reader.client.preferred.Load()))
}

// maxConfirmations bounds how often answers that grow, but stay small, are read again.
const maxConfirmations = 10

// suspicious reports whether an answer lacks more than half of the servers of the last one that counted, or all.
func (r *run) suspicious(s catalog.Snapshot) bool {
	before, now := catalog.CountServers(r.last.Services), catalog.CountServers(s.Services)
	return before > 0 && (now == 0 || 2*now < before)
}

// succeed takes an answer for the truth and sends it if it says anything new, or nothing was sent for long.
func (r *run) succeed(ctx context.Context, s catalog.Snapshot) (changed bool) {
	if trouble := r.pulse.trouble.Load().(string); trouble != "" {
		s.Problems = sortProblems(append(s.Problems, problem("event stream", fmt.Sprintf(
			"%s; changes are seen each refresh interval (%s) only", trouble, r.config.RefreshInterval))))
	}
	changed = !r.accepts || r.last.Err != "" || !same(r.last, s)
	r.last, r.accepts = s, true
	if changed || time.Since(r.sent) >= r.config.RefreshInterval {
		r.send(ctx)
	}
	return changed
}

// fail sends the last services again when reading begins to fail, or fails for another reason.
func (r *run) fail(ctx context.Context, reason string) {
	if r.last.Err == reason {
		return
	}
	r.last.Err = reason
	r.send(ctx)
}

func (r *run) send(ctx context.Context) {
	r.last.Heard = r.pulse.lastHeard()
	select {
	case r.out <- r.last:
		r.sent = time.Now()
	case <-ctx.Done():
	}
}

func same(a, b catalog.Snapshot) bool {
	return slices.EqualFunc(a.Services, b.Services, catalog.Service.Equal) && slices.Equal(a.Problems, b.Problems)
}
