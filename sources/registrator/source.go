// Package registrator finds services that registrator writes into etcd: one key for each published port of each container.
//
// Upstream registrator writes etcd's v2 store, its maintained fork the v3 store. Each store has a reader (v2.go, v3.go) and
// a goroutine that follows it (follow.go); what the keys mean is worked out by pure code (parse.go, board.go); source.go
// puts it together.
package registrator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/hostname"
)

const (
	sourceName = "registrator"
	// priority puts registrator over the services file (100) and below Marathon (300).
	priority = 200
)

// Config says which etcd to read and how. Every zero duration means the default that is named.
type Config struct {
	// URL is where registrator writes, such as "etcd://user:password@host1:2379,host2:2379/services". A missing port is
	// 2379, a missing path /services. etcd:// finds out which store has the keys, etcd2:// and etcd3:// say it.
	URL string
	// CAFile has the certificates that etcd's own is checked against. With it, or with CertFile, TLS is used.
	CAFile string
	// CertFile and KeyFile are the certificate and key that we show. They are read again for each connection.
	CertFile, KeyFile string
	// User and Password, when there is a user, stand in for those of the URL.
	User, Password string

	// RefreshInterval is how often everything is read again, and a snapshot sent as a sign of life (60 s).
	RefreshInterval time.Duration
	// Probe is how often etcd is asked whether it lives while nothing happens (5 s).
	Probe time.Duration
	// Timeout is for one whole answer of etcd (5 s).
	Timeout time.Duration
	// Patience is how long a store that was wiped may take until registrators have written their keys again (10 min).
	Patience time.Duration
	// RetryPause is the first wait after a failure; the following ones double up to 15 s (0.5 s).
	RetryPause time.Duration
	// Resolve gives the addresses of host names in values (nil: the system's resolver).
	Resolve hostname.Lookup
}

// Source reads one etcd cluster. It satisfies reconcile.Source.
type Source struct {
	config Config
	where  location
	stores []store // in the order in which they count
	before *run    // the last Run, of which the next knows what had been read
}

// New checks the configuration and the certificates' files; it does not use the network. The error tells what is wrong and
// the remedy, without user names and passwords.
func New(config Config) (*Source, error) {
	where, err := parseURL(config.URL)
	if err != nil {
		return nil, err
	}
	if config.User != "" {
		where.user, where.password = config.User, config.Password
	}
	if where.user == "" && (where.password != "" || config.Password != "") {
		return nil, errors.New("registrator: there is a password, but no user")
	}
	secure, err := tlsConfig(config)
	if err != nil {
		return nil, err
	}
	setDefault(&config.RefreshInterval, time.Minute)
	setDefault(&config.Probe, 5*time.Second)
	setDefault(&config.Timeout, 5*time.Second)
	setDefault(&config.Patience, 10*time.Minute)
	setDefault(&config.RetryPause, 500*time.Millisecond)
	s := &Source{config: config, where: where}
	for _, name := range where.stores {
		s.stores = append(s.stores, newStore(name, where, secure, config.Timeout))
	}
	return s, nil
}

func setDefault(d *time.Duration, otherwise time.Duration) {
	if *d <= 0 {
		*d = otherwise
	}
}

func newStore(name string, where location, secure *tls.Config, timeout time.Duration) store {
	web := newWeb(where, secure, timeout)
	if name == storeV2 {
		return newV2(where, web)
	}
	return newV3(where, secure, web)
}

// Name is "registrator".
func (s *Source) Name() string { return sourceName }

// Read reads everything once. Every store that the cluster offers must answer.
func (s *Source) Read(ctx context.Context) (catalog.Snapshot, error) {
	b := newBoard(s.where.prefix, len(s.stores))
	for i, store := range s.stores {
		limited, cancel := context.WithTimeoutCause(ctx, s.config.Timeout, errSilent)
		got, err := store.list(limited)
		err = causeIfLate(limited, err)
		cancel()
		store.close()
		f := s.follower(store)
		if f.optional && errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return catalog.Snapshot{}, fmt.Errorf("read registrator: the %s store at %s: %s", store.name(), f.at, f.explain(err))
		}
		for path, value := range got.values {
			b.apply(i, change{path: path, value: value})
		}
	}
	hosts := hostname.New(s.config.Resolve)
	answers := hosts.Resolve(ctx, b.names())
	if err := hosts.Late(answers, time.Now()); err != nil {
		return catalog.Snapshot{}, fmt.Errorf("read registrator: %w", err)
	}
	b.resolved(answers)
	b.build()
	now := time.Now()
	return catalog.Snapshot{Source: sourceName, Priority: priority, Services: b.services, Problems: b.problems(), Succeeded: now, Heard: now}, nil
}

func causeIfLate(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return causeOf(ctx, err)
}

func (s *Source) follower(store store) *follower {
	return &follower{store: store, prefix: s.where.prefix, at: strings.Join(s.where.addrs, ","), optional: len(s.stores) > 1,
		refresh: s.config.RefreshInterval, probe: s.config.Probe, patience: s.config.Patience, timeout: s.config.Timeout,
		pause: backoff{first: s.config.RetryPause}, kept: make(map[string]string), doubted: make(map[string]bool)}
}

// Run sends a snapshot when something has changed, when reading begins or ceases to fail, and one each refresh interval as a
// sign of life, until ctx ends; it returns ctx's error.
func (s *Source) Run(ctx context.Context, out chan<- catalog.Snapshot) error {
	r := s.before // what a store had before counts for a new Run too
	if r == nil {
		r = &run{config: s.config, board: newBoard(s.where.prefix, len(s.stores)), hosts: hostname.New(s.config.Resolve),
			wake: make(chan struct{}, 1), resolved: make(chan names, 1),
			last: catalog.Snapshot{Source: sourceName, Priority: priority}}
		for _, store := range s.stores {
			f := s.follower(store)
			f.mail = &mail{wake: r.wake}
			r.followers = append(r.followers, f)
		}
		s.before = r
	}
	r.out, r.told = out, false
	var wait sync.WaitGroup
	defer wait.Wait()
	for _, f := range r.followers {
		wait.Go(func() { f.run(ctx) })
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.wake:
		case got := <-r.resolved:
			r.take(got)
		case <-timer.C:
		}
		r.update(ctx, &wait)
		sleep(ctx, r.burst)
		timer.Reset(r.next())
	}
}
