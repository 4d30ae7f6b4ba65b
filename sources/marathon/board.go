package marathon

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// board settles which app has which service port. Taking in one app's change costs as much as that app, and the list of services
// shares with the one before what did not change.
type board struct {
	claims   map[catalog.Key][]offer
	services map[catalog.Key]*catalog.Service
	problems map[catalog.Key][]catalog.Problem // of those whose port another app has
	changed  map[catalog.Key]bool              // since the list was made
	list     []*catalog.Service                // in canonical order; never written to
	servers  int
}

func newBoard() *board {
	return &board{claims: map[catalog.Key][]offer{}, services: map[catalog.Key]*catalog.Service{},
		problems: map[catalog.Key][]catalog.Problem{}, changed: map[catalog.Key]bool{}}
}

// replace puts an app's offers in the place of those that it had. It reports whether anybody lacks a port, or did.
func (b *board) replace(app string, had, has []offer) (disputed bool) {
	keys := make(map[catalog.Key]bool, len(has))
	for _, o := range had {
		keys[o.service.Key] = true
		b.claims[o.service.Key] = slices.DeleteFunc(slices.Clone(b.claims[o.service.Key]), func(c offer) bool { return c.app == app })
	}
	for _, o := range has {
		keys[o.service.Key] = true
		b.claims[o.service.Key] = append(slices.Clone(b.claims[o.service.Key]), o)
	}
	for key := range keys {
		if b.settle(key) {
			disputed = true
		}
	}
	return disputed
}

// settle decides who has a port, and what of its service changed. It reports whether somebody lacks it, or did.
func (b *board) settle(key catalog.Key) (disputed bool) {
	had := b.services[key]
	has, problems := award(b.claims[key])
	disputed = len(problems)+len(b.problems[key]) > 0
	delete(b.problems, key)
	if len(problems) > 0 {
		b.problems[key] = problems
	}
	if has == nil {
		delete(b.claims, key)
	}
	if had == has || had != nil && has != nil && had.Equal(has) {
		return disputed // the old one stays, which says that nothing changed
	}
	b.changed[key] = true
	if had != nil {
		b.servers -= len(had.Servers)
		delete(b.services, key)
	}
	if has != nil {
		b.servers += len(has.Servers)
		b.services[key] = has
	}
	return disputed
}

// award gives the service of a port to one of those that claim it: the lowest app id has it, and a definition that is
// current goes before one that is on its way out. It is nil when nobody claims the port.
func award(claims []offer) (*catalog.Service, []catalog.Problem) {
	if len(claims) == 0 {
		return nil, nil
	}
	slices.SortStableFunc(claims, func(a, b offer) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.app, b.app))
	})
	owner := claims[0]
	service := owner.service
	var problems []catalog.Problem
	for _, c := range claims[1:] {
		if c.app == owner.app {
			both := *service
			both.Servers = slices.Concat(service.Servers, c.service.Servers)
			service = &both
			continue
		}
		problems = append(problems, problem(c.app, fmt.Sprintf("%s is left out: app %s has that service port", c.service.Key, clean(owner.app))))
	}
	return service.Canonical(), problems
}

func rank(o offer) int {
	if o.current {
		return 0
	}
	return 1
}

// share takes over from an earlier board what is the same, the whole list when all is.
func (b *board) share(earlier *board) {
	same := len(b.services) == len(earlier.services)
	for key, s := range b.services {
		if was, ok := earlier.services[key]; ok && was.Equal(s) {
			b.services[key] = was
		} else {
			same = false
		}
	}
	if same && len(earlier.changed) == 0 {
		b.list = earlier.list
		b.changed = map[catalog.Key]bool{}
	}
}

// all gives the services in canonical order.
func (b *board) all() []*catalog.Service {
	if len(b.changed) == 0 {
		return b.list
	}
	keys := slices.SortedFunc(maps.Keys(b.changed), catalog.Key.Compare)
	b.changed = map[catalog.Key]bool{} // not the one that has once had room for all services, and would cost as much each time
	next := make([]*catalog.Service, 0, len(b.services))
	rest := b.list
	for _, key := range keys {
		at, found := slices.BinarySearchFunc(rest, key, func(s *catalog.Service, k catalog.Key) int { return s.Key.Compare(k) })
		next = append(next, rest[:at]...)
		if found {
			at++
		}
		rest = rest[at:]
		if s, ok := b.services[key]; ok {
			next = append(next, s)
		}
	}
	b.list = append(next, rest...)
	return b.list
}
