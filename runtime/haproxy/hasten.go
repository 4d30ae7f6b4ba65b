package haproxy

import (
	"context"
	"slices"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// hasten changes services that were proven as if they still were as they were proven, and tells what it then saw of them; nil when
// the pass has to look for itself. A look before would take most of the time until a new server gets its first connection: `show
// stat` walks through all proxies to find one, half a millisecond at 5,000.
//
// No harm is done when the world has changed meanwhile. Each command makes HAProxy more like what is wanted, or is refused; the
// answers behind them, of the same process, show what came of it, and the pass goes on from there.
func (d *Driver) hasten(ctx context.Context, want []*catalog.Service, r *catalog.Report) *observed {
	l, err := d.layout(want, d.built)
	if err != nil {
		return nil // as the pass will find out
	}
	if d.resync.Load() || d.verified == nil {
		return nil
	}
	keys := differing(l.sections, d.verified)
	for key := range d.parting() {
		if d.proven(key) {
			keys = append(keys, key)
		}
	}
	keys = sorted(keys)
	have := d.believed(keys)
	if have == nil || slices.ContainsFunc(keys, func(key catalog.Key) bool { return d.returns(l.sections.find(key)) }) {
		return nil
	}
	v := view{keys: keys, have: *have, layout: l, plan: makePlan(l.sections, l.outer, *have, keys, nil)}
	if len(v.plan.reloads) > 0 {
		return nil
	}
	v.plan.steps, _ = d.withoutBalks(v.plan.steps)
	d.cautious(&v.plan)
	_, seen, err := d.act(ctx, d.withDeletions(v), d.looking(keys, l.sections), r)
	if err != nil {
		return nil
	}
	return seen
}

// cautious leaves those steps out of a plan that must not be done on belief: a port is closed after a look, and where servers are
// new, or come back, the others leave when these are proven.
func (d *Driver) cautious(p *plan) {
	gets := map[catalog.Key]bool{}
	for _, s := range p.steps {
		if s.change.Action != removeServer {
			gets[s.key] = true
		}
	}
	p.steps = slices.DeleteFunc(p.steps, func(s step) bool {
		return s.change.Action == pauseFrontend || s.change.Action == removeServer && gets[s.key]
	})
	p.deletes = slices.DeleteFunc(p.deletes, func(s step) bool {
		_, leaving := d.leaving[s.path]
		return gets[s.key] && !leaving
	})
}

// proven reports whether a service is known to be as it was wanted.
func (d *Driver) proven(key catalog.Key) bool {
	s := d.verified.find(key)
	return s != nil && len(s.proxies) > 0
}

// believed gives what services were when they were proven; nil when one was not.
func (d *Driver) believed(keys []catalog.Key) *observed {
	if len(keys) == 0 || len(keys) > manyKeys || d.last.hash == "" || d.last.hash != d.built.Hash {
		return nil
	}
	have := nothing()
	have.info, have.alive, have.built, have.known = d.last, true, d.built, true
	for _, key := range keys {
		if !d.proven(key) {
			return nil
		}
		have.suppose(d.verified.find(key))
	}
	for path, l := range d.leaving {
		proxy, name, _ := strings.Cut(path, "/")
		if servers, ok := have.servers[proxy]; ok {
			servers[name] = server{addr: l.addr, admin: adminMaint}
		}
	}
	return &have
}

// suppose takes a section to run as it should.
func (h *observed) suppose(s *section) {
	for _, p := range s.proxies {
		if p.front {
			h.open[p.name] = true
		}
		if p.back {
			h.backs[p.name], h.servers[p.name] = true, map[string]server{}
		}
		for _, line := range p.servers {
			h.servers[p.name][line.name] = server{addr: line.addr, weight: line.weight, maxconn: line.maxconn, checked: line.checked, up: true}
		}
	}
}
