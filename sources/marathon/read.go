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

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/hostname"
)

// appsPath asks for everything at one moment. Marathon 0.8 reads the first embed only, so the tasks come first.
const appsPath = "/v2/apps?embed=apps.tasks&embed=apps.deployments&embed=apps.readiness"

// reader reads snapshots. Its caches belong to one goroutine.
type reader struct {
	client    *client
	hosts     *hostname.Resolver
	groupSize int
	versions  map[versionKey]knownVersion
	alive     map[string]time.Time
	forgive   time.Duration // how long a version that was not found is not asked for again
}

// knownVersion is a version's definition, which never changes, or for a while that there is none.
type knownVersion struct {
	answer versionAnswer
	until  time.Time // when to ask again; zero is never
	used   time.Time // when a task of it was listed last
}

// reading is a snapshot, what it came of, and the replica that gave it. It is never written to again.
type reading struct {
	snapshot catalog.Snapshot
	apps     []app
	problems []catalog.Problem // of the list, not of an app in it
	replica  int
	whole    time.Time // when the whole list was read
}

// read asks the replicas for everything, beginning with the first one given.
func (r *reader) read(ctx context.Context, first int) (reading, error) {
	var got reading
	at, err := r.client.ask(ctx, question{path: appsPath, first: first, use: func(body []byte) (err error) {
		got.apps, got.problems, err = parseApps(body)
		return err
	}})
	if err != nil {
		return reading{}, err
	}
	got.replica, got.whole = at, time.Now()
	return r.conclude(ctx, got)
}

// onePatience is how long the apps that an event named may take, before the whole list is asked for instead.
const onePatience = 5 * time.Second

// refresh reads some apps of an earlier reading again. Any error, an app that was not listed or that is gone among them,
// means that the whole list must tell.
func (r *reader) refresh(ctx context.Context, base reading, ids []string) (reading, error) {
	limited, cancel := context.WithTimeout(ctx, onePatience)
	defer cancel()
	got := reading{apps: slices.Clone(base.apps), problems: base.problems, replica: base.replica, whole: base.whole}
	for _, id := range ids {
		i := slices.IndexFunc(got.apps, func(a app) bool { return a.ID == id })
		path, ok := apiPath(id)
		if i < 0 || !ok {
			return reading{}, fmt.Errorf("app %.100q was not listed", id)
		}
		// Tasks and deployments are always in this answer.
		q := question{path: path + "?embed=app.readiness", first: got.replica, missing: true, use: func(body []byte) (err error) {
			got.apps[i], err = parseOne(body, id)
			return err
		}}
		at, err := r.client.ask(limited, q)
		if err != nil {
			return reading{}, err
		}
		got.replica = at
	}
	return r.conclude(ctx, got)
}

// conclude asks for what the apps leave open, and finds their services.
func (r *reader) conclude(ctx context.Context, got reading) (reading, error) {
	r.client.preferred.Store(int64(got.replica))
	needed := versionsNeeded(got.apps)
	if err := r.readVersions(ctx, needed); err != nil {
		return reading{}, err
	}
	r.learn(got.apps, time.Now())
	hosts := r.hosts.Resolve(ctx, hostsNeeded(got.apps))
	if err := r.hosts.Late(hosts, time.Now()); err != nil {
		return reading{}, err
	}
	w := world{versions: make(map[versionKey]versionAnswer), hosts: hosts, alive: r.alive, now: time.Now(), groupSize: r.groupSize}
	for _, key := range needed {
		w.versions[key] = r.versions[key].answer
	}
	if ctx.Err() != nil {
		return reading{}, ctx.Err()
	}
	found, problems := services(got.apps, w)
	r.alive = remember(got.apps, w)
	r.hosts.Settle()
	got.snapshot = catalog.Snapshot{Source: sourceName, Priority: priority, Services: found,
		Problems: sortProblems(slices.Concat(got.problems, problems)), Succeeded: time.Now()}
	return got, nil
}

// readVersions makes the cache hold what is needed. It keeps for a while what is not: around a failover a list may lack
// tasks for a moment, and Marathon may not be able to tell their versions again.
func (r *reader) readVersions(ctx context.Context, needed []versionKey) error {
	now := time.Now()
	maps.DeleteFunc(r.versions, func(_ versionKey, known knownVersion) bool { return now.Sub(known.used) > remembered })
	unknown := slices.DeleteFunc(slices.Clone(needed), func(key versionKey) bool {
		known, ok := r.versions[key]
		return ok && (known.until.IsZero() || now.Before(known.until))
	})
	var lock sync.Mutex
	var errs []error
	each(unknown, 8, func(key versionKey) {
		known, err := r.readVersion(ctx, key)
		lock.Lock()
		defer lock.Unlock()
		if err != nil {
			errs = append(errs, err)
			return
		}
		r.versions[key] = known
	})
	if len(errs) > 0 {
		return errs[0]
	}
	for _, key := range needed {
		known := r.versions[key]
		known.used = now
		r.versions[key] = known
	}
	return nil
}

// learn keeps the definitions of the versions that run now: once an app is upgraded they pair the ports of the tasks
// that still run, without a question that Marathon might not answer.
func (r *reader) learn(apps []app, now time.Time) {
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
