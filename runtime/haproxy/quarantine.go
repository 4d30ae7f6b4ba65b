package haproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	refusedFirst   = time.Minute // after which a refused service is tried again; doubled each time
	refusedSlowest = time.Hour
	mostRounds     = 8                // how often HAProxy is asked what else is wrong
	mostChecks     = 24               // how often, where its words name nobody
	mostAsking     = 30 * time.Second // how long all of that may take: no server is changed meanwhile
)

// refusedError is HAProxy's refusal of a configuration.
type refusedError struct {
	what string // was refused
	out  string // all that HAProxy said
}

func (e *refusedError) Error() string { return e.what + ": " + complaints(e.out) }

// refused is a service whose section HAProxy does not take. It is left out of the configuration, or is there as it was before.
type refused struct {
	key   catalog.Key
	title string
	words string          // HAProxy's
	forms map[string]bool // hashes of the section: under the name that runs, and under its own
	kept  *kept           // nil when it is left out
	delay time.Duration
	until time.Time
	trial bool // it is tried again
}

// aside gives a list without the services that HAProxy refuses, or with them as they were.
func (d *Driver) aside(list sections) sections {
	list = without(without(list, d.taken), d.left)
	if len(d.refused) == 0 {
		return list
	}
	out := make(sections, 0, len(list))
	for _, s := range list {
		q := d.refused[s.key]
		if q == nil || q.trial || !q.forms[s.hash] {
			out = append(out, s)
		} else if q.kept != nil {
			out = append(out, q.kept.section(s, &d.render.lines))
		}
	}
	return out
}

// isolate finds out which services made HAProxy refuse the last load, sets them aside, and reports whether the load can be tried
// without them. Where all are refused, or one that serves as it is, nobody is: then the fault is the template's or the host's, and a load
// would take away what serves. What was found until HAProxy could not be asked any more, or until it took too long, is left out at the next load.
func (d *Driver) isolate(ctx context.Context, want []*catalog.Service, v view) bool {
	made, text := d.pace.file.made, d.pace.file.text
	if d.pace.file = (newFile{}); text == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, mostAsking)
	defer cancel()
	err := d.try(ctx, text)
	var words *refusedError
	if known := errors.As(err, &words); !known && (err == nil || !errors.As(d.pace.err, &words)) {
		d.pace.err = errors.Join(d.pace.err, err)
		return false
	}
	before := maps.Clone(d.refused)
	for range mostRounds {
		blamed, stopped := blame(made, words.out), error(nil)
		if len(blamed) == 0 {
			blamed, stopped = d.bisect(ctx, want, v)
		}
		if stopped == nil || len(blamed) > 0 {
			if why := d.setAside(blamed, want, v); why != nil {
				d.refused = before
				d.pace.err = errors.Join(d.pace.err, err, stopped, why)
				return false
			}
		}
		if stopped != nil {
			return d.stopAsking(stopped)
		}
		l, layoutErr := d.layout(want, structure{})
		if layoutErr != nil {
			break
		}
		made = l.pieces(l.structure().Hash)
		err = d.try(ctx, made.appendTo(nil))
		switch {
		case err != nil && ctx.Err() != nil:
			return d.stopAsking(err)
		case err == nil || !errors.As(err, &words):
			d.pace = pace{started: d.pace.started}
			return true
		}
	}
	d.refused = before
	d.pace.err = errors.Join(d.pace.err, err)
	return false
}

// stopAsking notes why it is not known what else is wrong.
func (d *Driver) stopAsking(why error) bool {
	d.pace.err = errors.Join(d.pace.err, fmt.Errorf("find out which services HAProxy refuses: %w", why))
	return false
}

// try lets haproxy itself read a configuration. It stays where it was refused, for the operator to look at.
func (d *Driver) try(ctx context.Context, text []byte) error {
	path := filepath.Join(d.config.RunDir, "refused.cfg")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	err := d.check(ctx, path)
	if err == nil {
		_ = os.Remove(path)
	}
	return err
}

// bisect finds the services that HAProxy refuses among those that are new or changed, by leaving out halves of them. It gives none when
// the configuration is refused without any of them, too. Only HAProxy's refusal counts: any other error ends the search.
func (d *Driver) bisect(ctx context.Context, want []*catalog.Service, v view) (map[catalog.Key]string, error) {
	defer func() { d.left = nil }()
	l, err := d.layout(want, v.have.built)
	if err != nil {
		return nil, err
	}
	var suspects []catalog.Key
	for _, s := range l.sections {
		if b, ok := v.have.built.service(s.key); !ok || !v.have.alive || b.Hash != s.hash {
			suspects = append(suspects, s.key)
		}
	}
	checks := 0
	with := func(some []catalog.Key) error { // of the suspects
		checks++
		d.left = map[catalog.Key]bool{}
		for _, key := range suspects {
			d.left[key] = !slices.Contains(some, key)
		}
		maps.DeleteFunc(d.left, func(_ catalog.Key, out bool) bool { return !out })
		l, err := d.layout(want, structure{})
		if err != nil {
			return err
		}
		return d.try(ctx, l.text(l.structure().Hash))
	}
	var words *refusedError
	if len(suspects) == 0 {
		return nil, nil
	}
	if err := with(nil); errors.As(err, &words) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	blamed := map[catalog.Key]string{}
	var split func(some []catalog.Key) error
	split = func(some []catalog.Key) error {
		err := with(some)
		if !errors.As(err, &words) {
			return err
		}
		if len(some) == 1 || checks >= mostChecks {
			for _, key := range some {
				blamed[key] = complaints(words.out)
			}
			return nil
		}
		if err := split(some[:len(some)/2]); err != nil {
			return err
		}
		return split(some[len(some)/2:])
	}
	return blamed, split(suspects)
}

// setAside quarantines services. An error says why that cannot be: which are left out, or as they were, then is as it was.
func (d *Driver) setAside(blamed map[catalog.Key]string, want []*catalog.Service, v view) error {
	if len(blamed) == 0 {
		return errors.New("no single service can be found that causes it")
	}
	var forms []sections // under the names that run, and under their own
	for _, built := range []structure{v.have.built, {}} {
		if _, err := d.layout(want, built); err != nil {
			return err
		}
		forms = append(forms, d.render.made.sections)
	}
	var old pieces
	if raw, err := os.ReadFile(d.config.ConfigFile); err == nil {
		if old, err = cutPieces(string(raw)); err != nil || !old.has(tag(v.have.hash)) {
			old = nil
		}
	}
	next := maps.Clone(d.refused)
	if next == nil {
		next = map[catalog.Key]*refused{}
	}
	for _, key := range slices.SortedFunc(maps.Keys(blamed), catalog.Key.Compare) {
		words := blamed[key]
		q := &refused{key: key, words: words, forms: map[string]bool{}, delay: refusedFirst}
		for _, list := range forms {
			if s := list.find(key); s != nil {
				q.forms[s.hash], q.title = true, s.service.Title()
			}
		}
		if was := d.refused[key]; was != nil && maps.Equal(was.forms, q.forms) {
			q.delay, q.kept = min(2*was.delay, refusedSlowest), was.kept
			if !was.trial {
				return fmt.Errorf("%s is refused as it was before, too: %s", q.title, words)
			}
		}
		if b, ok := v.have.built.service(key); ok && v.have.runs(b) && q.kept == nil {
			how := runningForm(q, b, old)
			if q.kept = how.kept; how.why != "" && v.have.listens(b) {
				return fmt.Errorf("%s, which runs, is refused%s; a reload would take it away: %s", q.title, how.why, words)
			}
		}
		q.until = d.now().Add(q.delay)
		next[key] = q
	}
	active := 0
	for key, q := range next {
		if s := forms[1].find(key); s != nil && q.forms[s.hash] && !q.trial {
			active++
		}
	}
	if active == len(forms[1]) {
		return errors.New("all services are refused: the template may be at fault")
	}
	d.refused = next
	return nil
}

// form is how a running service that is refused can go on.
type form struct {
	kept *kept  // nil when it cannot
	why  string // it must not be taken away; empty when it may
}

// runningForm looks for the form that runs in the file that goes with the running process. A service that is not in it was removed before
// it came back: its frontend is paused, or was opened again while the new form waits for its load.
func runningForm(q *refused, b builtService, file pieces) form {
	switch {
	case q.forms[b.Hash]:
		return form{why: " as it is"}
	case file == nil:
		return form{why: ", and haproxy.cfg does not tell how it was before"}
	}
	return form{kept: file.keep(q.key, b)}
}

// tryAgain lets haproxy read a configuration with services that it refused before: a reload is only tried when it takes them.
func (d *Driver) tryAgain(ctx context.Context, l layout, text []byte) error {
	for key, q := range d.refused {
		if s := l.sections.find(key); s != nil && q.trial && q.forms[s.hash] {
			return d.try(ctx, text)
		}
	}
	return nil
}

// expireRefused lets services that were refused a while ago be tried again.
func (d *Driver) expireRefused() {
	for _, q := range d.refused {
		q.trial = q.trial || !d.now().Before(q.until)
	}
}

// forgetRefused forgets services that changed, are gone, or run now.
func (d *Driver) forgetRefused(v view) {
	maps.DeleteFunc(d.refused, func(key catalog.Key, q *refused) bool {
		s := d.render.made.sections.find(key)
		b, ok := v.have.built.service(key)
		return s == nil || !q.forms[s.hash] || ok && v.have.runs(b) && q.forms[b.Hash]
	})
}

// refusedProblems tells of services that HAProxy refuses.
func (d *Driver) refusedProblems() []catalog.Problem {
	var out []catalog.Problem
	for _, key := range slices.SortedFunc(maps.Keys(d.refused), catalog.Key.Compare) {
		q := d.refused[key]
		state := "it is left out"
		if q.kept != nil {
			state = "it goes on as it was configured before, with its servers of now"
		}
		out = append(out, catalog.Problem{Source: d.Name(), Subject: q.title, Reason: fmt.Sprintf("HAProxy refuses its configuration: %s; %s; "+
			"correct the service, or what the template makes of it: it is tried again when it changes, and now and then", q.words, state)})
	}
	return out
}
