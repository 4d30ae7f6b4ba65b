package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

// always is how often a fault strikes that does not end by itself.
const always = fakemarathon.Times(-1)

// guarded gives a world with services of three tasks each, under load.
func guarded(t *testing.T, services int, flags ...string) (w world, ports []int, load *stage.Load) {
	w = newWorld(t)
	ports = w.services(services, 3)
	w.start(flags...)
	load = w.load(ports, 300)
	return w, ports, load
}

// held waits until so many servers are held.
func (w world) held(want int) {
	w.Helper()
	w.must(stage.Until(w.patient(), func() error {
		s, err := w.host.Status(w.Context())
		if err == nil && (len(s.Sources) != 1 || s.Sources[0].Held != want) {
			err = fmt.Errorf("sources %+v, want %d servers held", s.Sources, want)
		}
		return err
	}))
}

// serving waits until HAProxy serves so many servers in all.
func (w world) serving(want int) {
	w.Helper()
	w.must(stage.Until(w.patient(), func() error {
		running, err := w.host.Running()
		n := 0
		for _, servers := range running.Serving() {
			n += len(servers)
		}
		if err == nil && n != want {
			err = fmt.Errorf("%d servers are served, want %d", n, want)
		}
		return err
	}))
}

// unharmed lets a load go on for a while and ends it: nothing may have failed.
func (w world) unharmed(load *stage.Load) {
	w.Helper()
	w.must(load.WaitRequests(w.patient(), 300))
	w.flawless(load)
}

// forget makes Marathon list nothing from now on, and say that any app may have changed.
func (w world) forget() {
	w.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.EmptyLists = always })
	w.site.Marathon.Emit("group_change_success", map[string]any{"groupId": "/"})
}

func TestMarathonThatForgetsEverythingCostsNothing(t *testing.T) {
	t.Parallel()
	w, ports, load := guarded(t, 6, "--refresh-interval", "1", "--guard-hold", "1h")
	w.forget()
	w.held(18)
	status, text, err := w.host.Get(w.Context(), "/readyz")
	if err != nil || status != 200 {
		t.Errorf("readyz while servers are held: %d %s, %v", status, text, err)
	}
	if !strings.Contains(w.host.Log(), "reason=\"18 servers of ") {
		t.Error("the log does not tell of them")
	}
	gone := w.site.Tasks(ports[0])[0]
	w.site.RemoveTask(gone, time.Second) // with evidence
	w.held(17)
	w.settled()
	w.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.EmptyLists = 0 })
	w.held(0)
	w.settled()
	w.unharmed(load)

	w.forget()
	w.held(17)
	if out := w.command("ack"); out.Code != 0 || !strings.Contains(out.Stdout, "released: marathon: 17 servers") {
		t.Errorf("ack: %+v", out)
	}
	w.serving(0)
}

func TestWhatMarathonRepeatsIsBelievedInTheEnd(t *testing.T) {
	t.Parallel()
	w, _, load := guarded(t, 2, "--refresh-interval", "1", "--guard-hold", "4s")
	w.forget()
	w.held(6)
	w.unharmed(load)
	w.serving(0)
	w.held(0)
}

func TestARemovalOfEverythingWithEvidenceGoesThroughAtOnce(t *testing.T) {
	t.Parallel()
	w, ports, load := guarded(t, 4, "--guard-hold", "1h")
	w.unharmed(load)
	for _, port := range ports {
		w.site.RemoveService(port)
	}
	w.serving(0)
	w.held(0)
}

func TestStartWithoutAnySourceFromTheSavedState(t *testing.T) {
	t.Parallel()
	w, ports, load := guarded(t, 3, "--guard-hold", "1h")
	w.unharmed(load)
	w.must(w.host.Signal(os.Interrupt))
	_, err := w.host.Wait(w.patient())
	w.must(err)
	w.host.KillHAProxy()
	w.site.Replica.Close()

	w.must(w.host.Start("--marathon", w.site.URL))
	w.settled()
	w.must(w.host.Ready(w.patient()))
	load = w.load(ports, 300)
	status, text, err := w.host.Get(w.Context(), "/readyz")
	if err != nil || status != 200 || !strings.Contains(text, "source marathon was read ") {
		t.Errorf("readyz: %d %s, %v", status, text, err)
	}
	w.unharmed(load)

	// What cannot be used is set aside, and costs nothing but what was in it.
	w.must(w.host.Signal(os.Interrupt))
	_, err = w.host.Wait(w.patient())
	w.must(err)
	w.must(os.WriteFile(w.host.Path("state/services.json"), []byte(`{"format":0}`), 0o600))
	w.must(w.host.Start("--marathon", w.site.URL))
	w.must(stage.Until(w.patient(), func() error {
		if !strings.Contains(w.host.Log(), "format 0, where this version writes 1; it is now") {
			return fmt.Errorf("the log does not tell of it")
		}
		return nil
	}))
	w.settled() // HAProxy has gone on
}

func TestAServerThatComesAndGoesIsHeldOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	port := w.services(1, 3)[0]
	for port%2 != 0 { // of an app with health checks
		port = w.services(1, 3)[0]
	}
	w.start("--flap-limit", "2")
	load := w.load([]int{port}, 200)
	flaps := w.site.Tasks(port)[0]
	for i := range 4 {
		w.site.Marathon.SetHealth(flaps.ID, false)
		w.serving(w.all() - 1)
		w.site.Marathon.SetHealth(flaps.ID, true)
		if i < 2 {
			w.serving(w.all())
		}
	}
	w.must(stage.Until(w.patient(), func() error {
		s, err := w.host.Status(w.Context())
		problems := slices.DeleteFunc(s.Problems, func(p catalog.Problem) bool { return strings.HasPrefix(p.Subject, "HAProxy ") }) // its version's
		if err == nil && (len(problems) != 1 || !strings.Contains(problems[0].Reason, "it is held out until")) {
			err = fmt.Errorf("problems %+v", problems)
		}
		return err
	}))
	w.serving(w.all() - 1)
	w.unharmed(load)
	w.serving(w.all()) // let in again after 10 s
}

// all is how many servers the cluster wants.
func (w world) all() int {
	n := 0
	for _, servers := range w.site.Wanted() {
		n += len(servers)
	}
	return n
}
