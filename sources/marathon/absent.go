package marathon

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// absences are tasks that answers do not list any more though nothing said that they ended, by app and id: a standby, or a leader
// that has just begun, lists too few. Inner maps are replaced, never written to.
type absences map[string]map[string]absence

// absence is one such task.
type absence struct {
	since  time.Time
	offers []offer // what it alone served
}

// longestAbsence is how long a task is remembered that answers do not list.
const longestAbsence = 24 * time.Hour

// noteAbsences keeps which of the tasks that served an answer does not list. Whatever an answer says of a task, it is not absent; nor
// is any where as many run as the app wants. then is what was known when the tasks were; the answer must have been taken in.
func (f *fleet) noteAbsences(known entry, then world, answer app, now time.Time) {
	id := cmp.Or(answer.ID, known.app.ID)
	f.shortNow(id, f.incomplete(answer, now))
	if answer.complete() {
		f.absentNow(id, nil)
		return
	}
	next := maps.Clone(f.absent[id])
	listed := make(map[string]bool, len(answer.tasks))
	for _, t := range answer.tasks {
		listed[t.ID] = true
		delete(next, t.ID)
	}
	maps.DeleteFunc(next, func(_ string, gone absence) bool { return f.serves(id, gone) })
	for _, t := range known.app.tasks {
		if listed[t.ID] {
			continue
		}
		alone := known.app
		alone.tasks = []task{t}
		if offers := route(alone, then).offers; countServers(offers) > 0 {
			if next == nil {
				next = map[string]absence{}
			}
			next[t.ID] = absence{now, offers}
		}
	}
	f.absentNow(id, next)
}

// serves reports whether another task of an app has an absent one's address by now.
func (f *fleet) serves(id string, gone absence) bool {
	taken := map[netip.AddrPort]bool{}
	for _, o := range f.apps[id].offers {
		for _, v := range o.service.Servers {
			taken[v.Addr] = true
		}
	}
	return slices.ContainsFunc(gone.offers, func(o offer) bool {
		return slices.ContainsFunc(o.service.Servers, func(v catalog.Server) bool { return taken[v.Addr] })
	})
}

// complete reports whether as many tasks run as are wanted.
func (a app) complete() bool {
	if a.Instances == nil {
		return false
	}
	running := 0
	for _, t := range a.tasks {
		if t.running() {
			running++
		}
	}
	return float64(running) >= *a.Instances
}

// incomplete reports whether an app's answer may lack tasks, or what makes them servers.
func (f *fleet) incomplete(a app, now time.Time) bool {
	return !a.complete() || a.unheard() || f.world(now).nameless(a)
}

// shortNow notes whether an app's answer was incomplete.
func (f *fleet) shortNow(id string, short bool) {
	if short == f.short[id] {
		return
	}
	f.partial = nil
	if f.short[id] = short; !short {
		delete(f.short, id)
	}
}

// partials gives the services that those apps offer.
func (f *fleet) partials() catalog.Keys {
	if f.partial == nil {
		f.partial = catalog.Keys{}
		for id := range f.short {
			for _, o := range f.apps[id].offers {
				f.partial[o.service.Key] = true
			}
		}
	}
	return f.partial
}

// unheard reports whether a task runs of whose health nothing is known, as after a failover: it may live though it is not served.
func (a app) unheard() bool {
	return a.checked() && slices.ContainsFunc(a.tasks, func(t task) bool {
		known, _ := t.results()
		return t.running() && !known
	})
}

// nameless reports whether a task runs on a host that has no address, as when a name server fails: it may live though it is not served.
func (w world) nameless(a app) bool {
	return slices.ContainsFunc(a.tasks, func(t task) bool { return t.running() && w.agent(t.Host).Reason != "" })
}

// absentNow replaces what is absent of an app.
func (f *fleet) absentNow(id string, now map[string]absence) {
	if len(now)+len(f.absent[id]) == 0 {
		return
	}
	f.missed = nil
	if len(now) == 0 {
		delete(f.absent, id)
		return
	}
	f.absent[id] = now
}

// heardOf takes in that an event told of a task's end or health: if it was absent, it is known again what became of it.
func (f *fleet) heardOf(e event) {
	for _, id := range e.apps() {
		next := maps.Clone(f.absent[id])
		maps.DeleteFunc(next, func(task string, _ absence) bool { return task == e.TaskID || instanceOf(task) == e.instance() })
		f.absentNow(id, next)
	}
}

// remember takes over what another fleet knows of absent tasks, apart from those that have been so for long.
func (f *fleet) remember(from absences, now time.Time) {
	for id, some := range from {
		next := maps.Clone(some)
		maps.DeleteFunc(next, func(_ string, a absence) bool { return now.Sub(a.since) >= longestAbsence })
		f.absentNow(id, next)
	}
}

// missing gives the places that the absent tasks served.
func (f *fleet) missing() catalog.Places {
	if f.missed == nil && len(f.absent) > 0 {
		f.missed = catalog.Places{}
		for _, some := range f.absent {
			for _, a := range some {
				for _, o := range a.offers {
					for _, v := range o.service.Servers {
						f.missed.Add(o.service.Key, v.Addr)
					}
				}
			}
		}
	}
	return f.missed
}
