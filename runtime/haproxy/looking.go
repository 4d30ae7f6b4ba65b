package haproxy

import (
	"maps"
	"slices"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// touched gives the services that differ from what was proven, those that wait for a port, and those of which it is time to look at
// servers that are leaving, in order; nil when nothing was proven.
func (d *Driver) touched(want sections) []catalog.Key {
	if d.resync.Load() || d.verified == nil {
		return nil
	}
	keys := slices.AppendSeq(differing(want, d.verified), maps.Keys(d.taken))
	return sorted(append(keys, d.dueToDelete()...))
}

// sorted gives each key once, in order.
func sorted(keys []catalog.Key) []catalog.Key {
	slices.SortFunc(keys, catalog.Key.Compare)
	return slices.Compact(keys)
}

// looking gives what is known before a look at services. Which frontends listen, and what limits servers have, is not looked at
// where services are proven and nothing of the kind changes. A server that was leaving and comes back has the limit of its own day.
func (d *Driver) looking(keys []catalog.Key, want sections) looking {
	at := looking{keys: keys, expected: d.built, load: d.structureOf}
	sure := nothing()
	for _, key := range keys {
		was, is := d.verified.find(key), want.find(key)
		if was == nil || is == nil || was.hash != is.hash || !sameLimits(was, is) || d.returns(is) {
			return at
		}
		sure.suppose(is)
	}
	if keys != nil {
		at.sure = &sure
	}
	return at
}

// returns reports whether a server that is leaving is wanted again. A service that is not wanted at all has no section.
func (d *Driver) returns(s *section) bool {
	if s == nil {
		return false
	}
	for path, l := range d.leaving {
		proxy, name, _ := strings.Cut(path, "/")
		if l.key == s.key && slices.ContainsFunc(s.lines(proxy), func(line serverLine) bool { return line.name == name }) {
			return true
		}
	}
	return false
}

// sameLimits reports whether the servers that both sections have keep their limits.
func sameLimits(was, is *section) bool {
	for _, p := range was.proxies {
		limits := map[string]int{}
		for _, line := range p.servers {
			limits[line.name] = line.maxconn
		}
		for _, line := range is.lines(p.name) {
			if limit, ok := limits[line.name]; ok && limit != line.maxconn {
				return false
			}
		}
	}
	return true
}
