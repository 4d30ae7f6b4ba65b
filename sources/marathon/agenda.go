package marathon

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// maxVisits is how many apps are asked for one by one. For more the whole list is cheaper.
const maxVisits = 5

// Events that concern everything have it read at once, and then with pauses that grow while they go on: the whole list is
// megabytes, and after a failover there is an event for each task.
const (
	firstGap   = time.Second
	longestGap = 8 * time.Second
)

// agenda is what to ask Marathon, and when.
type agenda struct {
	settle time.Duration // how long Marathon may take to show what an event announced
	visits map[string]visit
	list   time.Time // when everything is to be read
	why    reason    // of that

	took  time.Duration // the last list
	gap   time.Duration // since the last list that events had read
	asked time.Time     // when that was

	burst  int       // events that came one upon the other
	latest time.Time // when the last of them came
	calm   time.Time // when the list is to be read since they were too many; zero when they were not
}

// Up to 1.7 Marathon drops events silently while more than 50 wait for a reader. So after as many at a time the list is read, once
// they are over.
const (
	maxBurst = 50
	together = 100 * time.Millisecond
)

// came counts events.
func (g *agenda) came(n int, now time.Time) {
	if now.Sub(g.latest) > together {
		g.burst = 0
	}
	g.burst, g.latest = g.burst+n, now
	if g.burst > maxBurst {
		g.calm = now.Add(firstGap)
	}
}

// next is when the list is to be read.
func (g *agenda) next() time.Time {
	if !g.calm.IsZero() && g.calm.Before(g.list) {
		return g.calm
	}
	return g.list
}

// visit is an app that is to be asked for.
type visit struct {
	at        time.Time
	announced bool          // by an event that the answer should show; if it does not, the app is asked for once more
	pause     time.Duration // before the next visit, while answers and events differ
}

// reason is why everything is read.
type reason uint8

const (
	polled reason = iota
	announced
	settled // an event had announced what the list before did not show
	hinted  // by a callback, of which nothing is believed
)

func newAgenda(settle time.Duration, first time.Time) agenda {
	return agenda{settle: settle, visits: map[string]visit{}, list: first}
}

// visit has an app asked for, at the latest at that time.
func (g *agenda) visit(id string, v visit) {
	if old, ok := g.visits[id]; ok {
		v.announced = v.announced || old.announced
		if old.at.Before(v.at) {
			v.at = old.at
		}
	}
	g.visits[id] = v
}

// everything has the list read because of an event.
func (g *agenda) everything(now time.Time) {
	g.soon(max(0, g.asked.Add(g.gap).Sub(now)), now, announced)
}

// hint has the list read because of callbacks: at most once a second and for a tenth of the time, since whoever reaches our port
// can send some.
func (g *agenda) hint(now time.Time) {
	gap := min(max(firstGap, 10*g.took), longestGap)
	g.soon(max(0, g.asked.Add(gap).Sub(now)), now, hinted)
}

// soon has the list read after a pause, if it is not sooner.
func (g *agenda) soon(pause time.Duration, now time.Time, why reason) {
	if at := now.Add(pause); at.Before(g.list) {
		g.list, g.why = at, why
	}
}

// due gives the apps that are to be asked for now, beside those that are away, and takes them off. When they are too many, the
// list is to tell; while that must wait for its turn they are asked for a few at a time.
func (g *agenda) due(now time.Time, away map[string]bool) map[string]visit {
	visits := maps.Clone(g.visits)
	maps.DeleteFunc(visits, func(id string, v visit) bool { return v.at.After(now) || away[id] })
	if len(visits) > maxVisits {
		g.everything(now)
		if !g.next().After(now) {
			return nil
		}
	}
	visits = oldest(visits, maxVisits-len(away))
	for id := range visits {
		delete(g.visits, id)
	}
	return visits
}

// begin notes that the list is asked for, so that the many apps need not be that it tells of. The next is due after the interval.
func (g *agenda) begin(now time.Time, interval time.Duration) reason {
	if g.why == hinted {
		g.asked = now
	}
	if g.why == announced {
		g.gap = min(max(firstGap, 2*g.gap), longestGap)
		if now.Sub(g.asked) > 2*longestGap {
			g.gap = firstGap
		}
		g.asked = now
	}
	due := func(_ string, v visit) bool { return !v.at.After(now) }
	many := maps.Clone(g.visits)
	maps.DeleteFunc(many, func(id string, v visit) bool { return !due(id, v) })
	if len(many) > maxVisits { // few are made all the same: the list may be older than what was announced
		maps.DeleteFunc(g.visits, due)
	}
	why := g.why
	g.list, g.why = now.Add(interval), polled
	g.burst, g.calm = 0, time.Time{}
	return why
}

// oldest gives at most n of the visits, those that are due for longest.
func oldest(visits map[string]visit, n int) map[string]visit {
	if len(visits) <= n {
		return visits
	}
	ids := slices.SortedFunc(maps.Keys(visits), func(a, b string) int {
		return cmp.Or(visits[a].at.Compare(visits[b].at), cmp.Compare(a, b))
	})
	out := make(map[string]visit, n)
	for _, id := range ids[:max(n, 0)] {
		out[id] = visits[id]
	}
	return out
}

// nextVisit is when an app is to be asked for that is not away; zero when none is, or none may be now.
func (g *agenda) nextVisit(now time.Time, away map[string]bool) (next time.Time) {
	due := 0
	for id, v := range g.visits {
		if away[id] {
			continue
		}
		if !v.at.After(now) {
			due++
		}
		if next.IsZero() || v.at.Before(next) {
			next = v.at
		}
	}
	if len(away) >= maxVisits || due > maxVisits && !g.next().After(now) {
		return time.Time{}
	}
	return next
}

// longestRetry is the pause after which an app that cannot be had is left to the next list.
const longestRetry = 8 * time.Second

// failed has an app asked for again that could not be had, with doubling pauses, and at last no more.
func (g *agenda) failed(id string, asked visit, now time.Time) {
	if pause := max(g.settle, 2*asked.pause); pause <= longestRetry {
		g.visit(id, visit{at: now.Add(pause), pause: pause, announced: asked.announced})
	}
}

// differ has those apps asked for again of which events have said something else than the answer, with doubling pauses.
func (g *agenda) differ(ids []string, pause time.Duration, now time.Time) {
	pause = max(g.settle, 2*pause)
	for _, id := range ids {
		g.visit(id, visit{at: now.Add(pause), pause: pause})
	}
}

// unchanged has an app asked for once more whose answer did not show what an event had announced.
func (g *agenda) unchanged(id string, asked visit, now time.Time) {
	if asked.announced {
		g.visit(id, visit{at: now.Add(g.settle)})
	}
}
