package e2e

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

// Removed backends hang soon after their removal was announced: a driver that goes on sending to one, or that reloads without
// care, fails requests here.
func TestTasksComeAndGoUnderLoad(t *testing.T) {
	fullSpeed(t)
	w := newWorld(t)
	ports := w.services(20, 3)
	w.start()
	loads, worker := w.loads(), w.worker()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	load := w.load(ports, 600)
	for range 200 {
		w.changeTask(random, ports[random.IntN(len(ports))])
		w.must(load.WaitRequests(w.patient(), 25))
	}
	w.nearlyFlawless(load)
	w.settled()
	w.validFile()
	w.sameWorker(worker)
	w.reloaded(loads, 0, "200 changes of tasks")
}

// fullSpeed skips a test that measures, where that would show nothing.
func fullSpeed(t *testing.T) {
	t.Helper()
	if slowed {
		unavailable(t, "under the race detector clients and backends starve the host, so nothing would be shown: run it without")
	}
}

// lateRemoval was applied only when its backend hung already.
type lateRemoval struct {
	stage.Removal
	applied time.Time
}

// nearlyFlawless is faultless where most removals were applied in time.
func (w world) nearlyFlawless(l *stage.Load) {
	w.Helper()
	if removals, lates := w.faultless(l); 2*lates > removals {
		w.Errorf("most removals were applied after more than %s", w.lateness())
	}
}

// faultless ends a load of which no request may have failed, unless this machine was so busy that a removal could not be applied
// before its backend hung: that excuses requests to its service which began in between, or so shortly before that the backend had not
// come to them when it hung. It counts the removals, and those.
func (w world) faultless(l *stage.Load) (removals, late int) {
	w.Helper()
	w.must(stage.Until(w.patient(), w.servesWanted))
	r := l.Stop()
	lateness := w.lateness()
	removals, lates := w.removals(lateness)
	w.Logf("%d requests in %s, %.0f/s, %d failed; %d of %d removals were applied after more than %s",
		r.Requests, r.Elapsed.Round(time.Millisecond), r.Rate(), len(r.Failed), len(lates), removals, lateness)
	for _, f := range r.Failed {
		if !slices.ContainsFunc(lates, func(r lateRemoval) bool {
			return r.Port == f.Port && f.Began.Before(r.applied) && f.Began.After(r.Announced.Add(-lateness))
		}) {
			w.Errorf("a request failed: %s", f)
		}
	}
	return removals, len(lates)
}

// servesWanted gives an error unless the proxy of TCP services has the wanted servers.
func (w world) servesWanted() error {
	if w.host.NoHAProxy {
		return w.pensAreWanted()
	}
	return w.runsWanted()
}

// removals counts the tasks that were removed, and gives those that the run applied late, as it tells itself.
func (w world) removals(lateness time.Duration) (int, []lateRemoval) {
	w.Helper()
	changes, err := w.host.Changes(w.patient())
	w.must(err)
	applied := map[string]time.Time{}
	for _, c := range changes.Changes {
		if c.Action == "remove server" {
			applied[strings.TrimSuffix(c.Server, ":c")] = c.At
		}
	}
	removals := w.site.Removals()
	var lates []lateRemoval
	for _, r := range removals {
		at, ok := applied[r.Addr]
		if !ok && r.Announced.Sub(r.Added) < lateness {
			continue // it may never have been a server
		}
		if !ok {
			w.Errorf("no change tells that %s was removed", r.Addr)
		}
		if at.Sub(r.Announced) > lateness {
			lates = append(lates, lateRemoval{r, at})
		}
	}
	return len(removals), lates
}

// changeTask adds a task to a service, or removes one of several.
func (w world) changeTask(random *rand.Rand, port int) {
	w.Helper()
	tasks := w.site.Tasks(port)
	if len(tasks) > 1 && (len(tasks) > 5 || random.IntN(2) == 0) {
		w.site.RemoveTask(tasks[random.IntN(len(tasks))], w.lateness())
		return
	}
	_, err := w.site.AddTask(port)
	w.must(err)
}

func TestServicesComeAndGoInBurstsUnderLoad(t *testing.T) {
	w := newWorld(t)
	others := w.services(20, 2)
	w.start()
	loads := w.loads()
	load := w.load(others, 500)
	ports := w.services(20, 1)
	w.served(ports...)
	w.settled()
	w.quiet() // the pass that reloaded has ended
	w.reloaded(loads, 2, "20 new services")
	loads, worker := w.loads(), w.worker()
	for _, port := range ports {
		w.site.RemoveService(port)
	}
	w.refused(ports...)
	w.settled()
	w.must(load.WaitRequests(w.patient(), 250))
	w.flawless(load)
	w.sameWorker(worker)
	w.reloaded(loads, 0, "20 removed services")
	w.validFile()
}

func TestRemovedServiceComesBack(t *testing.T) {
	w := newWorld(t)
	others := w.services(3, 2)
	port := w.services(1, 2)[0]
	w.start()
	loads, worker := w.loads(), w.worker()
	load := w.load(others, 300)

	w.site.RemoveService(port)
	w.refused(port)
	w.must(w.site.AddService(port, 1))
	w.served(port)
	w.settled()
	w.reloaded(loads, 0, "back as it was")
	w.sameWorker(worker)
	w.quiet()
	loads = w.loads()

	w.site.RemoveService(port)
	w.refused(port)
	app := stage.App(port)
	app.Labels = map[string]string{"com.meltwater.proxymatic.port.0.timeout.server": "42"}
	w.site.Marathon.PutApp(app)
	_, err := w.site.AddTask(port)
	w.must(err)
	w.served(port)
	w.quiet() // the service is served as it was until a reload is due
	w.settled()
	w.flawless(load)
	if n := w.loads() - loads; n != 1 {
		t.Errorf("back with another timeout: %d reloads, want 1", n)
	}
	w.validFile()
}

// The last task of a service is gone for a moment in many deployments.
func TestServiceWithoutTasksRefuses(t *testing.T) {
	w := newWorld(t)
	others := w.services(2, 2)
	port := w.services(1, 1)[0]
	w.start()
	loads, worker := w.loads(), w.worker()
	load := w.load(others, 300)
	w.site.RemoveTask(w.site.Tasks(port)[0], w.lateness())
	w.refused(port)
	_, err := w.site.AddTask(port)
	w.must(err)
	w.served(port)
	w.settled()
	w.flawless(load)
	w.reloaded(loads, 0, "the last task goes, another comes")
	w.sameWorker(worker)
}
