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
}

// entry is one app.
type entry struct {
	app    app       // as it was read, and as events have it
	asked  time.Time // when the answer was asked for
	words  words
	offers []offer
}

// reading is what Marathon said when it was asked for all apps, or for some.
type reading struct {
	asked    time.Time
	replica  int
	apps     []app
	missing  []string // apps that were asked for and that there are none of
	problems []catalog.Problem
	versions map[versionKey]versionAnswer // of the running tasks that need them
	hosts    map[string]hostname.Answer   // of the running tasks
}

func newFleet(source string, groupSize int) *fleet {
	return &fleet{source: source, groupSize: groupSize, apps: map[string]entry{}, ended: map[string]time.Time{}, beliefs: beliefs{},
		versions: map[versionKey]versionAnswer{}, hosts: map[string]hostname.Answer{}, board: newBoard(), complaints: map[string][]catalog.Problem{}}
}

func (f *fleet) world(now time.Time) world {
	return world{source: f.source, versions: f.versions, hosts: f.hosts, beliefs: f.beliefs, now: now, groupSize: f.groupSize}
}

// set takes an app in. It costs as much as that app.
func (f *fleet) set(e entry, now time.Time) {
	id := e.app.ID
	f.beliefs.learn(e.app, now)
	r := route(e.app, f.world(now))
	f.board.replace(id, f.apps[id].offers, r.offers)
	e.offers = r.offers
	f.apps[id] = e
	delete(f.complaints, id)
	if len(r.problems) > 0 {
		f.complaints[id] = r.problems
	}
}

func (f *fleet) drop(id string) {
	f.board.replace(id, f.apps[id].offers, nil)
	delete(f.apps, id)
	delete(f.complaints, id)
}

// renewed gives the fleet that follows from a list of all apps, and the apps of which events have said something else. What was
// asked for later, or said by an event, counts more than the list. The fleet itself stays as it is.
func (f *fleet) renewed(list reading, now time.Time) (next *fleet, differing []string) {
	next = newFleet(f.source, f.groupSize)
	next.beliefs, next.versions, next.hosts, next.bad = f.beliefs, list.versions, list.hosts, list.problems
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
		if _, ended := next.ended[a.ID]; ended {
			differing = append(differing, a.ID)
			continue
		}
		e := entry{app: a, asked: list.asked, words: known.words.holding(list.asked)}
		var differs bool
		if e.app, differs = e.words.correct(a); differs {
			differing = append(differing, a.ID)
		}
		next.set(e, now)
	}
	for _, known := range f.apps {
		if known.asked.After(list.asked) {
			next.keep(f, known, now)
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
}

// visited takes in what was answered on some apps. It gives the apps of which events have said something else, and whether
// the whole list must tell what became of one that is gone though nothing said so.
func (f *fleet) visited(some reading, now time.Time) (differing []string, lost bool) {
	f.know(some)
	for _, a := range some.apps {
		known := f.apps[a.ID]
		if some.asked.Before(f.ended[a.ID]) {
			differing = append(differing, a.ID)
			continue
		}
		if known.asked.After(some.asked) {
			continue
		}
		e := entry{app: a, asked: some.asked, words: known.words.holding(some.asked)}
		var differs bool
		if e.app, differs = e.words.correct(a); differs {
			differing = append(differing, a.ID)
		}
		f.set(e, now)
	}
	for _, id := range some.missing {
		_, known := f.apps[id]
		lost = lost || known
	}
	return differing, lost
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
		corrected, _ := f.apps[a.ID].words.holding(some.asked).correct(a)
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

// problems gives all of them, sorted.
func (f *fleet) problems() []catalog.Problem {
	all := slices.Clone(f.bad)
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
