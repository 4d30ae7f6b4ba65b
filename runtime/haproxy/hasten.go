package haproxy

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// hasten changes services that were proven as if they still were as they were proven, and tells what it then saw of them; nil when
// the pass has to look for itself. A look before would take most of the time until a new server gets its first connection: `show
// stat` walks through all proxies to find one, half a millisecond at 5,000.
//
// The world may have changed meanwhile. The answers behind the commands, of the same process, show what came of them, and the pass goes
// on from there. Until then each command makes HAProxy more like what is wanted, or is refused.
func (d *Driver) hasten(ctx context.Context, want []*catalog.Service, r *catalog.Report) (*observed, error) {
	l, err := d.layout(want, d.built)
	if err != nil {
		return nil, nil // as the pass will find out
	}
	if d.resync.Load() || d.verified == nil {
		return nil, nil
	}
	keys := differing(l.sections, d.verified)
	if due := d.dueToDelete(); len(keys)+len(due) <= manyKeys { // or else the changes would have to wait
		keys = sorted(append(keys, slices.DeleteFunc(due, func(key catalog.Key) bool { return !d.proven(key) })...))
	}
	have := d.believed(keys)
	if have == nil || slices.ContainsFunc(keys, func(key catalog.Key) bool { return d.returns(l.sections.find(key)) }) {
		return nil, nil
	}
	v := view{keys: keys, have: *have, layout: l, plan: makePlan(l.sections, l.outer, *have, keys, nil)}
	if len(v.plan.reloads) > 0 {
		return nil, nil
	}
	v.plan.steps, _ = d.withoutBalks(v.plan.steps)
	d.onlySafe(&v)
	_, seen, err := d.act(ctx, d.withDeletions(v), d.looking(keys, l.sections), r)
	if errors.Is(err, errDown) {
		return nil, nil // nothing was done
	}
	return seen, err
}

// onlySafe leaves in a plan what may be done on belief. A port is closed after a look; and where servers are new, or come back, the
// others leave when these are proven. Where servers only leave, it is made sure of first that one is there which stays: HAProxy may have
// been restarted from an older file, or somebody may have taken it away.
func (d *Driver) onlySafe(v *view) {
	more := map[catalog.Key]bool{} // services of which more changes than that servers leave
	for _, s := range v.plan.steps {
		more[s.key] = more[s.key] || s.change.Action != removeServer
	}
	var steps []step
	ensured, leaves := map[string]bool{}, map[string]bool{}
	for _, s := range v.plan.steps {
		switch {
		case s.change.Action == pauseFrontend:
			continue
		case s.change.Action == removeServer:
			proxy, _, _ := strings.Cut(s.path, "/")
			if !ensured[proxy] {
				stays, ok := d.stays(v, s.key, proxy)
				if more[s.key] || !ok {
					continue
				}
				steps, ensured[proxy] = append(steps, stays), true
			}
			leaves[s.path] = true
		}
		steps = append(steps, s)
	}
	v.plan.steps = steps
	v.plan.deletes = slices.DeleteFunc(v.plan.deletes, func(s step) bool {
		_, left := d.leaving[s.path]
		return !left && !leaves[s.path]
	})
}

// stays gives the step that makes sure of a server that a proxy is to keep; not ok when that cannot be done at run time, or may not.
func (d *Driver) stays(v *view, key catalog.Key, proxy string) (s step, ok bool) {
	b, _ := v.have.built.service(key)
	if !v.plan.dialect.adds || b.Static != "" || d.config.RespectMaint { // it may be out of service by hand
		return s, false
	}
	for _, line := range v.layout.sections.find(key).lines(proxy) {
		if line.static == "" {
			path := proxy + "/" + line.name
			s = newStep(key, b, path, addServer, v.plan.dialect.addCommands(path, line)...)
			s.ensures = true
			return s, true
		}
	}
	return s, false
}

// proven reports whether a service is known to be as it was wanted.
func (d *Driver) proven(key catalog.Key) bool {
	s := d.verified.find(key)
	return s != nil && len(s.proxies) > 0
}

// believed gives what services were when they were proven, with the servers that were leaving then; nil when one was not.
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
