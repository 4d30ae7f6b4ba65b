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
	Want     []*catalog.Service // in canonical order, one a key
	Problems []catalog.Problem  // what Decide itself left out, in a fixed order; the snapshots' own problems are not repeated
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
	if list, ok := only(snaps); ok {
		if d, ok := p.alone(last.Want, list); ok {
			return d
		}
	}
	m := merge(snaps)
	n := next{policy: p, known: last.Want, want: collector{from: m.largest()}}
	for group := m.next(); len(group) > 0; group = m.next() {
		if len(group) > 1 {
			slices.SortStableFunc(group, claim.outranks)
		}
		owner := group[0]
		for _, loser := range group[1:] {
			n.problems = append(n.problems, lost(owner, loser))
		}
		n.take(owner.Service)
	}
	return n.decision()
}

// alone decides on the only list that there is; not ok when it is not strictly in order, as those of our own sources are. Where it goes
// in step with what was wanted, which is in order, no service is looked at.
func (p Policy) alone(wanted, list []*catalog.Service) (Decision, bool) {
	n := next{policy: p, known: wanted, want: collector{from: list}}
	for i := 0; i < len(list); {
		if i > 0 && list[i-1].Key.Compare(list[i].Key) >= 0 {
			return Decision{}, false
		}
		same := catalog.InStep(list[i:], n.known)
		if same == 0 {
			n.take(list[i])
			i++
			continue
		}
		n.want.add(list[i : i+same]...)
		n.known = n.known[same:]
		i += same
	}
	return n.decision(), true
}

// next is a decision that is being made, service by service in the order of their keys.
type next struct {
	policy   Policy
	known    []*catalog.Service // what was wanted, without those that were passed
	want     collector
	problems []catalog.Problem
}

// take decides on the service that has its port.
func (n *next) take(s *catalog.Service) {
	for len(n.known) > 0 && n.known[0] != s && n.known[0].Key.Compare(s.Key) < 0 {
		n.known = n.known[1:]
	}
	if len(n.known) > 0 && n.known[0].Equal(s) {
		n.known = n.known[1:]
		n.want.add(s)
		return
	}
	if reason := n.policy.refuse(s); reason != "" {
		n.problems = append(n.problems, problem(s, reason))
		return
	}
	offered := n.policy.offer(s)
	if len(n.known) > 0 && n.known[0].Equal(offered) {
		offered = n.known[0] // made of the same as last time
	}
	n.want.add(offered)
}

func (n *next) decision() Decision { return Decision{Want: n.want.list(), Problems: n.problems} }

// outranks is negative when a gets the port that both want. Services of one source and name are told apart by all that
// they have, so that the same one wins every time.
func (c claim) outranks(o claim) int {
	if c := cmp.Or(cmp.Compare(o.priority, c.priority), cmp.Compare(c.source, o.source), cmp.Compare(c.Name, o.Name)); c != 0 {
		return c
	}
	return cmp.Compare(catalog.Format([]*catalog.Service{c.Service}), catalog.Format([]*catalog.Service{o.Service}))
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
	return catalog.Problem{Source: "policy", Subject: s.Title(), Reason: reason}
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
	s = s.Canonical()
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
