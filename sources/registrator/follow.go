package registrator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
)

// store is one of the two stores of an etcd cluster.
type store interface {
	// name is storeV2 or storeV3.
	name() string
	// list reads all keys below the prefix, from a majority of the members.
	list(ctx context.Context) (listing, error)
	// open reads all keys and gives what happens to them from then on, until ctx ends.
	open(ctx context.Context) (listing, stream, error)
	// history gives what happened after one revision and up to another, until use has enough. It is errForgotten when the
	// store does not know, or when ctx ends before.
	history(ctx context.Context, after, until uint64, use func([]event) (enough bool)) error
	// position asks where the store is now. The member that a stream comes from must have a majority for its answer.
	position(ctx context.Context) (position, error)
	// close frees what the store holds. It can be used again.
	close()
}

// stream gives events in their order. It is for one goroutine, apart from lags and lost, which are for another one.
type stream interface {
	// next waits for events. An error ends the stream. stale is how many of the last ones said nothing new: when those are
	// many, it may take its time.
	next(ctx context.Context, stale int) ([]event, error)
	// lags reports whether the stream has not shown by now what happened before the last call. now is the store's revision.
	lags(now uint64) bool
	// lost reports whether the stream has left out what it will not show any more. It is called often, and asks etcd only when
	// there is reason to.
	lost(ctx context.Context) bool
}

const (
	storeV2 = "v2"
	storeV3 = "v3"
)

// position is where a store is in its history.
type position struct {
	cluster string // changes when another cluster answers
	at      uint64 // the revision, or index
}

// before reports whether a store that was at q has lost its history.
func (p position) before(q position) bool {
	return q != position{} && (p.cluster != q.cluster || p.at < q.at)
}

// listing is all keys at one moment.
type listing struct {
	position
	values map[string]string // by path below the prefix
}

// event is one thing that happened to a key, or when it is gone and a directory, to all below it.
type event struct {
	change
	directory bool // everything below path, or everything when path is empty
	at        uint64
}

var (
	// errAbsent says that the cluster does not offer a store at all.
	errAbsent = errors.New("etcd does not offer this store")
	// errSilent says that an answer took too long.
	errSilent = errors.New("no whole answer in time")
	// errForgotten says that a store does not know its history that far back.
	errForgotten = errors.New("the history is gone")
	// errAgain ends a session that must begin again with a list, though nothing failed.
	errAgain = errors.New("list again")
)

// follower keeps what one store says. Its fields belong to the goroutine of run.
//
// # When a store lacks keys that it had
//
// A key whose deletion or expiry was seen is gone, and so is one that an ordinary list lacks. Many at once are no reason to
// doubt it: a host that dies loses all its keys in one burst, and the last host may die too. But when a list
//
//   - is of a store whose history went backwards, or of another cluster: it was wiped, restored, or replaced; or
//   - is empty while we knew of keys, and the store's own history does not tell that each of them was deleted,
//
// then what it lacks is doubted instead of removed, since the containers that the keys stood for are probably running still.
// A doubted key counts on with its last value. It is
//
//   - as good as any when somebody writes it again,
//   - gone when its deletion is seen, and
//   - gone when registrators had the time called patience to write it again, counted from when the store had its first
//     key again. While the store stays empty it stays too, and the source says that it has an error.
type follower struct {
	store    store
	mail     *mail
	prefix   string
	at       string // where the store is, for people
	optional bool   // the store may be absent
	refresh  time.Duration
	probe    time.Duration
	patience time.Duration
	timeout  time.Duration
	pause    backoff

	kept    map[string]string
	news    []change // what main does not know yet
	last    position
	doubted map[string]bool
	until   time.Time // when doubted keys go; zero while the store is empty
}

// run follows the store until ctx ends.
func (f *follower) run(ctx context.Context) {
	defer f.store.close()
	for ctx.Err() == nil {
		began := time.Now()
		opened, err := f.session(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			f.pause.reset()
			continue
		case f.optional && errors.Is(err, errAbsent) && len(f.kept) == 0:
			f.mail.read(nil, doubts{})
			f.store.close()
			sleep(ctx, f.refresh)
			continue
		case opened && time.Since(began) > f.pause.first:
			f.pause.reset() // the end of a stream says nothing, unless it cannot be opened again
			f.store.close()
			continue
		}
		f.mail.fail(fmt.Sprintf("the %s store at %s: %s", f.store.name(), f.at, f.explain(err)))
		f.store.close()
		sleep(ctx, f.pause.next())
	}
}

func (f *follower) explain(err error) string {
	switch {
	case !errors.Is(err, errAbsent):
		return err.Error()
	case f.store.name() == storeV2:
		return "etcd does not offer it: it was started without --enable-v2, or is 3.6 or newer; etcd3:// reads the v3 store"
	default:
		return "etcd does not offer it: it is older than 3.0; etcd2:// reads the v2 store"
	}
}

// session lists and follows for as long as one list is believed: the refresh interval, or until something is odd. A nil
// error means that all was well.
func (f *follower) session(ctx context.Context) (opened bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	opening := time.AfterFunc(f.timeout, func() { cancel(errSilent) })
	got, stream, err := f.store.open(ctx)
	if !opening.Stop() || err != nil {
		return false, causeOf(ctx, err)
	}
	f.list(ctx, got)
	refresh := time.AfterFunc(f.left(f.refresh), func() { cancel(errAgain) })
	defer refresh.Stop()
	f.mail.read(f.news, f.doubts())
	f.news = nil
	defer f.watchOver(ctx, cancel, stream)()
	for stale := 0; ; {
		events, err := stream.next(ctx, stale)
		if err != nil {
			if err = causeOf(ctx, err); errors.Is(err, errAgain) {
				err = nil
			}
			return true, err
		}
		waits := f.until.IsZero()
		if stale = f.events(events); waits && !f.until.IsZero() {
			refresh.Reset(f.left(f.refresh))
		}
	}
}

// left is how long the list is good for, if it is for d when nothing is doubted.
func (f *follower) left(d time.Duration) time.Duration {
	if len(f.doubted) == 0 || f.until.IsZero() {
		return d
	}
	return min(d, max(time.Until(f.until), 0))
}

// causeOf prefers our own reason for an end.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// watchOver looks after a stream that may be silent because nothing happens, or because nothing gets through. It gives what
// ends that, and waits for the end.
func (f *follower) watchOver(ctx context.Context, cancel context.CancelCauseFunc, s stream) (stop func()) {
	known := position{cluster: f.last.cluster, at: f.last.at}
	ctx, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		const looks = 5 // for one probe
		for look := 1; ; look++ {
			if sleep(ctx, f.probe/looks); ctx.Err() != nil {
				return
			}
			if s.lost(ctx) && ctx.Err() == nil {
				cancel(errAgain)
				return
			}
			if look%looks != 0 {
				continue
			}
			limited, free := context.WithTimeoutCause(ctx, f.timeout, errSilent)
			now, err := f.store.position(limited)
			if err != nil {
				err = causeOf(limited, err)
			}
			free()
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				cancel(err)
				return
			case now.before(known), s.lags(now.at): // a wiped store leaves streams silent
				cancel(errAgain)
				return
			}
			known = now
			f.mail.alive()
		}
	}()
	return func() { end(); <-done }
}

// list takes a list for the truth, apart from what it makes doubtful.
func (f *follower) list(ctx context.Context, got listing) {
	var missing []string
	for path := range f.kept {
		if _, there := got.values[path]; !there && !f.doubted[path] {
			missing = append(missing, path)
		}
	}
	for path, value := range got.values {
		f.set(path, value)
	}
	if len(missing) > 0 {
		if lost := got.before(f.last); lost || len(got.values) == 0 && !f.deleted(ctx, missing, got) {
			for _, path := range missing {
				f.doubted[path] = true
			}
			f.until = time.Time{}
		} else {
			f.remove(missing)
		}
	}
	f.last = got.position
	if len(got.values) > 0 {
		f.refilled()
	}
	if !f.until.IsZero() && time.Now().After(f.until) {
		for path := range f.doubted {
			f.remove([]string{path})
		}
	}
}

// deleted reports whether the store's history tells of the end of every one of these keys.
func (f *follower) deleted(ctx context.Context, paths []string, got listing) bool {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	left := make(map[string]bool, len(paths))
	for _, path := range paths {
		left[path] = true
	}
	err := f.store.history(ctx, f.last.at, got.at, func(events []event) bool {
		for _, e := range events {
			if e.gone {
				delete(left, e.path)
			}
			if e.gone && e.directory {
				maps.DeleteFunc(left, func(path string, _ bool) bool { return e.covers(path) })
			}
		}
		return len(left) == 0
	})
	return err == nil && len(left) == 0
}

// covers reports whether a path is below a directory.
func (e event) covers(path string) bool {
	return e.path == "" || strings.HasPrefix(path, e.path+"/")
}

// events takes what a stream gave, and tells how much of it said nothing new.
func (f *follower) events(events []event) (stale int) {
	for _, e := range events {
		f.last.at = max(f.last.at, e.at)
		known := len(f.news)
		switch {
		case e.gone && e.directory:
			for path := range f.kept {
				if e.covers(path) {
					f.remove([]string{path})
				}
			}
		case e.gone:
			f.remove([]string{e.path})
		default:
			f.set(e.path, e.value)
			f.refilled()
		}
		if len(f.news) == known {
			stale++
		}
	}
	f.mail.deliver(f.news, f.doubts())
	f.news = nil
	return stale
}

// refilled begins the time that registrators have to write again what is doubted.
func (f *follower) refilled() {
	if len(f.doubted) > 0 && f.until.IsZero() {
		f.until = time.Now().Add(f.patience)
	}
}

// set keeps a value. The same again is no news.
func (f *follower) set(path, value string) {
	if len(f.doubted) > 0 {
		delete(f.doubted, path)
	}
	if old, had := f.kept[path]; had && old == value {
		return
	}
	f.kept[path] = value
	f.news = append(f.news, change{path: path, value: value})
}

func (f *follower) remove(paths []string) {
	for _, path := range paths {
		delete(f.doubted, path)
		if _, had := f.kept[path]; had {
			delete(f.kept, path)
			f.news = append(f.news, change{path: path, gone: true})
		}
	}
}

func (f *follower) doubts() doubts {
	if len(f.doubted) == 0 {
		return doubts{}
	}
	return doubts{any: true, empty: f.until.IsZero(), until: f.until}
}
