package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

// fault is something that Marathon, or the network before it, does to its clients. Under it a task of two services ends and
// another one begins.
type fault struct {
	gen     fakemarathon.Generation // GenD where it is empty
	refresh string                  // the refresh interval; an hour where it is empty, so that only events tell
	second  second                  // another replica, on another address, that leads
	begin   func(*trial)
	// deaf says that no event arrives, so that nobody can know of an end before the fault is over or everything is read again.
	deaf bool
	// struck waits until the fault has been met; nil where that needs no wait.
	struck func(*trial)
	end    func(*trial) // nil: it lasts, and what changes arrives all the same
	// flaps says that a new task, which events announce and answers do not know, may come and go.
	flaps bool
}

// second says whether a Marathon has a second replica.
type second int

const (
	none    second = iota
	known          // and proxymatic is told of it
	unknown        // and proxymatic is told of the other one only
)

// Whatever Marathon answers: living tasks lose no request, one that ended gets none once its end could be known, and the last
// change arrives.
func TestMarathonFaults(t *testing.T) {
	tests := map[string]fault{
		"503":                          unreadable(func(f *fakemarathon.Faults, n fakemarathon.Times) { f.Unavailable = n }),
		"200 with an empty body":       unreadable(func(f *fakemarathon.Faults, n fakemarathon.Times) { f.EmptyBody = n }),
		"truncated JSON":               unreadable(func(f *fakemarathon.Faults, n fakemarathon.Times) { f.Truncated = n }),
		"a page instead of JSON":       unreadable(func(f *fakemarathon.Faults, n fakemarathon.Times) { f.WrongType = n }),
		"gzip answers that break off":  unreadable(func(f *fakemarathon.Faults, n fakemarathon.Times) { f.CutOff = n }),
		"plain answers that break off": unreadable(func(f *fakemarathon.Faults, n fakemarathon.Times) { f.CutOff, f.NoGzip = n, true }),

		"no gzip":                  {begin: faulty(func(f *fakemarathon.Faults) { f.NoGzip = true }), struck: (*trial).read},
		"JSON called text/plain":   {begin: faulty(func(f *fakemarathon.Faults) { f.PlainType = -1 }), struck: (*trial).read},
		"slow answers":             {begin: faulty(func(f *fakemarathon.Faults) { f.Delay = 2 * time.Second }), struck: (*trial).read},
		"one empty list":           {begin: (*trial).emptyListOnce, struck: (*trial).listed},
		"an empty standby":         {second: known, begin: (*trial).emptyStandby},
		"a standby saying nothing": {second: known, begin: (*trial).wordlessStandby},
		"redirects":                {second: unknown, begin: (*trial).redirected, struck: (*trial).read, end: (*trial).leaderDies},
		"a slow list":              slowList(func(*trial) {}),
		"stale answers":            {refresh: "1", begin: faulty(func(f *fakemarathon.Faults) { f.Stale = true }), struck: (*trial).listedTwice, end: healthy, flaps: true},

		"cut streams":              {begin: (*trial).cut, deaf: true, struck: (*trial).subscribed, end: healthy},
		"a page instead of events": {refresh: "1", begin: (*trial).noStream, deaf: true, struck: (*trial).subscribed},
		"lost events":              {refresh: "1", begin: faulty(func(f *fakemarathon.Faults) { f.DropEvents = -1 }), deaf: true},
		"broken events":            {begin: (*trial).nonsense},
		"2 MB events, B":           {gen: fakemarathon.GenB, begin: (*trial).large},
		"2 MB events, A":           {gen: fakemarathon.GenA, begin: (*trial).large},
	}
	for name, f := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := f.meet(t)
			r.recover()
			r.judge(patience)
		})
	}
}

// Half a minute without Marathon, event streams that fall silent for ever without being closed, which is noticed after as
// long, and a list that takes longer still while tasks of many apps end.
func TestMarathonIsAwayForLong(t *testing.T) {
	t.Parallel()
	faults := []fault{
		{begin: (*trial).away, deaf: true},
		{begin: (*trial).frozen, deaf: true},
		slowList((*trial).changeMany),
	}
	var trials []*trial
	for _, f := range faults {
		trials = append(trials, f.meet(t))
	}
	for i, what := range []string{"503 for half a minute", "silent streams", "a slow list"} {
		t.Log(what)
		trials[i].recover()
		trials[i].judge(3 * patience)
	}
}

// trial is a fault that a host has met, between the changes under it and their judgement.
type trial struct {
	world
	fault
	ports         []int
	other         *fakemarathon.Replica // nil unless there is one
	load          *stage.Load
	before        fakemarathon.Asked // when the fault began
	victims       []*stage.Task      // that ended under the fault
	loads, worker int
}

// meet starts a host, lets the fault begin and changes the services under it. Where events arrive the ended tasks are left, and
// hang from then on, so that each request that one of them gets later fails.
func (f fault) meet(t *testing.T) *trial {
	t.Helper()
	if f.gen == "" {
		f.gen = fakemarathon.GenD
	}
	if f.refresh == "" {
		f.refresh = "1h"
	}
	r := &trial{world: newWorldOf(t, f.gen), fault: f}
	replicas := r.site.URL
	if f.second != none {
		var err error
		r.other, err = r.site.Marathon.Replica("127.77.0.2:0")
		r.must(err)
		r.site.Marathon.FailOver(1)
	}
	if f.second == known {
		replicas += "," + r.other.URL()
	}
	r.ports = r.services(10, 3)
	r.startOn(replicas, "--refresh-interval", f.refresh)
	r.must(r.site.Marathon.WaitStream(r.patient()))
	r.loads, r.worker, r.before = r.world.loads(), r.world.worker(), r.site.Marathon.Asked()
	r.load = stage.StartLoad(r.ports, 200, func(port int, name string, began, ended time.Time) string {
		return r.site.Judge(port, name, began, ended, time.Hour) // what ended may answer until it hangs
	})
	f.begin(r)
	r.change(r.ports[0])
	r.change(r.ports[1])
	if !f.deaf {
		r.must(stage.Until(r.patient(), func() error { return r.without(r.victims...) }))
		r.hang()
	}
	return r
}

// change ends the oldest task of a service, which goes on answering, and adds another one.
func (r *trial) change(port int) {
	r.Helper()
	victim := r.site.Tasks(port)[0]
	r.site.RemoveTask(victim, time.Hour)
	r.victims = append(r.victims, victim)
	_, err := r.site.AddTask(port)
	r.must(err)
}

// recover ends the fault.
func (r *trial) recover() {
	r.Helper()
	if r.struck != nil {
		r.struck(r)
	}
	if r.fault.end != nil {
		r.fault.end(r)
	}
}

// hang lets the ended tasks hang, once requests that may be on their way to them have been answered.
func (r *trial) hang() {
	r.Helper()
	r.must(r.load.WaitRequests(r.patient(), 50))
	for _, v := range r.victims {
		v.Hang()
	}
}

// judge checks that everything arrives, and that it cost nothing.
func (r *trial) judge(limit time.Duration) {
	r.Helper()
	r.settledWithin(limit, r.site.Wanted)
	r.hang()
	r.must(r.load.WaitRequests(r.patient(), 100))
	r.flawless(r.load)
	r.rightChanges()
	r.reloaded(r.loads, 0, "the fault")
	r.sameWorker(r.worker)
}

// rightChanges checks that no server of a living task was ever taken away, and that none of an ended one came back.
func (r *trial) rightChanges() {
	r.Helper()
	changes, err := r.host.Changes(r.patient())
	r.must(err)
	for _, c := range changes.Changes {
		ended := slices.ContainsFunc(r.victims, func(v *stage.Task) bool { return v.Addr == strings.TrimSuffix(c.Server, ":c") })
		switch {
		case c.Action == "add server" && ended:
			r.Errorf("an ended task came back: %+v", c)
		case c.Action == "remove server" && !ended && !(r.flaps && r.isNew(c.Server)):
			r.Errorf("a living task was taken away: %+v", c)
		}
	}
}

// isNew tells whether a server is of a task that began under the fault.
func (r *trial) isNew(server string) bool {
	for _, port := range r.ports[:2] {
		tasks := r.site.Tasks(port)
		if tasks[len(tasks)-1].Addr == strings.TrimSuffix(server, ":c") {
			return true
		}
	}
	return false
}

// faulty begins a fault of all replicas.
func faulty(change func(*fakemarathon.Faults)) func(*trial) {
	return func(r *trial) { r.site.Marathon.SetFaults(change) }
}

// healthy ends all faults.
func healthy(r *trial) {
	r.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { *f = fakemarathon.Faults{} })
}

// unreadable is a fault of all answers but of the event stream that is open.
func unreadable(set func(*fakemarathon.Faults, fakemarathon.Times)) fault {
	return fault{begin: faulty(func(f *fakemarathon.Faults) { set(f, -1) }), struck: (*trial).read, end: healthy}
}

// asked waits until a count of requests has grown since the fault began.
func (r *trial) asked(by int, count func(fakemarathon.Asked) int) {
	r.Helper()
	r.must(stage.Until(r.patient(), func() error {
		if since := r.site.Marathon.Asked().Since(r.before); count(since) < by {
			return fmt.Errorf("Marathon was only asked for %+v", since)
		}
		return nil
	}))
}

// read waits until something was asked for but the stream, whether or not it was given.
func (r *trial) read() {
	r.asked(1, func(a fakemarathon.Asked) int { return a.Lists + a.Apps + a.Refused })
}

func (r *trial) listed() { r.asked(2, lists) }

func (r *trial) listedTwice() { r.asked(3, lists) }

func lists(a fakemarathon.Asked) int { return a.Lists }

func (r *trial) subscribed() {
	r.asked(1, func(a fakemarathon.Asked) int { return a.Streams })
}

// lookAtAll makes the whole list be asked for.
func (r *trial) lookAtAll() {
	r.site.Marathon.Emit("group_change_success", map[string]any{"groupId": "/"})
}

// emptyListOnce is what a leader that has just begun may say.
func (r *trial) emptyListOnce() {
	r.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.EmptyLists = 1 })
	r.lookAtAll()
}

// emptyStandby makes the first replica answer from its own state, as one does that knows no leader.
func (r *trial) emptyStandby() {
	r.site.Replica.SetFaults(func(f *fakemarathon.Faults) { f.Standby = fakemarathon.StandbyOwnAnswer })
	r.lookAtAll()
}

// wordlessStandby makes the first replica say 200 and nothing, as one does whose leader is dead.
func (r *trial) wordlessStandby() {
	r.site.Replica.SetFaults(func(f *fakemarathon.Faults) { f.Standby = fakemarathon.StandbyEmptyAnswer })
	r.newStream()
}

// redirected makes the only known replica send everybody to the leader, on another host.
func (r *trial) redirected() {
	r.site.Replica.SetFaults(func(f *fakemarathon.Faults) { f.Standby = fakemarathon.StandbyRedirects })
	r.newStream()
}

func (r *trial) newStream() {
	r.site.Marathon.CloseStreams()
	r.must(r.site.Marathon.WaitStream(r.patient()))
}

// leaderDies makes the replica lead that did not, and ends the other one. A task that begins then is seen at the new leader.
func (r *trial) leaderDies() {
	r.other.Close()
	r.site.Marathon.FailOver(0)
	r.change(r.ports[2])
}

// slowList is a list of all apps that was read before changes and arrives after everything else, but for the next one.
func slowList(more func(*trial)) fault {
	arrive, next := make(chan struct{}), make(chan struct{})
	hold := func(r *trial, until <-chan struct{}) {
		r.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.HoldLists = until })
	}
	return fault{
		begin: func(r *trial) {
			hold(r, arrive)
			r.lookAtAll()
			r.asked(1, lists)
			more(r)
		},
		end: func(r *trial) {
			hold(r, next)
			close(arrive)
			r.must(r.load.WaitRequests(r.patient(), 200))
			hold(r, nil)
			close(next)
		},
	}
}

// changeMany changes so many apps that each alone is not worth a question.
func (r *trial) changeMany() {
	for _, port := range r.ports[2:] {
		r.change(port)
	}
}

// cut closes the stream, and each new one at once, as a leader that is not ready does.
func (r *trial) cut() {
	r.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.StreamEOF = -1 })
	r.site.Marathon.CloseStreams()
}

func (r *trial) noStream() {
	r.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.StreamPage = -1 })
	r.site.Marathon.CloseStreams()
}

// away refuses everything for half a minute.
func (r *trial) away() {
	r.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.UnavailableUntil = time.Now().Add(30 * time.Second) })
	r.site.Marathon.CloseStreams()
}

// frozen makes the streams silent.
func (r *trial) frozen() { r.site.Marathon.FreezeStreams() }

// nonsense comes before what matters.
func (r *trial) nonsense() {
	for _, frame := range []string{
		"event: status_update_event\r\ndata: {\"eventType\":\"status_update_event\",\"appId\":\r\n\r\n",
		"event: status_update_event\r\ndata: null\r\n\r\ndata\r\n\r\n:\r\n\r\n",
		"event: health_status_changed_event\r\ndata: {\"eventType\":7,\"taskId\":{},\"alive\":\"no\"}{}[1,2]\r\n\r\n",
		strings.Repeat("data: \xff\x00\r", 1000) + "\r\r\n\n",
	} {
		r.site.Marathon.WriteStreams(frame)
	}
}

// large begins deployments whose events hold the tree of all apps twice.
func (r *trial) large() {
	r.site.Marathon.SetPlanSize(2 << 20)
	for range 5 {
		r.site.Marathon.PutApp(fakemarathon.App{ID: "/elsewhere"})
	}
}
