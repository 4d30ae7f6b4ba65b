package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// Guard holds servers that a source does not tell of any more, though nothing said that they ended, where many vanish at once, or the
// last one of a service: a standby, a fresh leader or a proxy in between answers so more often than all have ended.
//
// They are held until the source tells of them again, something says that they ended, or the source has repeated for Hold, in two
// full readings, that they are gone. The proxy checks them meanwhile.
type Guard struct {
	Percent int           // more than these of a source's servers,
	Min     int           // and at least so many, are many
	Hold    time.Duration // how long
}

// Kept is what counts of a source's services. The zero value is that of a source that never spoke.
type Kept struct {
	Services []*catalog.Service // what it tells and what is held, in canonical order
	Held     []Held             // in the order of their keys and addresses

	told    []*catalog.Service // the source's own list
	gone    []loss             // that were let go though nothing said that they ended, within Hold
	adopted bool               // this process has not heard of Services from the source
	fresh   bool               // but they were known so shortly before that not many can have ended
}

// loss is servers that were let go at a time.
type loss struct {
	at      time.Time
	servers int
}

// Held is a server that counts though its source does not tell of it.
type Held struct {
	Service *catalog.Service // as it was when the server was missed
	Server  catalog.Server
	Since   time.Time

	many     bool      // it was one of many; or else it is held because nobody else serves
	repeated time.Time // when the first full reading since said the same; zero for not yet
	adopted  bool      // the source never told this process of it, so that it cannot say that it is missing
}

// Adopt gives what counts until a source has spoken: services that were known before this process began, and when they were read.
func (g Guard) Adopt(services []*catalog.Service, read, now time.Time) Kept {
	return Kept{Services: services, adopted: true, fresh: now.Sub(read) <= g.Hold}
}

// Release gives what counts when nothing is held any more.
func (k Kept) Release() Kept {
	if len(k.Held) == 0 {
		return k
	}
	return Kept{Services: k.told, told: k.told}
}

// Next gives what counts after a snapshot of a source that was read; its services must be in strict order.
func (g Guard) Next(was Kept, s catalog.Snapshot, now time.Time) Kept {
	if !was.adopted && len(was.Held) == 0 && catalog.SameList(was.told, s.Services) {
		return was
	}
	next := Kept{told: s.Services, Services: s.Services}
	next.gone = slices.DeleteFunc(slices.Clone(was.gone), func(l loss) bool { return now.Sub(l.at) >= g.Hold })
	missed := g.missed(was, s, now)
	if len(missed) == 0 {
		return next
	}
	lost := len(missed)
	for _, l := range next.gone { // many little ones are a large one
		lost += l.servers
	}
	total := catalog.CountServers(was.Services) + lost - len(missed)
	many := lost >= g.Min && 100*lost > g.Percent*total && (!was.adopted || was.fresh)
	known := addresses(s.Services)
	for _, h := range missed {
		h.many = h.many || many
		switch is := find(s.Services, h.Service.Key); {
		case known[h.Server.Addr], is != nil && is.Name != h.Service.Name: // it is another's by now, or the port is
		case h.many, is == nil, len(is.Servers) == 0, h.adopted && s.Partial[h.Service.Key]:
			next.Held = append(next.Held, h)
		case h.Since.Equal(now):
			next.gone = append(next.gone, loss{now, 1})
		}
	}
	next.Services = next.withHeld(was.Services)
	return next
}

// addresses gives those of all servers.
func addresses(services []*catalog.Service) map[netip.AddrPort]bool {
	out := map[netip.AddrPort]bool{}
	for _, s := range services {
		for _, v := range s.Servers {
			out[v.Addr] = true
		}
	}
	return out
}

// missed gives the servers that counted, that the source does not tell of, and that may be alive.
func (g Guard) missed(was Kept, s catalog.Snapshot, now time.Time) []Held {
	held := was.Held // not passed yet
	var out []Held
	for a, b := was.Services, s.Services; len(a) > 0; {
		same := catalog.InStep(a, b)
		if a, b = a[same:], b[same:]; len(a) == 0 {
			break
		}
		for len(b) > 0 && b[0].Key.Compare(a[0].Key) < 0 {
			b = b[1:]
		}
		before, is := a[0], (*catalog.Service)(nil)
		if a = a[1:]; len(b) > 0 && b[0].Key == before.Key {
			is, b = b[0], b[1:]
		}
		for _, v := range before.Servers {
			if is != nil && has(is, v.Addr) {
				continue
			}
			h := Held{Service: before, Server: v, Since: now, adopted: was.adopted}
			for len(held) > 0 && held[0].compare(h) < 0 {
				held = held[1:]
			}
			if len(held) > 0 && held[0].compare(h) == 0 {
				h = held[0]
			}
			if h.adopted && is != nil && s.Partial != nil && !s.Partial[before.Key] {
				continue // the source knows how many there are, and tells of all
			}
			if h, ok := g.doubt(h, s, now); ok {
				out = append(out, h)
			}
		}
	}
	return out
}

func (h Held) compare(o Held) int {
	if c := h.Service.Key.Compare(o.Service.Key); c != 0 {
		return c
	}
	return h.Server.Addr.Compare(o.Server.Addr)
}

// doubt gives a missing server with what a snapshot says of it; not ok when that is that it is gone for good.
func (g Guard) doubt(h Held, s catalog.Snapshot, now time.Time) (Held, bool) {
	read, until := s.Reading(), h.Since.Add(g.Hold)
	switch {
	case s.Certain, !h.adopted && !s.Missing[h.Service.Key][h.Server.Addr]:
		return h, false
	case h.repeated.IsZero():
		if read.After(h.Since) {
			h.repeated = read
		}
		return h, true
	default:
		return h, now.Before(until) || read.Before(until) || !read.After(h.repeated)
	}
}

func find(list []*catalog.Service, key catalog.Key) *catalog.Service {
	i, ok := slices.BinarySearchFunc(list, key, func(s *catalog.Service, k catalog.Key) int { return s.Key.Compare(k) })
	if !ok {
		return nil
	}
	return list[i]
}

func has(s *catalog.Service, addr netip.AddrPort) bool {
	_, ok := slices.BinarySearchFunc(s.Servers, addr, func(v catalog.Server, a netip.AddrPort) int { return v.Addr.Compare(a) })
	return ok
}

// withHeld gives what the source tells with what is held. A service that counted before in the same form stays the same.
func (k Kept) withHeld(before []*catalog.Service) []*catalog.Service {
	if len(k.Held) == 0 {
		return k.told
	}
	out, rest := make([]*catalog.Service, 0, len(k.told)+len(k.Held)), k.told
	for held := k.Held; len(held) > 0; {
		key := held[0].Service.Key
		n := len(held)
		if i := slices.IndexFunc(held, func(h Held) bool { return h.Service.Key != key }); i >= 0 {
			n = i
		}
		at, told := slices.BinarySearchFunc(rest, key, func(s *catalog.Service, k catalog.Key) int { return s.Key.Compare(k) })
		out = append(out, rest[:at]...)
		of := catalog.Service{}
		if rest = rest[at:]; told {
			of, rest = *rest[0], rest[1:]
		} else {
			of = *held[0].Service
			of.Servers = nil
		}
		of.Servers = slices.Clone(of.Servers)
		for _, h := range held[:n] {
			h.Server.Check = true
			of.Servers = append(of.Servers, h.Server)
		}
		next := of.Canonical()
		if was := find(before, key); was != nil && was.Equal(next) {
			next = was
		}
		out, held = append(out, next), held[n:]
	}
	return append(out, rest...)
}

// maxNamed is how many services a problem names.
const maxNamed = 5

// HeldTitle tells how many servers are held, and of which services.
func (k Kept) HeldTitle() string {
	var names []string
	var last catalog.Key
	more := 0
	for _, h := range k.Held {
		switch {
		case h.Service.Key == last:
		case len(names) == maxNamed:
			more++
		default:
			names = append(names, h.Service.Title())
		}
		last = h.Service.Key
	}
	if more > 0 {
		names = append(names, fmt.Sprintf("%d others", more))
	}
	return fmt.Sprintf("%d servers of %s", len(k.Held), strings.Join(names, ", "))
}

// Problems tells what is held of a source.
func (g Guard) Problems(k Kept, source string) []catalog.Problem {
	if len(k.Held) == 0 {
		return nil
	}
	until := k.Held[0].Since
	for _, h := range k.Held {
		if h.Since.After(until) {
			until = h.Since
		}
	}
	return []catalog.Problem{{Source: source, Subject: "guard", Reason: fmt.Sprintf(
		"%s are missing in its answers, though nothing said that they ended; they are kept, and checked, until it has repeated that beyond %s; `proxymatic ack` lets them go at once",
		k.HeldTitle(), until.Add(g.Hold).UTC().Format(time.TimeOnly+" MST"))}}
}
