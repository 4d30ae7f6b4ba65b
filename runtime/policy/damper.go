package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	firstOut  = 10 * time.Second // how long a server that flaps is held out at first; then twice as long each time
	longest   = 5 * time.Minute
	forgiven  = 10 * time.Minute // how long it must have been quiet for the next time to be the first again
	flapSpan  = time.Minute      // in which comings are counted
	sweepSpan = time.Minute      // how often those that are quiet are forgotten
)

// Damper holds out servers that come and go again and again, such as a container that crashes as soon as it has started: each coming
// would cost its clients requests. The last server of a service is never held out. A Damper belongs to one source and one goroutine;
// the zero value holds nothing out.
type Damper struct {
	Limit int // how often a minute a server may come; 0 is without limit

	told   []*catalog.Service
	flaps  map[place]*flap // nil before the first list, whose servers were there before
	damped map[place]*flap // those of them that may not come in now
	out    []place         // and are held out
	swept  time.Time
}

type place struct {
	key  catalog.Key
	addr netip.AddrPort
}

func (p place) compare(o place) int {
	return cmp.Or(p.key.Compare(o.key), p.addr.Compare(o.addr))
}

// flap is a server that came lately.
type flap struct {
	came  []time.Time   // within flapSpan, since it was held out last
	last  time.Time     // when it came last
	pause time.Duration // how long it was held out last
	until time.Time     // when it may come in
}

// Next gives the services without those servers that are held out, and when there is something to let in; zero for never. The
// services must be in strict order. Of held servers nobody knows that they serve.
func (d *Damper) Next(list []*catalog.Service, held []Held, now time.Time) (admitted []*catalog.Service, next time.Time) {
	switch {
	case d.Limit == 0:
		*d = Damper{}
		return list, time.Time{}
	case d.flaps == nil:
		d.flaps, d.damped, d.told = map[place]*flap{}, map[place]*flap{}, list
		return list, time.Time{}
	}
	d.count(list, now)
	d.told = list
	d.sweep(now)
	return d.admit(list, held, now)
}

// With gives a damper with another limit that knows what this one does.
func (d *Damper) With(limit int) *Damper {
	other := *d
	other.Limit, other.flaps, other.damped = limit, nil, nil
	if d.flaps != nil {
		other.flaps, other.damped = map[place]*flap{}, map[place]*flap{}
	}
	for p, f := range d.flaps {
		same := *f
		same.came = slices.Clone(f.came)
		if other.flaps[p] = &same; d.damped[p] != nil {
			other.damped[p] = &same
		}
	}
	return &other
}

// count notes which servers have come.
func (d *Damper) count(list []*catalog.Service, now time.Time) {
	for a, b := d.told, list; len(b) > 0; {
		same := catalog.InStep(a, b)
		if a, b = a[same:], b[same:]; len(b) == 0 {
			return
		}
		for len(a) > 0 && a[0].Key.Compare(b[0].Key) < 0 {
			a = a[1:]
		}
		var before *catalog.Service
		if len(a) > 0 && a[0].Key == b[0].Key {
			before, a = a[0], a[1:]
		}
		for _, v := range b[0].Servers {
			if before == nil || !has(before, v.Addr) {
				d.came(place{b[0].Key, v.Addr}, now)
			}
		}
		b = b[1:]
	}
}

func (d *Damper) came(p place, now time.Time) {
	f := d.flaps[p]
	if f == nil {
		f = &flap{}
		d.flaps[p] = f
	}
	if now.Sub(f.last) >= forgiven {
		f.pause = 0
	}
	f.last = now
	f.came = append(slices.DeleteFunc(f.came, func(t time.Time) bool { return now.Sub(t) >= flapSpan }), now)
	if len(f.came) > d.Limit {
		f.pause = min(max(firstOut, 2*f.pause), longest)
		f.until, f.came = now.Add(f.pause), nil
		d.damped[p] = f
	}
}

// sweep forgets who has been quiet.
func (d *Damper) sweep(now time.Time) {
	if now.Sub(d.swept) < sweepSpan {
		return
	}
	d.swept = now
	for p, f := range d.flaps {
		if quiet := now.Sub(f.last); quiet >= forgiven || quiet >= flapSpan && f.pause == 0 {
			delete(d.flaps, p)
		}
	}
}

// admit leaves out who is held out, where others serve: of those that flap, the one whose time is over first.
func (d *Damper) admit(list []*catalog.Service, held []Held, now time.Time) (admitted []*catalog.Service, next time.Time) {
	maps.DeleteFunc(d.damped, func(_ place, f *flap) bool { return !now.Before(f.until) })
	admitted, d.out = list, nil
	for _, p := range slices.SortedFunc(maps.Keys(d.damped), func(p, o place) int {
		return cmp.Or(d.damped[o].until.Compare(d.damped[p].until), p.compare(o))
	}) {
		i, ok := slices.BinarySearchFunc(admitted, p.key, func(s *catalog.Service, k catalog.Key) int { return s.Key.Compare(k) })
		if !ok || !has(admitted[i], p.addr) || !othersServe(admitted[i], p.addr, held) {
			continue
		}
		if d.out == nil {
			admitted = slices.Clone(list)
		}
		without := *admitted[i]
		without.Servers = slices.DeleteFunc(slices.Clone(without.Servers), func(v catalog.Server) bool { return v.Addr == p.addr })
		admitted[i], d.out, next = &without, append(d.out, p), d.damped[p].until
	}
	return admitted, next
}

// othersServe reports whether a service has another server that the source tells of.
func othersServe(s *catalog.Service, but netip.AddrPort, held []Held) bool {
	return slices.ContainsFunc(s.Servers, func(v catalog.Server) bool {
		return v.Addr != but && !slices.ContainsFunc(held, func(h Held) bool { return h.Service.Key == s.Key && h.Server.Addr == v.Addr })
	})
}

// Problems tells who is held out.
func (d *Damper) Problems(source string) []catalog.Problem {
	var out []catalog.Problem
	for _, p := range d.out {
		f := d.flaps[p]
		out = append(out, catalog.Problem{Source: source, Subject: p.key.String() + " " + p.addr.String(), Reason: fmt.Sprintf(
			"the server came more than %d times within a minute; it is held out until %s, while others serve",
			d.Limit, f.until.UTC().Format(time.TimeOnly+" MST"))})
	}
	return out
}
