package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/runtime/reconcile"
)

// reread reads the configuration again and prepares what runs from it.
func (r *runner) reread(old *instance, stderr io.Writer) (*instance, error) {
	c, err := r.next(old.config)
	if err != nil {
		return nil, err
	}
	return newInstance(c, stderr, old, neighbours{})
}

// plan tells what would happen now, and at a HUP first: with another configuration than that of the last reading, the plan is
// made from that one, and says so.
func (r *runner) plan(ctx context.Context) planned {
	current := r.current.Load()
	next, err := r.reread(current, io.Discard)
	switch {
	case err != nil:
		answer := planOf(current.loop.Plan(ctx))
		answer.Note = "a HUP would not take the configuration as it is now: " + err.Error()
		return answer
	case reflect.DeepEqual(next.config, current.config) && reflect.DeepEqual(next.templates, current.templates):
		return planOf(current.loop.Plan(ctx))
	}
	fresh := slices.DeleteFunc(slices.Clone(next.sources), func(s reconcile.Source) bool { return slices.Contains(current.sources, s) })
	snaps, failures := readAll(ctx, fresh)
	answer := planOf(current.loop.PlanNext(ctx, next.loop, snaps))
	for _, f := range failures {
		answer.Problems = append(answer.Problems, f.problem())
	}
	answer.Note = "the configuration has changed since it was last read; this is what a HUP would do"
	return answer
}

const (
	stillFor   = 250 * time.Millisecond // that a file was not written to, before it counts as whole
	stillLimit = 3 * time.Second        // for that
)

// next reads the configuration that would come after old. What ends in the middle may still be valid, and mean that sources or templates
// are to go. So a file that is just being written is waited for, and none may be gone.
func (r *runner) next(old Config) (Config, error) {
	for began := time.Now(); ; {
		c, err := load(r.flags)
		path, age := lastWritten(time.Now(), append(old.files(), c.files()...))
		switch {
		case age < 0 || age >= stillFor: // negative is another clock's
			if err == nil {
				err = old.refuses(c)
			}
			return c.in(old.Place), err
		case time.Since(began) > stillLimit:
			return c, fmt.Errorf("%s is being written, for %s already; write it aside and rename it", path, stillLimit)
		}
		time.Sleep(stillFor - age)
	}
}

// files gives the paths of the files of the configuration.
func (c Config) files() []string { return []string{c.File, c.HAProxyTemplate, c.PenTemplate} }

// lastWritten gives the file that was written to last, and how long ago that was.
func lastWritten(now time.Time, files []string) (path string, age time.Duration) {
	age = math.MaxInt64
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && now.Sub(info.ModTime()) < age {
			path, age = file, now.Sub(info.ModTime())
		}
	}
	return path, age
}

// refuses tells why a configuration cannot come after c.
func (c Config) refuses(next Config) error {
	if !next.hasSource() {
		return errNoSource
	}
	if fixed := c.fixedChanges(next); len(fixed) > 0 {
		return fmt.Errorf("%s cannot change while running; restart proxymatic for that", strings.Join(fixed, ", "))
	}
	then := next.files()
	for i, name := range []string{"config", "haproxy-template", "pen-template"} { // as files has them
		if was := c.files()[i]; was != "" && then[i] == "" && was == defaultOf(name) {
			return fmt.Errorf("--%s: %s is not there any more; restart proxymatic to go on without it", name, was)
		}
	}
	return nil
}

func defaultOf(name string) string {
	all := options()
	return all[slices.IndexFunc(all, func(o option) bool { return o.name == name })].def
}

// templates gives the texts of the templates; nil for a built-in one. What cannot be read is named by whoever uses it.
func (c Config) templates() [2][]byte {
	var texts [2][]byte
	for i, path := range []string{c.HAProxyTemplate, c.PenTemplate} {
		if path != "" {
			texts[i], _ = os.ReadFile(path)
		}
	}
	return texts
}
