package registrator

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/hostname"
)

// board turns the keys of the stores into services. A change of a key costs the services of its port, not all of them. What
// it gives depends on the keys alone, never on their order: all proxies of a cluster must come to the same.
type board struct {
	prefix   string
	stores   int
	values   map[string][]*string              // what each store has for a path
	entries  map[string]entry                  // the paths that can be used
	bad      map[string]catalog.Problem        // the paths that cannot
	ports    map[catalog.Key]map[string]bool   // the paths of each port
	hosts    map[string]map[string]bool        // the paths whose values have a name to be resolved
	answers  map[string]hostname.Answer        // what is known of those names
	dirty    map[catalog.Key]bool              // ports to be built anew
	built    map[catalog.Key]*catalog.Service  // those with servers or, for want of them, without
	wrong    map[catalog.Key][]catalog.Problem // what a port's keys could not get
	services []*catalog.Service                // all of them in canonical order; never written to again
	changed  bool                              // services or problems differ from the last snapshot
}

func newBoard(prefix string, stores int) *board {
	return &board{prefix: prefix, stores: stores,
		values: make(map[string][]*string), entries: make(map[string]entry), bad: make(map[string]catalog.Problem),
		ports: make(map[catalog.Key]map[string]bool), hosts: make(map[string]map[string]bool), answers: make(map[string]hostname.Answer),
		dirty: make(map[catalog.Key]bool), built: make(map[catalog.Key]*catalog.Service), wrong: make(map[catalog.Key][]catalog.Problem)}
}

// change is a key that one store has now, or has no more.
type change struct {
	path  string
	value string
	gone  bool
}

// apply takes one change of one store. Where two stores have one path, the first of them counts.
func (b *board) apply(store int, c change) {
	values := b.values[c.path]
	if values == nil {
		values = make([]*string, b.stores)
		b.values[c.path] = values
	}
	before := first(values)
	values[store] = nil
	if !c.gone {
		values[store] = &c.value
	}
	after := first(values)
	if after == nil {
		delete(b.values, c.path)
	}
	if before == after || before != nil && after != nil && *before == *after {
		return
	}
	b.forget(c.path)
	if after != nil {
		b.learn(c.path, *after)
	}
}

func first(values []*string) *string {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}

func (b *board) forget(path string) {
	if _, was := b.bad[path]; was {
		delete(b.bad, path)
		b.changed = true
	}
	e, was := b.entries[path]
	if !was {
		return
	}
	delete(b.entries, path)
	remove(b.ports, e.Key, path)
	b.dirty[e.Key] = true
	if e.host != "" {
		remove(b.hosts, e.host, path)
	}
}

func (b *board) learn(path, value string) {
	e, err := parse(path, value)
	if err != nil {
		b.bad[path] = catalog.Problem{Source: sourceName, Subject: subject(b.prefix + "/" + path), Reason: err.Error()}
		b.changed = true
		return
	}
	b.entries[path] = e
	add(b.ports, e.Key, path)
	b.dirty[e.Key] = true
	if e.host != "" {
		add(b.hosts, e.host, path)
	}
}

func add[K comparable](sets map[K]map[string]bool, key K, path string) {
	if sets[key] == nil {
		sets[key] = make(map[string]bool)
	}
	sets[key][path] = true
}

func remove[K comparable](sets map[K]map[string]bool, key K, path string) {
	delete(sets[key], path)
	if len(sets[key]) == 0 {
		delete(sets, key)
	}
}

// names gives the names to be resolved, sorted.
func (b *board) names() []string { return slices.Sorted(maps.Keys(b.hosts)) }

// unasked reports whether there is a name that nobody has tried to resolve.
func (b *board) unasked() bool {
	for host := range b.hosts {
		if _, known := b.answers[host]; !known {
			return true
		}
	}
	return false
}

// resolved takes what became of the names.
func (b *board) resolved(answers map[string]hostname.Answer) {
	for host, paths := range b.hosts {
		if b.answers[host] == answers[host] {
			continue
		}
		for path := range paths {
			b.dirty[b.entries[path].Key] = true
		}
	}
	b.answers = answers
}

// build brings the services of the dirty ports up to date, and tells whether anything differs from the last call.
func (b *board) build() bool {
	var touched []catalog.Key
	for key := range b.dirty {
		service, problems := b.port(key)
		if b.put(key, service) {
			touched = append(touched, key)
		}
		if !slices.Equal(problems, b.wrong[key]) {
			b.changed = true
			delete(b.wrong, key)
			if len(problems) > 0 {
				b.wrong[key] = problems
			}
		}
	}
	b.dirty = map[catalog.Key]bool{} // not the one that has once had room for all, and would cost as much each time
	changed := b.changed || len(touched) > 0
	b.changed = false
	b.replace(touched)
	return changed
}

// put takes in what a port's service is now, nil for none, and tells whether it differs. One that does not stays the one that it was.
func (b *board) put(key catalog.Key, service *catalog.Service) bool {
	before := b.built[key]
	switch {
	case service == nil:
		delete(b.built, key)
		return before != nil
	case before != nil && before.Equal(service):
		return false
	}
	b.built[key] = service
	return true
}

// replace gives services a new slice in canonical order: the old one may have been handed on. A few changes are cheaper to
// put in their places than all services are to sort.
func (b *board) replace(touched []catalog.Key) {
	const few = 20
	switch {
	case len(touched) == 0:
		return
	case len(touched) > few:
		b.services = slices.SortedFunc(maps.Values(b.built), func(a, c *catalog.Service) int { return a.Key.Compare(c.Key) })
		return
	}
	b.services = slices.Clone(b.services)
	for _, key := range touched {
		i, found := slices.BinarySearchFunc(b.services, key, func(s *catalog.Service, k catalog.Key) int { return s.Key.Compare(k) })
		service, has := b.built[key]
		switch {
		case found && has:
			b.services[i] = service
		case found:
			b.services = slices.Delete(b.services, i, i+1)
		case has:
			b.services = slices.Insert(b.services, i, service)
		}
	}
}

// port builds the service of one port; it is nil when there is no key for it. Of several names that claim the port the
// owner is one that asked for it, and of those the lowest.
func (b *board) port(key catalog.Key) (*catalog.Service, []catalog.Problem) {
	claims := make(map[string]bool) // by name: whether it asked for the port
	for path := range b.ports[key] {
		if e := b.entries[path]; !b.pending(e) {
			claims[e.name] = claims[e.name] || e.asked
		}
	}
	if len(claims) == 0 {
		return nil, nil
	}
	owner := ownerOf(claims)
	service := &catalog.Service{Key: key, Name: owner, Source: sourceName, Mode: catalog.ModeTCP}
	var problems []catalog.Problem
	for path := range b.ports[key] {
		e := b.entries[path]
		if e.name != owner || b.pending(e) {
			continue
		}
		server, reason := b.server(e)
		if reason != "" {
			problems = append(problems, catalog.Problem{Source: sourceName, Subject: subject(b.prefix + "/" + path), Reason: reason})
			continue
		}
		service.Servers = append(service.Servers, server)
	}
	delete(claims, owner)
	for name := range claims {
		problems = append(problems, catalog.Problem{Source: sourceName, Subject: subject(b.prefix + "/" + name),
			Reason: fmt.Sprintf("port %s belongs to the service %s; give this one a port of its own with SERVICE_NAME=NAME@PORT", key, owner)})
	}
	return service.Canonical(), sortProblems(problems)
}

// ownerOf picks one name of those that claim a port.
func ownerOf(claims map[string]bool) string {
	return slices.MinFunc(slices.Collect(maps.Keys(claims)), func(a, b string) int {
		switch {
		case claims[a] == claims[b]:
			return cmp.Compare(a, b)
		case claims[a]:
			return -1
		default:
			return 1
		}
	})
}

// pending reports whether an entry's host was not asked for yet: it does not count so far, and nothing is wrong with it.
func (b *board) pending(e entry) bool {
	_, known := b.answers[e.host]
	return e.host != "" && !known
}

// server gives an entry's server, or why there is none. Its address is a port of the host where the container runs, be it
// published or the container's own with --net=host; what -internal registers cannot be told from the latter. Registrator
// knows nothing of its health.
func (b *board) server(e entry) (catalog.Server, string) {
	addr := e.addr
	if e.host != "" {
		answer := b.answers[e.host]
		if answer.Reason != "" {
			return catalog.Server{}, answer.Reason
		}
		addr = answer.Addr
	}
	return catalog.Server{Addr: netip.AddrPortFrom(addr, e.backend), Weight: catalog.DefaultWeight, Check: true, OnHost: true}, ""
}

func (b *board) problems() []catalog.Problem {
	var all []catalog.Problem
	for _, p := range b.bad {
		all = append(all, p)
	}
	for _, p := range b.wrong {
		all = append(all, p...)
	}
	return sortProblems(all)
}

func sortProblems(problems []catalog.Problem) []catalog.Problem {
	slices.SortFunc(problems, func(a, b catalog.Problem) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Reason, b.Reason))
	})
	return problems
}
