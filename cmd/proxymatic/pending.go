package main

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"strings"
)

// plan tells what would happen now, and at a HUP first: with another configuration than that of the last reading, the plan is
// made from that one, and says so.
func (r *runner) plan(ctx context.Context) planned {
	current := r.current.Load()
	next, err := r.next(current.config)
	if err == nil && reflect.DeepEqual(next, current.config) && reflect.DeepEqual(next.templates(), current.templates) {
		return planOf(current.loop.Plan(ctx))
	}
	if err != nil {
		answer := planOf(current.loop.Plan(ctx))
		answer.Note = "a HUP would not take the configuration as it is now: " + err.Error()
		return answer
	}
	answer, err := planAlone(ctx, next)
	if err != nil {
		answer = planOf(nil, err)
	}
	answer.Note = "the configuration has changed since it was last read; this is what a HUP would do"
	return answer
}

// next reads the configuration that would come after old.
func (r *runner) next(old Config) (Config, error) {
	c, err := load(r.flags)
	if err != nil {
		return Config{}, err
	}
	if !c.hasSource() {
		return Config{}, errNoSource
	}
	if fixed := old.fixedChanges(c); len(fixed) > 0 {
		return Config{}, fmt.Errorf("%s cannot change while running; restart proxymatic for that", strings.Join(fixed, ", "))
	}
	return c.in(old.Place), nil
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
