package pen

import (
	"errors"
	"fmt"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// wanted puts into the view how each service should be served, and what stands in the way of that.
func (d *Driver) wanted(services []*catalog.Service, v *view) {
	v.want = make(map[catalog.Key]*wanted, len(services))
	if len(services) == 0 {
		return
	}
	user, userErr := findIdentity(d.config.User)
	flows, few, flowsErr := fitFlows(d.config.Clients)
	refused := ""
	if v.refused = errors.Join(userErr, flowsErr, d.files.checkPaths()); v.refused != nil {
		refused = v.refused.Error()
	}
	d.user = user
	v.note("--pen-user", user.problem)
	v.note("--pen-clients", few)
	if p := d.sinkErr.Load(); p != nil {
		v.note(d.files.sink(), *p)
	}
	for _, s := range services {
		w := &wanted{service: s, uid: user.uid, limit: d.config.Servers, refused: refused}
		w.command = command{key: s.Key, bind: d.config.BindAddress, flows: flows, asRoot: user.uid == 0}
		var err error
		if w.command.options, err = d.render.options(s); err != nil {
			w.refused = err.Error()
		}
		if s.Proto == catalog.UDP && !d.config.BindAddress.Is4() {
			w.refused = fmt.Sprintf("pen loses UDP on an IPv6 address such as %s; give --bind-address an IPv4 address", d.config.BindAddress)
		}
		v.want[s.Key] = w
		v.note(s.Title(), w.refused)
		if n := len(s.Servers); n > w.limit {
			v.note(s.Title(), fmt.Sprintf("%d of its %d servers are used: --pen-servers is %d; raise it", w.limit, n, w.limit))
		}
	}
}

// note adds a problem unless there is none.
func (v *view) note(subject, reason string) {
	if reason != "" {
		v.problems = append(v.problems, catalog.Problem{Source: Name, Subject: subject, Reason: reason})
	}
}

// sieve finds the UDP services of a list. Thousands that are HAProxy's may be among them: those that were in the list before are not
// looked at. Lists are in the order of their keys, with one service each.
type sieve struct {
	all, udp []*catalog.Service // of the last time
}

func (s *sieve) udpOf(want []*catalog.Service) []*catalog.Service {
	if catalog.SameList(want, s.all) {
		return s.udp
	}
	was, out := *s, []*catalog.Service(nil)
	for rest := want; len(rest) > 0; {
		if same := catalog.InStep(rest, was.all); same > 0 {
			out = append(out, was.next(same)...)
			rest = rest[same:]
			continue
		}
		w := rest[0]
		if len(was.all) > 0 && was.all[0].Key.Compare(w.Key) <= 0 {
			was.next(1) // gone, or another now
			continue
		}
		if w.Proto == catalog.UDP {
			out = append(out, w)
		}
		rest = rest[1:]
	}
	*s = sieve{want, out}
	return out
}

// next drops the first n services and gives those of UDP among them.
func (s *sieve) next(n int) []*catalog.Service {
	last, udp := s.all[n-1].Key, 0
	for udp < len(s.udp) && s.udp[udp].Key.Compare(last) <= 0 {
		udp++
	}
	out := s.udp[:udp]
	s.all, s.udp = s.all[n:], s.udp[udp:]
	return out
}
