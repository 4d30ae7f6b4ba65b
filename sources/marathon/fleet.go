package marathon

import (
	"maps"
	"slices"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/hostname"
)

// fleet is what is known of one Marathon: each app as it was read last, what events said since, and the services that follow.
// It asks nobody: answers, events and the time come in. It belongs to one goroutine.
type fleet struct {
	source    string
	groupSize int

	apps       map[string]entry
	ended      map[string]time.Time // apps that an event said are gone, and until when that holds against answers
	beliefs    beliefs
	versions   map[versionKey]versionAnswer
	hosts      map[string]hostname.Answer
	board      *board
	bad        []catalog.Problem            // of the list, not of an app in it
	complaints map[string][]catalog.Problem // of each app that has any
	unlisted   map[string]words             // what was said of apps that are not known
	told       map[string]bool              // apps of which events have said something that does not count yet
	listed     time.Time                    // when the last list was asked for
	absent     absences
	missed     catalog.Places    // of them; nil when it is to be collected anew
	short      map[string]bool   // apps whose answer may lack tasks, their health or their addresses
	partial    catalog.Keys      // what those offer; nil when it is to be collected anew
	report     []catalog.Problem // all problems, sorted; nil when they are to be collected anew
}

// entry is one app.
type entry struct {
	app    app       // as it was read, and as events have it
	asked  time.Time // when the answer was asked for
	words  words
	offers []offer
}

// reading is what Marathon said when it was asked for all apps, or for one.
type reading struct {
	asked    time.Time
	replica  int
	apps     []app
	missing  string // the app that was asked for, if there is none
	problems []catalog.Problem
	versions map[versionKey]versionAnswer // of the running tasks that need them
	hosts    map[string]hostname.Answer   // of the running tasks
}

func newFleet(source string, groupSize int) *fleet {
	return &fleet{
		source:     source,
		groupSize:  groupSize,
		apps:       map[string]entry{},
		ended:      map[string]time.Time{},
		beliefs:    beliefs{},
		versions:   map[versionKey]versionAnswer{},
		hosts:      map[string]hostname.Answer{},
		board:      newBoard(),
		complaints: map[string][]catalog.Problem{},
		unlisted:   map[string]words{},
		told:       map[string]bool{},
		absent:     absences{},
		short:      map[string]bool{},
	}
}

func (f *fleet) world(now time.Time) world {
	return world{source: f.source, versions: f.versions, hosts: f.hosts, beliefs: f.beliefs, now: now, groupSize: f.groupSize}
}

// set takes an app in, and reports whether it offers anything else than before. It costs as much as that app.
func (f *fleet) set(e entry, now time.Time) (changed bool) {
	id := e.app.ID
	had := f.apps[id].offers
	f.beliefs.learn(e.app, now)
	r := route(e.app, f.world(now))
	f.offer(id, had, r.offers)
	e.offers = r.offers
	f.apps[id] = e
	delete(f.told, id)
	f.complain(id, r.problems)
	return !slices.EqualFunc(had, r.offers, offer.equal)
}

// offer puts an app's offers in the place of those that it had.
func (f *fleet) offer(id string, had, has []offer) {
	if f.board.replace(id, had, has) {
		f.report = nil
	}
	if f.short[id] {
		f.partial = nil
	}
}

func (f *fleet) complain(id string, problems []catalog.Problem) {
	if len(problems)+len(f.complaints[id]) > 0 {
		f.report = nil
	}
	delete(f.complaints, id)
	if len(problems) > 0 {
		f.complaints[id] = problems
	}
}

func (f *fleet) drop(id string) {
	f.offer(id, f.apps[id].offers, nil)
	f.complain(id, nil)
	f.shortNow(id, false)
	delete(f.apps, id)
	delete(f.told, id)
}

// renewed gives the fleet that follows from a list of all apps, and the apps of which events have said something else. What was
// asked for later, or said by an event, counts more than the list. The fleet itself stays as it is.
func (f *fleet) renewed(list reading, now time.Time) (next *fleet, differing []string) {
	next = newFleet(f.source, f.groupSize)
	next.beliefs, next.versions, next.hosts, next.bad = f.beliefs, list.versions, list.hosts, list.problems
	next.listed = list.asked
	next.remember(f.absent, now)
	for id, until := range f.ended {
		if list.asked.Before(until) {
			next.ended[id] = until
		}
	}
	for _, a := range list.apps {
		known, ok := f.apps[a.ID]
		if ok && known.asked.After(list.asked) {
			continue
		}
		if a.untold && len(known.app.tasks) > 0 {
			next.keep(f, known, now)
			next.bad = append(slices.Clip(next.bad), problem(a.ID, "the list does not tell its tasks; what was known of it stays"))
			continue
		}
		if _, ended := next.ended[a.ID]; ended {
			differing = append(differing, a.ID)
			continue
		}
		e := entry{app: a, asked: list.asked, words: f.said(a.ID).holding(list.asked)}
		var differs bool
		if e.app, differs = e.words.correct(a); differs {
			differing = append(differing, a.ID)
		}
		next.set(e, now)
		next.noteAbsences(known, f.world(now), a, now)
	}
	for id, known := range f.apps {
		switch _, listed := next.apps[id]; {
		case known.asked.After(list.asked):
			next.keep(f, known, now)
		case !listed && next.ended[id].IsZero():
			next.noteAbsences(known, f.world(now), app{}, now)
		}
	}
	next.beliefs.forget(now)
	next.board.share(f.board)
	return next, differing
}

// keep takes an app over from another fleet, with what is known of its versions and hosts.
func (f *fleet) keep(from *fleet, e entry, now time.Time) {
	for _, key := range versionsNeeded([]app{e.app}) {
		if _, ok := f.versions[key]; !ok {
			f.versions[key] = from.versions[key]
		}
	}
	for _, host := range hostsNeeded([]app{e.app}) {
		if _, ok := f.hosts[host]; !ok {
			f.hosts[host] = from.hosts[host]
		}
	}
	e.offers = nil
	f.set(e, now)
	f.shortNow(e.app.ID, from.short[e.app.ID])
}

// finding is what came of an answer on one app.
type finding uint8

const (
	changed   finding = iota
	unchanged         // it offers what it did before
	differs           // events have said something else
	lost              // it is gone though nothing said so: the whole list must tell
	outdated          // something newer is known
)

// visited takes in what was answered on one app.
func (f *fleet) visited(one reading, now time.Time) finding {
	if one.missing != "" {
		if _, known := f.apps[one.missing]; known {
			return lost
		}
		return unchanged
	}
	f.know(one)
	a := one.apps[0]
	known, ok := f.apps[a.ID]
	switch {
	case one.asked.Before(f.ended[a.ID]):
		return differs
	case known.asked.After(one.asked), !ok && f.listed.After(one.asked):
		return outdated
	}
	e := entry{app: a, asked: one.asked, words: f.said(a.ID).holding(one.asked)}
	delete(f.unlisted, a.ID)
	var other bool
	e.app, other = e.words.correct(a)
	offersOthers := f.set(e, now)
	f.noteAbsences(known, f.world(now), a, now)
	switch {
	case other:
		return differs
	case offersOthers:
		return changed
	default:
		return unchanged
	}
}

// know takes over what an answer says of versions and hosts.
func (f *fleet) know(some reading) {
	maps.Copy(f.versions, some.versions)
	maps.Copy(f.hosts, some.hosts)
}

// servers is how many there would be if an answer on some apps counted.
func (f *fleet) servers(some reading, now time.Time) int {
	f.know(some)
	n := f.board.servers
	for _, a := range some.apps {
		corrected, _ := f.said(a.ID).holding(some.asked).correct(a)
		n += countServers(route(corrected, f.world(now)).offers) - countServers(f.apps[a.ID].offers)
	}
	return n
}

func countServers(offers []offer) int {
	n := 0
	for _, o := range offers {
		n += len(o.service.Servers)
	}
	return n
}

// said gives what events said of an app's tasks.
func (f *fleet) said(id string) words {
	if known, ok := f.apps[id]; ok {
		return known.words
	}
	return f.unlisted[id]
}

// unready gives the apps with running tasks that a readiness check says no of. No event tells when it says yes.
func (f *fleet) unready(apps []app) []string {
	var out []string
	for _, a := range apps {
		if len(a.Readiness) > 0 && slices.ContainsFunc(a.tasks, func(t task) bool { return t.running() && !a.ready(t) }) {
			out = append(out, a.ID)
		}
	}
	return out
}

// problems gives all of them, sorted.
func (f *fleet) problems() []catalog.Problem {
	if f.report == nil {
		f.report = f.collect()
	}
	return f.report
}

func (f *fleet) collect() []catalog.Problem {
	all := append([]catalog.Problem{}, f.bad...)
	for _, some := range f.complaints {
		all = append(all, some...)
	}
	for _, some := range f.board.problems {
		all = append(all, some...)
	}
	for i := range all {
		all[i].Source = f.source
	}
	return sortProblems(all)
}
