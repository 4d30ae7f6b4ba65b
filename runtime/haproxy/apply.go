package haproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	maxTries      = 4                     // how often a pass acts and reads back before it reports what differs
	stoppingFor   = time.Second           // how long an old worker may go on answering after a reload
	stoppingAgain = 5 * time.Millisecond  // how soon another answer is asked for
	lookAgain     = 5 * time.Second       // how often the holder of a taken port is looked for
	afterFailure  = 25 * time.Millisecond // how soon everything is looked at after a failed reload, a few times
)

// view is what a pass knows: what is wanted, what is, and the difference.
type view struct {
	keys   []catalog.Key // the services that were looked at; nil is all
	have   observed
	layout layout
	plan   plan

	blocked error           // why no load can be made, whatever the plan says
	hands   hands           // servers that somebody took out of service; nil when nobody asks
	balked  map[string]bool // changes that HAProxy refused before, and that are still due
	refused []refusedStep   // what HAProxy refused for as often as a pass tries
}

// Plan observes all of the proxy and tells what Apply would do now, had it to look at everything.
func (d *Driver) Plan(ctx context.Context, want []*catalog.Service) (catalog.Report, error) {
	d.expireTaken()
	d.expireRefused()
	v, err := d.viewOf(ctx, want, d.looking(nil, nil), nil)
	if err != nil {
		return catalog.Report{}, err
	}
	var r catalog.Report
	for _, s := range v.plan.steps {
		r.Changes = append(r.Changes, s.change)
	}
	if len(v.plan.reloads) > 0 {
		v.reportLoad(&r)
	}
	d.describe(v, &r)
	return r, v.blocked
}

// Apply makes HAProxy offer what is wanted: it observes, plans, acts, and reads back until nothing is left to do. What changed of
// services that were proven it changes first.
func (d *Driver) Apply(ctx context.Context, want []*catalog.Service) (catalog.Report, error) {
	d.expireTaken()
	d.expireRefused()
	d.expireBalks()
	var r catalog.Report
	var errs []error
	var refused []refusedStep
	seen, err := d.hasten(ctx, want, &r)
	if err != nil {
		d.Resync()
		errs = append(errs, err)
	}
	for tries := 1; ; tries++ {
		v, err := d.view(ctx, want, seen)
		if err != nil {
			d.Resync()
			return r, errors.Join(append(errs, err)...)
		}
		if tries == 1 {
			r.Drift = d.drift(v)
		}
		load := len(v.plan.reloads) > 0 && v.blocked == nil && d.pace.due(d.now(), v) && d.room(ctx, v)
		if len(v.plan.steps) == 0 && !load || tries == maxTries {
			if d.isolate(ctx, want, v) {
				tries, seen = 1, nil // once for each load that failed
				continue
			}
			if tries == maxTries {
				v.refused = refused
			}
			return d.settle(ctx, v, r, errs)
		}
		at := d.looking(v.keys, v.layout.sections)
		if load {
			at.keys = nil // it will be another process
		}
		refused, seen, err = d.act(ctx, d.withDeletions(v), at, &r)
		if err != nil {
			d.Resync()
			return r, errors.Join(append(errs, err)...)
		}
		if load {
			if err := d.load(ctx, want, v, &r); err != nil {
				return d.settle(ctx, v, r, append(errs, err))
			}
		}
	}
}

// view observes what has changed, unless it was seen already, and plans. Everything is observed when the process is another one,
// and before a load, which concerns all services.
func (d *Driver) view(ctx context.Context, want []*catalog.Service, seen *observed) (view, error) {
	expected, err := d.layout(want, d.built)
	if err != nil {
		return view{}, err
	}
	at := d.looking(d.touched(expected.sections), expected.sections)
	switch {
	case seen == nil:
	case !seen.tellsOf(at.keys):
		seen = nil
	case at.keys != nil:
		at.keys = seen.keys
	}
	v, err := d.viewOf(ctx, want, at, seen)
	if err == nil && at.keys != nil && v.have.alive && (v.have.pid != d.last.pid || len(v.plan.reloads) > 0) {
		return d.viewOf(ctx, want, d.looking(nil, nil), nil)
	}
	return v, err
}

// viewOf observes the services with the given keys, nil for all, and plans. A service whose port somebody has is left out.
func (d *Driver) viewOf(ctx context.Context, want []*catalog.Service, at looking, seen *observed) (view, error) {
	if seen == nil {
		have, err := d.observe(ctx, at)
		if err != nil {
			return view{}, err
		}
		seen = &have
	}
	have := *seen
	have.deaf = !have.alive && d.process.deaf()
	for {
		v := view{keys: at.keys, have: have}
		var err error
		if v.layout, err = d.layout(want, have.built); err != nil {
			return view{}, err
		}
		if d.quarantineOwn(v) {
			continue
		}
		v.plan = makePlan(v.layout.sections, v.layout.outer, have, at.keys, d.overdue())
		v.plan.steps, v.balked = d.withoutBalks(v.plan.steps)
		v.hands = d.notice(v)
		v.hands.respect(&v.plan)
		if at.keys != nil && have.alive && len(v.plan.reloads) > 0 {
			return v, nil // too little is known to tell which ports are new
		}
		found, err := d.ports.look(slices.Collect(maps.Keys(v.unproven())), have.pid, false)
		if err != nil {
			return view{}, err
		}
		if len(found) == 0 {
			return v, nil
		}
		if v.blocked = d.quarantine(v, found); v.blocked != nil {
			return v, nil
		}
	}
}

// observe reads the running state. Just after a reload the old worker may still answer; its answers mean nothing.
func (d *Driver) observe(ctx context.Context, at looking) (observed, error) {
	deadline := d.now().Add(stoppingFor)
	for {
		have, err := observe(ctx, d.cli, at)
		if err != nil {
			return have, fmt.Errorf("observe HAProxy: %w", err)
		}
		switch wait := d.now().Before(deadline); {
		case d.serves(have.info):
			return have, nil
		case wait:
			time.Sleep(stoppingAgain)
		case have.stopping:
			return have, fmt.Errorf("observe HAProxy: the one that answers (pid %d) is stopping", have.pid)
		default:
			d.former = 0 // another process has its number, as after a restart of HAProxy's container
		}
	}
}

// serves reports whether an answer is that of the process that serves. One that a load has replaced says that it is stopping, but
// only when it has been told to: on a busy machine the new one may answer before.
func (d *Driver) serves(in info) bool { return !in.stopping && (in.pid == 0 || in.pid != d.former) }

// structureOf gives the structure of a hash, from memory when it is the one that ran before.
func (d *Driver) structureOf(hash string) (structure, bool) {
	if d.built.Hash == hash {
		return d.built, true
	}
	st, ok := d.store.load(hash)
	if ok {
		d.built = st
	}
	return st, ok
}

// unproven gives the addresses that HAProxy would bind, or listen on again, and the services that want them. A zero key is
// the outer text's.
func (v view) unproven() map[netip.AddrPort]catalog.Key {
	out := map[netip.AddrPort]catalog.Key{}
	for _, s := range v.plan.steps {
		if s.change.Action == "open frontend" {
			b, _ := v.have.built.service(s.key)
			for _, a := range b.Binds {
				out[a] = s.key
			}
		}
	}
	if len(v.plan.reloads) == 0 {
		return out
	}
	for _, a := range v.layout.outer.binds {
		if !v.have.known || !slices.Contains(v.have.built.Binds, a) {
			out[a] = catalog.Key{}
		}
	}
	for _, s := range v.layout.sections {
		b, ok := v.have.built.service(s.key)
		for _, a := range s.binds {
			if !ok || !slices.Contains(b.Binds, a) || !v.have.listens(b) {
				out[a] = s.key
			}
		}
	}
	return out
}

// listens reports whether all frontends of a section are open.
func (h *observed) listens(b builtService) bool {
	for _, p := range b.Proxies {
		if p.Front && !h.open[p.Name] {
			return false
		}
	}
	return true
}

// overdue gives the removed services whose ports have been bound for long enough.
func (d *Driver) overdue() []catalog.Key {
	var out []catalog.Key
	for key, since := range d.gone {
		if d.now().Sub(since) >= d.config.ReleaseAfter {
			out = append(out, key)
		}
	}
	slices.SortFunc(out, catalog.Key.Compare)
	return out
}

// drift gives the steps that repair what somebody else changed: on services that were proven and are still wanted so.
func (d *Driver) drift(v view) []catalog.Change {
	if d.verified == nil || v.have.pid != d.last.pid || v.keys != nil {
		return nil // what was looked at because it changed has not drifted
	}
	var out []catalog.Change
	for _, s := range v.plan.steps {
		if was := d.verified.find(s.key); was != nil && was == v.layout.sections.find(s.key) {
			out = append(out, s.change)
		}
	}
	return out
}

// act sends steps in batches and notes those that were done. What HAProxy refused is told by reading back; its words are
// kept for the message. Where the last batch has room for it, it reads back itself: seen is what came of the services.
func (d *Driver) act(ctx context.Context, steps []step, at looking, r *catalog.Report) (refused []refusedStep, seen *observed, err error) {
	deadline := d.now().Add(stoppingFor)
	for len(steps) > 0 {
		n, batch := 0, make([]string, 0, batchSize)
		for n < len(steps) && len(batch)+len(steps[n].commands) <= batchSize {
			batch = append(batch, steps[n].commands...)
			n++
		}
		size := len(batch)
		if ask := at.commands(); n == len(steps) && !at.whole() && size+len(ask) <= batchSize {
			batch = append(batch, ask...)
		}
		answers, err := d.cli.do(ctx, batch)
		if err != nil {
			d.noteUnanswered(steps[:n])
			return refused, nil, fmt.Errorf("change HAProxy: %w", err)
		}
		if len(batch) > size {
			have, as, err := at.hear(batch[size:], answers[size:])
			if err == nil && !d.serves(have.info) && d.now().Before(deadline) {
				time.Sleep(stoppingAgain)
				continue // an old worker has taken the batch
			}
			if err == nil && as && d.serves(have.info) {
				seen = &have // or else it is asked again
			}
		}
		for _, s := range steps[:n] {
			text := firstRefusal(answers[:len(s.commands)])
			switch {
			case s.deletes:
				d.noteDeletion(s, refusal(answers[len(s.commands)-1]))
				text = "" // what it has cut is cut
			case s.ensures: // it is there, as a rule
			case text != "":
				refused = append(refused, refusedStep{s.id(), text})
			}
			if text == "" && s.change.Action != "" {
				r.Changes = append(r.Changes, s.change)
			}
			answers = answers[len(s.commands):]
		}
		steps = steps[n:]
	}
	return refused, seen, nil
}

func firstRefusal(answers []string) string {
	for _, a := range answers {
		if text := refusal(a); text != "" {
			return text
		}
	}
	return ""
}

// reportLoad tells what a load brings. A start is no reload: there was nothing to hand over.
func (v view) reportLoad(r *catalog.Report) {
	for _, key := range v.plan.fresh {
		if s := v.layout.sections.find(key); s != nil {
			r.Changes = append(r.Changes, catalog.Change{Service: title(s.name, key), Action: "load service",
				Detail: strconv.Itoa(len(s.managedNames())) + " servers"})
		}
	}
	if v.plan.start {
		r.Changes = append(r.Changes, catalog.Change{Action: "start HAProxy", Detail: v.plan.reloads[0]})
		return
	}
	r.Changes = append(r.Changes, catalog.Change{Action: "reload", Detail: v.plan.reloads[0]})
	r.Reloads = append(r.Reloads, v.plan.reloads...)
}
