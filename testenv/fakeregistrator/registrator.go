package fakeregistrator

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"
)

// Registrator is the registrator of one host, and the host's containers. Its fields are set before it is used; it runs from
// the start. Methods may be called from any goroutine; each has written what it has to write when it returns.
//
// As the real one, it forgets a container whose key it could not write until it is restarted or resyncs, and a key that it
// could not delete for ever.
type Registrator struct {
	Host    string // the host's name; two hosts of one name write the same keys
	Store   Store
	Prefix  string        // "/services"
	TTL     time.Duration // of each key, in whole seconds, parts rounded up; 0 means that keys stay
	Refresh time.Duration // how often Run writes all keys anew; 0 means never. Shorter than TTL
	Resync  time.Duration // how often Run does what a restart does, without forgetting; 0 means never
	Cleanup bool          // a restart and a resync delete what is left of containers that are gone, where Store can tell
	Failed  func(error)   // is told by Run what could not be written; nil means nobody is

	mu         sync.Mutex
	containers []Container        // of the host, oldest first
	services   map[string][]entry // what was written, by container; registrator's memory
	crashed    bool
}

// Add starts a container.
func (r *Registrator) Add(ctx context.Context, c Container) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc(r.containers, named(c.Name)) {
		return fmt.Errorf("container %s exists", c.Name)
	}
	r.containers = append(r.containers, c)
	if r.crashed {
		return nil
	}
	return r.register(ctx, c)
}

// Remove ends a container, however: stopped, killed and removed ones lose their keys alike. To restart one, remove and add
// it: registrator deletes the keys and sets them again, with another value where Docker chose another port.
func (r *Registrator) Remove(ctx context.Context, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.containers, named(name))
	if i < 0 {
		return fmt.Errorf("no container %s", name)
	}
	r.containers = slices.Delete(r.containers, i, i+1)
	var errs []error
	for _, e := range r.services[name] { // none after a crash
		errs = append(errs, r.Store.Delete(ctx, e.key(r.Prefix)))
	}
	delete(r.services, name)
	return errors.Join(errs...)
}

// Crash ends registrator, or the whole host; SIGTERM and SIGKILL leave the same: nothing is deleted, nothing is written any
// more, and keys with a TTL expire. Containers come and go without it.
func (r *Registrator) Crash() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.crashed, r.services = true, nil
}

// Restart ends registrator, if it runs, and starts it: the keys of all containers are set, whether they were there or not.
// What is left of containers that have gone meanwhile stays, but see Cleanup.
func (r *Registrator) Restart(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.crashed, r.services = false, nil
	return r.sync(ctx)
}

// Run refreshes and resyncs until ctx ends, which deletes nothing. Nothing happens while registrator is crashed.
func (r *Registrator) Run(ctx context.Context) error {
	refresh, stop := ticks(r.Refresh)
	defer stop()
	resync, stop := ticks(r.Resync)
	defer stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-refresh:
			err = r.whileUp(ctx, r.refresh)
		case <-resync:
			err = r.whileUp(ctx, r.sync)
		}
		if err != nil && ctx.Err() == nil && r.Failed != nil {
			r.Failed(err)
		}
	}
}

// ticks gives no ticks for a period of 0.
func ticks(period time.Duration) (<-chan time.Time, func()) {
	if period == 0 {
		return nil, func() {}
	}
	t := time.NewTicker(period)
	return t.C, t.Stop
}

func (r *Registrator) whileUp(ctx context.Context, do func(context.Context) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.crashed {
		return nil
	}
	return do(ctx)
}

func named(name string) func(Container) bool {
	return func(c Container) bool { return c.Name == name }
}

func (r *Registrator) register(ctx context.Context, c Container) error {
	var errs []error
	for _, e := range entries(r.Host, c) {
		if err := r.write(ctx, e); err != nil {
			errs = append(errs, err)
			continue
		}
		if r.services == nil {
			r.services = map[string][]entry{}
		}
		r.services[c.Name] = append(r.services[c.Name], e)
	}
	return errors.Join(errs...)
}

// write sets a key that is there already, too: every refresh is an event with the same value.
func (r *Registrator) write(ctx context.Context, e entry) error {
	return r.Store.Set(ctx, e.key(r.Prefix), e.value, r.TTL)
}

func (r *Registrator) refresh(ctx context.Context) error {
	var errs []error
	for _, c := range r.containers {
		for _, e := range r.services[c.Name] {
			errs = append(errs, r.write(ctx, e))
		}
	}
	return errors.Join(errs...)
}

// sync writes the containers that registrator knows as a refresh does, and registers the others.
func (r *Registrator) sync(ctx context.Context) error {
	errs := []error{r.refresh(ctx)}
	for _, c := range r.containers {
		if r.services[c.Name] == nil {
			errs = append(errs, r.register(ctx, c))
		}
	}
	if r.Cleanup {
		errs = append(errs, r.cleanup(ctx))
	}
	return errors.Join(errs...)
}

// registered is the ID of which registrator knows that it is one of its own: HOST:CONTAINER:EXPOSED[:udp].
var registered = regexp.MustCompile(`^(.+?):([a-zA-Z0-9][a-zA-Z0-9_.-]+):[0-9]+(?::udp)?$`)

// cleanup deletes this host's keys of containers that it has no key for. It splits a key at the first slash, so that keys of
// services with a slash in their names stay, as those with a SERVICE_ID do.
func (r *Registrator) cleanup(ctx context.Context) error {
	found, err := r.Store.services(ctx, r.Prefix)
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	var errs []error
	for _, e := range found {
		id := registered.FindStringSubmatch(e.id)
		ofService := func(known entry) bool { return known.service == e.service }
		if id == nil || id[1] != r.Host || slices.ContainsFunc(r.services[id[2]], ofService) {
			continue
		}
		errs = append(errs, r.Store.Delete(ctx, e.key(r.Prefix)))
	}
	return errors.Join(errs...)
}
