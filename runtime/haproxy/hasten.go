package haproxy

import (
	"context"
	"slices"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// hasten gives services that were proven what they are to have more, as if they still were as they were proven, and tells what it
// then saw of them; nil when the pass has to look for itself. A look before would take most of the time until a new server gets its
// first connection: `show stat` walks through all proxies to find one, half a millisecond at 5,000.
//
// No harm is done when the world has changed meanwhile. Each command makes HAProxy more like what is wanted, or is refused; the
// answers behind them, of the same process, show what came of it, and the pass goes on from there. What takes something away waits
// for such a look: the server that should be served instead may be missing.
func (d *Driver) hasten(ctx context.Context, want []*catalog.Service, r *catalog.Report) *observed {
	l, err := d.layout(want, d.built)
	if err != nil {
		return nil // as the pass will find out
	}
	if d.resync.Load() || d.verified == nil {
		return nil
	}
	keys := differing(l.sections, d.verified)
	have := d.believed(keys)
	if have == nil || slices.ContainsFunc(keys, func(key catalog.Key) bool { return d.returns(l.sections.find(key)) }) {
		return nil
	}
	p := makePlan(l.sections, l.outer, *have, keys, nil)
	if len(p.reloads) > 0 {
		return nil
	}
	steps, _ := d.withoutBalks(p.steps)
	more := slices.DeleteFunc(steps, func(s step) bool { return s.change.Action == removeServer || s.change.Action == pauseFrontend })
	_, seen, err := d.act(ctx, more, d.looking(keys, l.sections), r)
	if err != nil {
		return nil
	}
	return seen
}

// believed gives what services were when they were proven; nil when one was not.
func (d *Driver) believed(keys []catalog.Key) *observed {
	if len(keys) == 0 || len(keys) > manyKeys || d.last.hash == "" || d.last.hash != d.built.Hash {
		return nil
	}
	have := nothing()
	have.info, have.alive, have.built, have.known = d.last, true, d.built, true
	for _, key := range keys {
		s := d.verified.find(key)
		if s == nil || len(s.proxies) == 0 {
			return nil
		}
		have.suppose(s)
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
