// Package policy decides which of the services that the sources know this host should offer. It is pure: what it
// answers depends on its arguments alone.
package policy

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// CheckMode tells whether the proxy looks for itself at whether servers are alive.
type CheckMode string

// CheckAuto (and the zero value) leaves that to the source, which knows whether somebody else looks already.
const (
	CheckAuto   CheckMode = "auto"
	CheckAlways CheckMode = "always"
	CheckNever  CheckMode = "never"
)

// Policy is what the operator decided. The zero value offers everything that is not a service of the host itself.
type Policy struct {
	ExposeHost bool                   // offer services whose tasks already listen on the service port of their host
	Check      CheckMode              // overrides Server.Check
	Reserved   map[catalog.Key]string // ports that proxymatic itself listens on -> the flag that moves them, such as "--status-endpoint"
}

// Decision is what this host should offer, and what was left out.
type Decision struct {
	Want     []catalog.Service // in canonical order, one a key
	Problems []catalog.Problem // what Decide itself left out, in a fixed order; the snapshots' own problems are not repeated
}

// claim is a service with what decides whether it gets its port.
type claim struct {
	*catalog.Service
	priority int
	source   string
}

// Decide merges the sources' snapshots. The order of the snapshots does not matter, and nothing in them is written to:
// what need not change is shared with the answer.
//
// The port is given away first and the rest looked at afterwards. A service that is left out so keeps its port from
// others: its tasks may well listen on it on this very host.
func (p Policy) Decide(snaps []catalog.Snapshot) Decision { return p.Next(Decision{}, snaps) }

// Next gives what Decide gives. last must be a decision of the same policy: what was wanted then, and comes in the very same
// form, is wanted again without another look at its servers.
func (p Policy) Next(last Decision, snaps []catalog.Snapshot) Decision {
	var d Decision
	known := last.Want
	m := merge(snaps)
	want := collector{from: m.largest()}
	for group := m.next(); len(group) > 0; group = m.next() {
		if len(group) > 1 {
			slices.SortStableFunc(group, claim.outranks)
		}
		owner := group[0]
		for _, loser := range group[1:] {
			d.Problems = append(d.Problems, lost(owner, loser))
		}
		for len(known) > 0 && known[0].Key.Compare(owner.Key) < 0 {
			known = known[1:]
		}
		if len(known) > 0 && catalog.Same(&known[0], owner.Service) {
			known = known[1:]
			want.add(owner.Service)
		} else if reason := p.refuse(owner.Service); reason == "" {
			want.add(p.offer(owner.Service))
		} else {
			d.Problems = append(d.Problems, problem(owner.Service, reason))
		}
	}
	d.Want = want.list()
	return d
}

// outranks is negative when a gets the port that both want. Services of one source and name are told apart by all that
// they have, so that the same one wins every time.
func (c claim) outranks(o claim) int {
	if c := cmp.Or(cmp.Compare(o.priority, c.priority), cmp.Compare(c.source, o.source), cmp.Compare(c.Name, o.Name)); c != 0 {
		return c
	}
	return cmp.Compare(catalog.Format([]catalog.Service{*c.Service}), catalog.Format([]catalog.Service{*o.Service}))
}

func lost(owner, loser claim) catalog.Problem {
	why := "comes first by name"
	switch {
	case owner.priority != loser.priority:
		why = "is of a source that comes before"
	case owner.source != loser.source:
		why = "is of a source that comes first by name"
	}
	return problem(loser.Service, fmt.Sprintf("%q of %s is left out: port %s belongs to %q of %s, which %s; give one of them another port",
		loser.Name, loser.source, owner.Key, owner.Name, owner.source, why))
}

func problem(s *catalog.Service, reason string) catalog.Problem {
	return catalog.Problem{Source: "policy", Subject: s.Name + " " + s.Key.String(), Reason: reason}
}

// refuse tells why the service cannot be offered, or nothing.
func (p Policy) refuse(s *catalog.Service) string {
	if flag, own := p.Reserved[s.Key]; own {
		return fmt.Sprintf("left out: proxymatic itself listens on port %s; give %s another port to free it", s.Key, flag)
	}
	if p.ExposeHost {
		return ""
	}
	i := slices.IndexFunc(s.Servers, func(v catalog.Server) bool { return v.OnHost && v.Addr.Port() == s.Port })
	if i < 0 {
		return ""
	}
	return fmt.Sprintf("left out: its task at %s listens on the service port of its host itself, where a proxy would collide with it; --expose-host offers it all the same",
		s.Servers[i].Addr)
}

// offer gives the service as it is wanted: the same one, unless something must change.
func (p Policy) offer(s *catalog.Service) *catalog.Service {
	if !canonical(s.Servers) {
		one := []catalog.Service{*s}
		one[0].Servers = slices.Clone(s.Servers)
		catalog.Sort(one)
		s = &one[0]
	}
	if p.Check != CheckAlways && p.Check != CheckNever {
		return s
	}
	check := p.Check == CheckAlways
	if !slices.ContainsFunc(s.Servers, func(v catalog.Server) bool { return v.Check != check }) {
		return s
	}
	other := *s
	other.Servers = slices.Clone(s.Servers)
	for i := range other.Servers {
		other.Servers[i].Check = check
	}
	return &other
}

func canonical(servers []catalog.Server) bool {
	for i := 1; i < len(servers); i++ {
		if servers[i-1].Addr.Compare(servers[i].Addr) >= 0 {
			return false
		}
	}
	return true
}
