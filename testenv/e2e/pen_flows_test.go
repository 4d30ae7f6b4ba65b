package e2e

import (
	"slices"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

// How soon clients that send each 50 ms must reach current backends.
const (
	// reach is how long after a change a client may go on sending datagrams none of which a current backend answers. It may take
	// longer when it loses a second datagram: the first to the change, the next to another client that is born at that moment, as
	// pen has it; or when this machine is so busy that the client itself sends late. On a quiet one that happens to one in
	// some thousand; one in a hundred may be late, none more than twice the time. When the answer comes is not asked: backends
	// share the processors with whatever else runs.
	reach = 100 * time.Millisecond
	// inTime is how soon the run must have applied a change for that. On a machine that is too busy for it nothing is shown.
	inTime = 40 * time.Millisecond
)

// change is a change of a UDP service's tasks.
type change struct {
	at      time.Time       // when it began
	removed []*stage.Task   // which fall silent soon after
	current map[string]bool // the tasks from then on
}

// changeUDP removes so many tasks of a UDP service and adds others.
func (w world) changeUDP(port, remove, add int) change {
	w.Helper()
	c := change{at: time.Now(), removed: w.site.UDPTasks(port)[:remove]}
	for _, t := range c.removed {
		w.site.RemoveTask(t, lateness)
	}
	for range add {
		w.addUDPTask(port)
	}
	c.current = names(w.site.UDPTasks(port))
	return c
}

func names(tasks []*stage.Task) map[string]bool {
	out := map[string]bool{}
	for _, t := range tasks {
		out[t.Name] = true
	}
	return out
}

// timely divides changes into those that the run applied in time, as it tells itself, which most must be, and the others.
func (w world) timely(changes []change) (timely, late []change) {
	w.Helper()
	applied, err := w.host.Changes(w.patient())
	w.must(err)
	at := map[string]time.Time{}
	for _, c := range applied.Changes {
		if c.Action == "remove server" {
			at[c.Server] = c.At
		}
	}
	for _, c := range changes {
		if slices.ContainsFunc(c.removed, func(t *stage.Task) bool { return at[t.Addr].Sub(c.at) > inTime }) {
			late = append(late, c)
		} else {
			timely = append(timely, c)
		}
	}
	w.Logf("%d of %d changes were applied in %s", len(timely), len(changes), inTime)
	if len(late) > len(timely) {
		w.Errorf("most changes were applied after more than %s", inTime)
	}
	return timely, late
}

// without leaves out the datagrams that were sent just after some changes.
func without(r stage.FlowsResult, changes []change) stage.FlowsResult {
	out := stage.FlowsResult{Misdelivered: r.Misdelivered}
	for _, flow := range r.Flows {
		out.Flows = append(out.Flows, slices.DeleteFunc(slices.Clone(flow), func(d stage.Datagram) bool {
			return slices.ContainsFunc(changes, func(c change) bool { return d.Sent.After(c.at) && d.Sent.Before(c.at.Add(2*reach)) })
		}))
	}
	return out
}

// reached checks how soon after each change each flow reached a current backend.
func (w world) reached(r stage.FlowsResult, changes []change) {
	w.Helper()
	late, all, worst := 0, 0, time.Duration(0)
	var slowest []time.Duration
	for _, c := range changes {
		reached := r.Reached(c.at, func(name string) bool { return c.current[name] })
		for i, f := range reached {
			all++
			worst = max(worst, f.Sent)
			if f.Sent <= reach {
				continue
			}
			if late++; late <= 10 {
				w.Logf("after the change at %s flow %d reached a current backend after %s, %d of its datagrams were lost", c.at.Format("15:04:05.000"), i, f.Sent, f.Lost)
			}
		}
		slowest = append(slowest, stage.Slowest(reached))
	}
	slices.Sort(slowest)
	w.Logf("the last flow had its answer from a current backend after %s (median of %d changes), at most %s; %d of %d were late",
		slowest[len(slowest)/2], len(slowest), slowest[len(slowest)-1], late, all)
	if late > all/100 || worst > 2*reach {
		w.Errorf("%d of %d flows reached a current backend after more than %s, the last after %s", late, all, reach, worst)
	}
}

func TestUDPFlowsFollowTheirBackends(t *testing.T) {
	fullSpeed(t)
	w := newPenWorld(t)
	port := w.udpServices(1, 3)[0]
	w.startPen()
	pens := w.host.Pens()
	flows := w.flows([]int{port}, 100, 2000)
	began := time.Now()
	var changes []change
	for range 20 {
		changes = append(changes, w.changeUDP(port, 1, 2))
		w.must(flows.Wait(w.patient(), 800))
		changes = append(changes, w.changeUDP(port, 2, 1))
		w.must(flows.Wait(w.patient(), 800))
	}
	w.penSettled()
	timely, late := w.timely(changes)
	r := flows.Stop()
	w.reached(r, timely)
	w.losses(without(r, late), began, 0.005)
	w.samePens(pens)
	w.quiet()
}

// A flow stays with its backend for ever, answered or not: pen never notices that one is silent.
func TestFlowsLeaveASilentBackendAtOnce(t *testing.T) {
	fullSpeed(t)
	w := newPenWorld(t)
	port := w.udpServices(1, 3)[0]
	w.startPen()
	flows := w.flows([]int{port}, 100, 2000)
	var changes []change
	for range 5 {
		silent := w.site.UDPTasks(port)[0]
		silent.Hang()
		w.must(flows.Wait(w.patient(), 400))
		changes = append(changes, w.changeUDP(port, 1, 1))
		w.must(flows.Wait(w.patient(), 800))
	}
	timely, late := w.timely(changes)
	r := flows.Stop()
	w.reached(r, timely)
	lost := 0
	for _, d := range without(r, late).Lost(changes[0].at) {
		after := func(c change) bool { return d.Sent.After(c.at.Add(reach)) && d.Sent.Before(c.at.Add(3*reach)) } // the next is silent 4 after it
		if slices.ContainsFunc(timely, after) {
			lost++
			t.Logf("lost after its change: %s", d)
		}
	}
	if all := len(r.Lost(changes[0].at)); all < 200 {
		t.Fatalf("only %d datagrams were lost to silent backends, so this test shows nothing", all)
	}
	if lost > 2 {
		t.Errorf("%d datagrams were lost when all flows should have moved", lost)
	}
}

// The kernel tells pen that a container is gone; its flows must not end up with another one that is gone.
func TestFlowsLeaveABackendThatDied(t *testing.T) {
	fullSpeed(t)
	w := newPenWorld(t)
	port := w.udpServices(1, 3)[0]
	w.startPen()
	flows := w.flows([]int{port}, 60, 1000)
	began := time.Now()
	dead := w.site.UDPTasks(port)[0]
	dead.Die()
	w.must(flows.Wait(w.patient(), 300))
	w.site.RemoveTask(dead, 0)
	w.penSettled()
	w.must(flows.Wait(w.patient(), 300))
	r := flows.Stop()
	// Each of its flows loses the datagram that finds it dead, and with it some find the way back to it.
	w.losses(r, began, 0.1)
	w.losses(r, began.Add(600*time.Millisecond), 0)
}
