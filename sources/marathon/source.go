// Package marathon finds services in Marathon: the apps' service ports, and the tasks that serve them now.
//
// Apps are known as Marathon listed them last (fleet.go, beliefs.go, board.go). An event of its stream changes what it tells by itself (hear.go, words.go),
// and has the app that it names read again, or the whole list, as each refresh interval does (agenda.go). What an app means is
// worked out by pure functions (parse.go, ports.go, labels.go, routable.go); the rest asks the replicas (client.go, read.go)
// as who we are (access.go, dcos.go, session.go, redirect.go, tls.go), listens to events (events.go, stream.go, callback.go,
// subscribe.go) and decides what counts (source.go, run.go).
package marathon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/hostname"
)

// Name is what a Marathon is called that has no other name.
const Name = "marathon"

// priority puts Marathon over registrator (200) and the services file (100).
const priority = 300

// Config says which Marathon to read and how. Every zero duration means the default that is named.
type Config struct {
	// Name is the source's name ("marathon").
	Name string
	// After is how many other Marathons go before this one where both have a service on one port, at most 99.
	After int
	// URLs are the replicas of one Marathon, such as "http://user:password@marathon1:8080/".
	URLs []string
	// Callback is the URL that Marathon posts its events to, such as "http://this-host:5090": Run listens on its port, on
	// all addresses, and follows the event stream only where there are no callbacks. Empty: no callbacks.
	Callback string
	// RefreshInterval is how often everything is read when no event asks for it (60 s).
	RefreshInterval time.Duration
	// GroupSize is how many proxies share the connections of a server: a maxconn label is divided by it. 0 means 1.
	GroupSize int
	// Access says who we are to the replicas. New takes it as checked by its Check.
	Access Access

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
	config.Name, config.After = cmp.Or(config.Name, Name), min(max(config.After, 0), 99)
	if config.Callback != "" {
		if _, _, err := parseCallback(config.Callback); err != nil {
			return nil, err
		}
	}
	setDefault(&config.RefreshInterval, time.Minute)
	setDefault(&config.Timeout, time.Minute)
	setDefault(&config.Silence, 35*time.Second)
	setDefault(&config.ConfirmPause, time.Second)
	setDefault(&config.Settle, 100*time.Millisecond)
	setDefault(&config.RetryPause, 500*time.Millisecond)
	client, err := newClient(replicas, config.Access, config.Timeout)
	if err != nil {
		return nil, err
	}
	return &Source{config: config, client: client}, nil
}

func setDefault(d *time.Duration, otherwise time.Duration) {
	if *d <= 0 {
		*d = otherwise
	}
}

// Name is the name that it was given.
func (s *Source) Name() string { return s.config.Name }

// Read reads everything once from the first replica that gives a usable answer.
func (s *Source) Read(ctx context.Context) (catalog.Snapshot, error) {
	got, err := s.reader().all(ctx, int(s.client.preferred.Load()))
	if err != nil {
		return catalog.Snapshot{}, fmt.Errorf("read %s: %w", s.config.Name, err)
	}
	fleet, _ := newFleet(s.config.Name, s.config.GroupSize).renewed(got, time.Now())
	snapshot := s.config.snapshot()
	snapshot.Services, snapshot.Problems = fleet.board.all(), fleet.problems()
	snapshot.Succeeded = time.Now()
	snapshot.Heard = snapshot.Succeeded
	return snapshot, nil
}

// snapshot gives an empty one.
func (c Config) snapshot() catalog.Snapshot {
	return catalog.Snapshot{Source: c.Name, Priority: priority - c.After}
}

func (s *Source) reader() *reader {
	return &reader{client: s.client, forgive: s.config.RefreshInterval, versions: make(map[versionKey]knownVersion),
		hosts: hostname.New(s.config.Resolve)}
}

// Run sends a snapshot when something has changed, when reading begins or ceases to fail, and from time to time as a sign of
// life, until ctx ends; it returns ctx's error.
func (s *Source) Run(ctx context.Context, out chan<- catalog.Snapshot) error {
	r := newRun(s.config, s.reader(), out)
	if s.before != nil { // an answer that lost most servers is no more believed for a new Run
		r.reader, r.fleet, r.read, r.accepts, r.failing = s.before.reader, s.before.fleet, s.before.read, s.before.accepts, s.before.failing
	}
	defer func() { s.before = r }()
	f := follower{client: s.client, pulse: r.pulse, silence: s.config.Silence, settle: s.config.Settle, retry: s.config.RetryPause}
	listen := f.run
	if s.config.Callback != "" {
		follow := func(ctx context.Context) { f.run(ctx); r.pulse.trouble.Store("") }
		r.callbacks = newCallbacks(s.config, s.client, follow, r.pulse.posted)
		listen, r.hints = r.callbacks.run, r.callbacks.hints
	}
	var wait sync.WaitGroup
	wait.Go(func() { listen(ctx) })
	defer func() {
		wait.Wait()
		s.client.http.CloseIdleConnections()
	}()
	return r.loop(ctx)
}
