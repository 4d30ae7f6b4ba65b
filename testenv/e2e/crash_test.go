package e2e

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

func TestDriverDiesUnderLoad(t *testing.T) {
	w := newWorld(t)
	ports := w.services(10, 3)
	removed := w.services(1, 1)[0]
	w.start()
	worker := w.worker()
	load := w.load(ports, 500)
	w.site.RemoveService(removed)
	w.refused(removed)
	w.host.Kill()
	w.must(load.WaitRequests(w.patient(), 100))
	_, err := w.site.AddTask(ports[0])
	w.must(err)
	w.start()
	w.must(load.WaitRequests(w.patient(), 100))
	w.flawless(load)
	w.reloaded(0, 0, "start beside a running HAProxy")
	w.sameWorker(worker)
	w.quiet()
	if err := w.mustRefuse(removed); err != nil {
		t.Error(err)
	}
}

// The file is up to 250 ms behind: an HAProxy that died just after a change must not come back without it.
func TestHAProxyDiesUnderLoad(t *testing.T) {
	for name, victims := range map[string]string{"master and worker": "all", "worker": "worker", "master": "master"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ports := w.services(10, 3)
			removed := w.services(1, 1)[0]
			w.start()
			load := w.load(ports, 500)
			w.must(load.WaitRequests(w.patient(), 100))
			w.site.RemoveService(removed)
			w.refused(removed)
			for _, port := range ports {
				w.site.RemoveTask(w.site.Tasks(port)[0], lateness)
			}
			w.must(stage.Until(w.patient(), w.runsWanted))
			killed := w.kill(victims)
			w.must(stage.Until(w.patient(), w.runsWanted))
			w.served(ports...)
			back := time.Now()
			w.must(load.WaitRequests(w.patient(), 100))
			r := load.Stop()
			t.Logf("back after %s; %d of %d requests failed meanwhile", back.Sub(killed), len(r.Failed), r.Requests)
			if took := back.Sub(killed); took > 2*time.Second {
				t.Errorf("HAProxy was back after %s, want 2 s", took)
			}
			for _, f := range r.Failed {
				if !(excuse{killed, back}).covers(f) {
					t.Errorf("a request failed that HAProxy's death does not excuse: %s", f)
				}
			}
			w.settled()
			w.quiet()
			w.validFile()
			if err := w.mustRefuse(removed); err != nil {
				t.Error(err)
			}
		})
	}
}

// runsWanted gives an error unless the running HAProxy, not its file, has the wanted servers. Removed ones may still wait in
// maintenance for their connections to end.
func (w world) runsWanted() error {
	if _, err := w.host.Worker(); err != nil {
		return err
	}
	running, err := w.host.Running()
	if err != nil {
		return err
	}
	if d := w.site.Wanted().Diff(running.Serving()); d != "" {
		return fmt.Errorf("running is not wanted:\n%s", d)
	}
	return nil
}

// kill ends processes of HAProxy as kill -9 does and tells when.
func (w world) kill(victims string) time.Time {
	w.Helper()
	worker := w.worker()
	when := time.Now()
	killed := 0
	for _, pid := range w.host.HAProxy() {
		isWorker := pid == worker
		if victims == "all" || isWorker == (victims == "worker") {
			if err := syscall.Kill(pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) { // with the master the worker ends
				w.must(err)
			}
			killed++
		}
	}
	if killed == 0 {
		w.Fatalf("no process of HAProxy is a %s", victims)
	}
	return when
}

// Removed ports must stay closed when the process that remembered their pause is gone.
func TestRemovedServicesStayClosedOverRestarts(t *testing.T) {
	w := newWorld(t)
	others := w.services(3, 2)
	removed := w.services(5, 1)
	w.start()
	for _, port := range removed {
		w.site.RemoveService(port)
	}
	w.refused(removed...)
	w.settled()
	worker := w.worker()

	w.host.Kill()
	w.start()
	w.reloaded(0, 0, "start after a removal")
	w.sameWorker(worker)
	w.quiet()
	for _, port := range removed {
		if err := w.mustRefuse(port); err != nil {
			t.Error(err)
		}
	}

	w.kill("all")
	w.must(stage.Until(w.patient(), w.runsWanted))
	for _, port := range removed {
		if err := w.mustRefuse(port); err != nil {
			t.Error(err)
		}
	}
	w.served(others...)
	loads := w.loads()
	w.must(w.site.AddService(removed[0], 1))
	w.served(removed[0])
	w.quiet()
	w.reloaded(loads, 1, "back in a process that never had it")
	w.settled()
}
