package marathon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meltwater/proxymatic/sources/hostname"
)

// appsPath asks for everything at one moment. Marathon 0.8 reads the first embed only, so the tasks come first.
const appsPath = "/v2/apps?embed=apps.tasks&embed=apps.deployments&embed=apps.readiness"

// reader asks for apps, and for what they leave open. It may be used by several goroutines.
type reader struct {
	client *client
	hosts  *hostname.Resolver

	lock     sync.Mutex
	versions map[versionKey]knownVersion
	forgive  time.Duration // how long a version that was not found is not asked for again
}

// knownVersion is a version's definition, which never changes, or for a while that there is none.
type knownVersion struct {
	answer versionAnswer
	until  time.Time // when to ask again; zero is never
	used   time.Time // when a task of it was listed last
}

// keptVersions is how long a definition is kept that no task needs.
const keptVersions = 5 * time.Minute

// all asks the replicas for all apps, beginning with the first one given.
func (r *reader) all(ctx context.Context, first int) (reading, error) {
	got := reading{asked: time.Now()}
	at, err := r.client.ask(ctx, question{path: appsPath, first: first, use: func(body []byte) (err error) {
		got.apps, got.problems, err = parseApps(body)
		return err
	}})
	if err != nil {
		return reading{}, err
	}
	got.replica = at
	r.client.preferred.Store(int64(at))
	defer r.forget(got.asked)
	return got, r.complete(ctx, &got)
}

// onePatience is how long an app may take, before the whole list is asked for; maxOne bounds its answer. 1,000 tasks are 1 MB.
const (
	onePatience = 5 * time.Second
	maxOne      = 32 << 20
)

// errMalformed is about one app, which the list may tell of all the same.
var errMalformed = errors.New("an app that cannot be read")

// one asks for one app.
func (r *reader) one(ctx context.Context, id string) (reading, error) {
	path, ok := apiPath(id)
	if !ok {
		return reading{}, fmt.Errorf("%.100q is no app", id)
	}
	ctx, cancel := context.WithTimeout(ctx, onePatience)
	defer cancel()
	got := reading{asked: time.Now(), apps: make([]app, 1), replica: int(r.client.preferred.Load())}
	malformed := false // by each replica that answered
	// Tasks and deployments are always in this answer.
	q := question{path: path + "?embed=app.readiness", first: got.replica, missing: true, most: maxOne, use: func(body []byte) (err error) {
		got.apps[0], err = parseOne(body, id)
		malformed = err != nil
		return err
	}}
	switch _, err := r.client.ask(ctx, q); {
	case errors.Is(err, errNotFound):
		return reading{asked: got.asked, missing: id}, nil
	case err != nil && malformed:
		return reading{}, fmt.Errorf("%w: %w", errMalformed, err)
	case err != nil:
		return reading{}, err
	}
	return got, r.complete(ctx, &got)
}

// complete asks for what the apps leave open.
func (r *reader) complete(ctx context.Context, got *reading) error {
	needed := versionsNeeded(got.apps)
	if err := r.readVersions(ctx, needed); err != nil {
		return err
	}
	r.learn(got.apps, time.Now())
	got.hosts = r.hosts.Resolve(ctx, hostsNeeded(got.apps))
	if err := r.hosts.Late(got.hosts, time.Now()); err != nil {
		return err
	}
	got.versions = make(map[versionKey]versionAnswer, len(needed))
	r.lock.Lock()
	for _, key := range needed {
		got.versions[key] = r.versions[key].answer
	}
	r.lock.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.hosts.Settle()
	return nil
}

// readVersions makes the cache hold what is needed. It keeps for a while what is not: around a failover a list may lack
// tasks for a moment, and Marathon may not be able to tell their versions again.
func (r *reader) readVersions(ctx context.Context, needed []versionKey) error {
	now := time.Now()
	var errs []error
	each(r.unknown(needed, now), 8, func(key versionKey) {
		known, err := r.readVersion(ctx, key)
		r.lock.Lock()
		defer r.lock.Unlock()
		if err != nil {
			errs = append(errs, err)
			return
		}
		r.versions[key] = known
	})
	if len(errs) > 0 {
		return errs[0]
	}
	r.lock.Lock()
	defer r.lock.Unlock()
	for _, key := range needed {
		known := r.versions[key]
		known.used = now
		r.versions[key] = known
	}
	return nil
}

// unknown gives the versions that must be asked for.
func (r *reader) unknown(needed []versionKey, now time.Time) []versionKey {
	r.lock.Lock()
	defer r.lock.Unlock()
	return slices.DeleteFunc(slices.Clone(needed), func(key versionKey) bool {
		known, ok := r.versions[key]
		return ok && (known.until.IsZero() || now.Before(known.until))
	})
}

// forget drops the versions that nobody has needed for long.
func (r *reader) forget(now time.Time) {
	r.lock.Lock()
	defer r.lock.Unlock()
	kept := max(keptVersions, 2*r.forgive)
	maps.DeleteFunc(r.versions, func(_ versionKey, known knownVersion) bool { return now.Sub(known.used) > kept })
}

// learn keeps the definitions of the versions that run now: once an app is upgraded they pair the ports of the tasks
// that still run, without a question that Marathon might not answer.
func (r *reader) learn(apps []app, now time.Time) {
	r.lock.Lock()
	defer r.lock.Unlock()
	for _, a := range apps {
		last := ""
		for _, t := range a.tasks {
			if t.Version != last && t.running() && a.runs(t) {
				last = t.Version
				r.versions[versionKey{a.ID, t.Version}] = knownVersion{answer: versionAnswer{definition: a.definition}, used: now}
			}
		}
	}
}

// readVersion gives a definition, or an answer with the reason why Marathon gives none. An error means that no replica
// could say, so that other questions would fare no better.
func (r *reader) readVersion(ctx context.Context, key versionKey) (knownVersion, error) {
	missing := func(reason string) (knownVersion, error) {
		return knownVersion{answer: versionAnswer{reason: reason}, until: time.Now().Add(r.forgive)}, nil
	}
	path, ok := apiPath(key.app, "versions", key.version)
	if !ok {
		return missing("its name cannot be asked for")
	}
	var known knownVersion
	var malformed error
	q := question{path: path, first: int(r.client.preferred.Load()), missing: true, use: func(body []byte) error {
		known.answer.definition, malformed = parseDefinition(body)
		return nil
	}}
	var failed unanswered
	switch _, err := r.client.ask(ctx, q); {
	case errors.Is(err, errNotFound):
		return missing("Marathon no longer knows it")
	case errors.As(err, &failed) && failed.refused:
		return missing("Marathon does not tell it: " + failed.text)
	case err != nil:
		return knownVersion{}, err
	case malformed != nil:
		return missing(malformed.Error())
	default:
		return known, nil
	}
}

// apiPath is where an app is, or what the further names below it say, unless one of the names would lead elsewhere.
func apiPath(id string, below ...string) (string, bool) {
	path := "/v2/apps"
	for segment := range strings.SplitSeq(strings.Join(append([]string{strings.Trim(id, "/")}, below...), "/"), "/") {
		if segment == "" || segment == "." || segment == ".." {
			return "", false
		}
		path += "/" + url.PathEscape(segment)
	}
	return path, true
}

// each calls do for every item, so many at a time, and returns when all are done.
func each[T any](items []T, parallel int, do func(T)) {
	var wait sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for _, item := range items {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			do(item)
		})
	}
	wait.Wait()
}
