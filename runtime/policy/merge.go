package policy

import (
	"slices"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// only gives the services of the only snapshot that has any; not ok when several have.
func only(snaps []catalog.Snapshot) (list []*catalog.Service, ok bool) {
	for _, s := range snaps {
		if len(s.Services) > 0 {
			if list != nil {
				return nil, false
			}
			list = s.Services
		}
	}
	return list, true
}

// merger walks through snapshots side by side, key by key.
type merger struct {
	snaps []catalog.Snapshot // without the services that were given
	group []claim            // the memory of the last group
}

// merge gives a merger of snapshots. Their services are in order when they come from our own sources.
func merge(snaps []catalog.Snapshot) *merger {
	m := &merger{snaps: slices.Clone(snaps)}
	byKey := func(a, b *catalog.Service) int { return a.Key.Compare(b.Key) }
	for i := range m.snaps {
		list := m.snaps[i].Services
		if !inOrder(list) {
			list = slices.Clone(list)
			slices.SortStableFunc(list, byKey)
			m.snaps[i].Services = list
		}
	}
	return m
}

// inOrder reports whether a list is in the order of its keys, of which it may have some twice.
func inOrder(list []*catalog.Service) bool {
	for i := 1; i < len(list); i++ {
		if list[i-1].Key.Compare(list[i].Key) > 0 {
			return false
		}
	}
	return true
}

// largest gives the longest list of services.
func (m *merger) largest() []*catalog.Service {
	var most []*catalog.Service
	for _, s := range m.snaps {
		if len(s.Services) > len(most) {
			most = s.Services
		}
	}
	return most
}

// next gives those who claim the lowest key that is left, nobody at the end. It lasts until the next call.
func (m *merger) next() []claim {
	m.group = m.group[:0]
	var key catalog.Key
	found := false
	for i := range m.snaps {
		if list := m.snaps[i].Services; len(list) > 0 && (!found || list[0].Key.Compare(key) < 0) {
			key, found = list[0].Key, true
		}
	}
	for i := range m.snaps {
		s := &m.snaps[i]
		for len(s.Services) > 0 && s.Services[0].Key == key {
			m.group = append(m.group, claim{s.Services[0], s.Priority, s.Source})
			s.Services = s.Services[1:]
		}
	}
	return m.group
}

// collector puts services into a list. As long as they are those of from, one after the other, it is that list itself.
type collector struct {
	from []*catalog.Service
	n    int // services of from that were added, before all that are in own
	own  []*catalog.Service
}

func (c *collector) add(some ...*catalog.Service) {
	if c.own == nil && catalog.InStep(some, c.from[c.n:]) == len(some) {
		c.n += len(some)
		return
	}
	if c.own == nil {
		c.own = append(make([]*catalog.Service, 0, len(c.from)+8), c.from[:c.n]...)
	}
	c.own = append(c.own, some...)
}

func (c *collector) list() []*catalog.Service {
	if c.own == nil {
		return c.from[:c.n:c.n]
	}
	return c.own
}
