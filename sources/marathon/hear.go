package marathon

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// look is what an event makes us ask Marathon.
type look uint8

const (
	nothing    look = iota
	confirm         // the event told all that matters; what Marathon says should agree in a moment
	atOnce          // the app that it names
	everything      // any app may have changed
)

// hear takes an event in, and tells what to ask about the apps that it names. An event that takes a task away counts at once, since
// taking one away wrongly is repaired by the answer that follows. One that brings a task counts at once where it tells all
// that matters: that it runs, where the app has no checks, and that it is alive, where there is one check.
func (f *fleet) hear(e event, now time.Time) look {
	switch {
	case !e.odd && e.Plan != nil && len(e.apps()) == 0:
		return nothing // a deployment of nothing, or of pods, which have no service ports
	case e.Type == "group_change_success":
		clear(f.ended) // one of them may have been made anew
		return everything
	case e.odd || len(e.apps()) == 0:
		return everything
	case e.Type == "status_update_event":
		return f.hearStatus(e, now)
	case e.Type == "health_status_changed_event" && e.Alive != nil:
		return f.hearHealth(e, *e.Alive, now)
	case e.Type == "instance_health_changed_event" && e.Healthy != nil:
		return f.hearHealth(e, *e.Healthy, now)
	case e.Type == "unhealthy_task_kill_event", e.Type == "unhealthy_instance_kill_event":
		f.heardOf(e)
		return f.hearGone(e, now)
	case e.Type == "app_terminated_event":
		return f.hearEnd(e.AppID, now)
	case e.Type == "add_health_check_event":
		// It comes for each app and version after a failover.
		if d, ok := f.world(now).definition(f.apps[e.AppID].app, task{Version: e.Version}); ok && d.checked() {
			return nothing
		}
	case e.Type == "api_post_event":
		delete(f.ended, e.AppDefinition.ID)
	}
	return atOnce
}

func (f *fleet) hearStatus(e event, now time.Time) look {
	switch e.Status {
	case "TASK_RUNNING":
		return f.hearRunning(e, now)
	case "":
		return atOnce
	default:
		f.heardOf(e)
		return f.hearGone(e, now)
	}
}

// hearGone takes a task away.
func (f *fleet) hearGone(e event, now time.Time) look {
	known, ok := f.apps[e.apps()[0]]
	switch {
	case e.instance() == "":
		return atOnce
	case !ok: // an answer that is under way may still bring it
		id := e.apps()[0]
		f.unlisted[id] = f.unlisted[id].with(e.instance(), word{task: e.TaskID, gone: true, until: now.Add(goneHolds)})
		return nothing
	}
	t, listed := known.find(e)
	switch {
	case !listed && len(known.words) >= maxWords: // a task that fails again and again before it is listed
		return confirm
	case e.Status == "TASK_KILLING" && listed && f.last(e.apps()[0], t, now):
		return atOnce
	}
	delete(f.beliefs, t.ID)
	known = f.apps[e.apps()[0]] // as it was settled, if it was
	f.say(known, e, word{gone: true, until: now.Add(goneHolds)})
	if !listed || !t.running() {
		return nothing
	}
	return confirm
}

// last reports whether a service would be without servers if a task were gone. One that is being killed serves on for a while,
// and Marathon may have told of its successor in a way that needs an answer, as when one of two checks succeeds: then both
// come and go with that answer.
func (f *fleet) last(id string, t task, now time.Time) bool {
	if known := f.apps[id]; len(known.words) < fewest(known.offers)-1 {
		return false // even if each word took a server away
	}
	f.settle(now)
	known := f.apps[id]
	rest := known.app
	rest.tasks = slices.DeleteFunc(slices.Clone(rest.tasks), func(o task) bool { return o.ID == t.ID })
	left := byKey(route(rest, f.world(now)).offers)
	for key, servers := range byKey(known.offers) {
		if servers > 0 && left[key] == 0 {
			return true
		}
	}
	return false
}

// fewest is how many servers the port has that has the fewest, of those that have any.
func fewest(offers []offer) int {
	n := math.MaxInt
	for _, servers := range byKey(offers) {
		if servers > 0 {
			n = min(n, servers)
		}
	}
	return n
}

func byKey(offers []offer) map[catalog.Key]int {
	servers := make(map[catalog.Key]int, len(offers))
	for _, o := range offers {
		servers[o.service.Key] += len(o.service.Servers)
	}
	return servers
}

// hearEnd takes an app away.
func (f *fleet) hearEnd(id string, now time.Time) look {
	_, known := f.apps[id]
	f.ended[id] = now.Add(goneHolds)
	f.absentNow(id, nil)
	if !known {
		return nothing
	}
	f.drop(id)
	return confirm
}

func (f *fleet) hearRunning(e event, now time.Time) look {
	known, ok := f.apps[e.AppID]
	if !ok || e.TaskID == "" {
		delete(f.ended, e.AppID) // it was made anew
		return atOnce
	}
	said := known.words.of(e.instance(), now)
	t, listed := known.find(e)
	switch {
	case listed && t.running() && t.Version == e.Version && slices.Equal(t.Ports, e.Ports):
		return nothing
	case said.gone: // the order of events is not guaranteed, so it is not believed without an answer
		f.unsay(known, e.instance(), said)
		return atOnce
	case !known.app.knows(e.Version) || known.app.waits() || !f.reaches(known.app, e):
		return atOnce
	}
	born := task{ID: e.TaskID, Host: e.Host, Ports: e.Ports, State: e.Status, Version: e.Version, Addresses: e.Addresses}
	f.say(known, e, word{born: &born, health: said.health, until: now.Add(aliveHolds)})
	return confirm
}

// reaches reports whether the address of a task that an event tells of is known.
func (f *fleet) reaches(a app, e event) bool {
	if _, err := netip.ParseAddr(e.Host); err != nil && f.hosts[e.Host].Reason != "" || err != nil && !f.hosts[e.Host].Addr.IsValid() {
		return false
	}
	return a.mode() != containerMode || len(e.Addresses) > 0
}

func (f *fleet) hearHealth(e event, alive bool, now time.Time) look {
	known, ok := f.apps[e.apps()[0]]
	if !ok || e.instance() == "" {
		return atOnce
	}
	if !alive {
		f.heardOf(e)
		return f.hearSick(known, e, now)
	}
	said := known.words.of(e.instance(), now)
	t, listed := known.find(e)
	if _, wasAlive := t.results(); listed && t.running() && wasAlive && !said.gone {
		return nothing
	}
	d, ok := f.world(now).definition(known.app, t)
	believed := f.beliefs.alive(t.ID, now)
	if said.gone || !listed || !t.running() || !ok || !believed && (known.app.waits() || len(d.checks()) != 1) {
		f.unsay(known, e.instance(), said)
		return atOnce
	}
	// After a failover these come for all tasks: that one is alive which was believed to be is no news.
	f.say(known, e, word{born: said.born, health: well, until: now.Add(aliveHolds)})
	return nothing
}

func (f *fleet) hearSick(known entry, e event, now time.Time) look {
	said := known.words.of(e.instance(), now)
	t, listed := known.find(e)
	results, wasAlive := t.results()
	if !listed && len(known.words) >= maxWords {
		return confirm
	}
	f.say(known, e, word{born: said.born, gone: said.gone, health: sick, until: now.Add(goneHolds)})
	if !listed || !t.running() || results && !wasAlive {
		return nothing
	}
	return confirm
}

// unsay lifts what was said against a task: a newer event speaks for it, though not so that it is believed without an answer.
func (f *fleet) unsay(known entry, instance string, said word) {
	known = f.own(known)
	delete(known.words, instance)
	if said.born != nil && !said.gone {
		known.words = known.words.with(instance, word{task: said.task, born: said.born, until: said.until})
	}
	f.apps[known.app.ID] = known
}

// say keeps what an event said of a task. It counts from the next settle on: a storm of events about one app costs no more than
// that app.
func (f *fleet) say(known entry, e event, said word) {
	said.task = e.TaskID
	known = f.own(known)
	known.words = known.words.with(e.instance(), said)
	known.app.tasks = said.among(known.app, e)
	f.apps[known.app.ID] = known
}

// own gives an entry whose tasks may be written to, until it is settled.
func (f *fleet) own(known entry) entry {
	if f.told[known.app.ID] {
		return known
	}
	f.told[known.app.ID] = true
	known.app.tasks = slices.Clone(known.app.tasks)
	return known
}

// settle lets count what events have said.
func (f *fleet) settle(now time.Time) {
	for id := range f.told {
		f.set(f.apps[id], now)
	}
}

// among gives the app's tasks with the word applied to the one that it is about. They are written to.
func (said word) among(a app, e event) []task {
	i := indexOf(a.tasks, e)
	if i < 0 {
		if said.born != nil && !said.gone && a.knows(said.born.Version) {
			born, _ := said.correct(*said.born)
			return append(a.tasks, born)
		}
		return a.tasks
	}
	if said.gone && a.tasks[i].running() {
		return slices.Delete(a.tasks, i, i+1)
	}
	a.tasks[i], _ = said.correct(a.tasks[i])
	return a.tasks
}

// find gives the task that an event is about.
func (e entry) find(ev event) (task, bool) {
	i := indexOf(e.app.tasks, ev)
	if i < 0 {
		return task{}, false
	}
	return e.app.tasks[i], true
}

func indexOf(tasks []task, e event) int {
	return slices.IndexFunc(tasks, func(t task) bool {
		return t.ID == e.TaskID || e.TaskID == "" && instanceOf(t.ID) == e.InstanceID
	})
}
