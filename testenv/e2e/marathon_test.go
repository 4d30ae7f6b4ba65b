package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

// A Marathon that cannot be read, or tells nonsense, costs nobody a request; what it could not tell arrives later.
func TestMarathonFails(t *testing.T) {
	w := newWorld(t)
	ports := w.services(6, 3)
	w.start("--refresh-interval", "1")
	loads, worker := w.loads(), w.worker()
	load := w.load(ports, 300)
	for name, fault := range map[string]func(*fakemarathon.Faults, fakemarathon.Times){
		"503":            func(f *fakemarathon.Faults, n fakemarathon.Times) { f.Unavailable = n },
		"empty body":     func(f *fakemarathon.Faults, n fakemarathon.Times) { f.EmptyBody = n },
		"truncated body": func(f *fakemarathon.Faults, n fakemarathon.Times) { f.Truncated = n },
		"HTML":           func(f *fakemarathon.Faults, n fakemarathon.Times) { f.WrongType = n },
	} {
		w.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { fault(f, -1) })
		before := w.site.Wanted()
		_, err := w.site.AddTask(ports[0])
		w.must(err)
		w.must(stage.Until(w.patient(), func() error { return w.sourceFails(name) }))
		w.mustRun(before, name)
		w.quiet()
		w.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { fault(f, 0) })
		w.settled()
	}
	w.flawless(load)
	w.must(w.host.Ready(w.patient()))
	w.reloaded(loads, 0, "a Marathon that fails")
	w.sameWorker(worker)
}

// sourceFails gives an error unless the status tells that Marathon cannot be read, and why.
func (w world) sourceFails(why string) error {
	s := w.status().Sources[0]
	if s.Up || s.Error == "" {
		return fmt.Errorf("%s: the source is up: %+v", why, s)
	}
	return nil
}

// mustRun checks what the running HAProxy has.
func (w world) mustRun(want stage.Servers, why string) {
	w.Helper()
	running, err := w.host.Running()
	w.must(err)
	if d := want.Diff(running); d != "" {
		w.Errorf("%s: running is not what it was:\n%s", why, d)
	}
}

// One answer without apps, as a standby or a leader that has just begun gives it, is no reason to stop serving.
func TestMarathonForgetsEverythingOnce(t *testing.T) {
	w := newWorld(t)
	ports := w.services(4, 2)
	w.start()
	load := w.load(ports, 300)
	requests := w.site.Marathon.Requests()["GET /v2/apps"]
	w.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.EmptyLists = 1 })
	_, err := w.site.AddTask(ports[0])
	w.must(err)
	w.site.Marathon.Emit("group_change_success", nil) // so that the whole list is asked for
	w.must(w.site.Marathon.WaitRequest(w.patient(), "GET /v2/apps", requests+2))
	w.settled()
	w.flawless(load)
	w.reloaded(1, 0, "one empty answer")
}

// Health results vanish in an election, which says nothing about the tasks.
func TestMarathonDiesAndAnotherLeads(t *testing.T) {
	w := newWorld(t)
	second, err := w.site.Marathon.Replica("127.0.0.1:0")
	w.must(err)
	ports := w.services(4, 2)
	w.start("--marathon", w.site.URL+","+second.URL(), "--refresh-interval", "1")
	loads := w.loads()
	load := w.load(ports, 300)
	before := w.site.Wanted()
	w.site.Replica.Close()
	w.must(stage.Until(w.patient(), func() error { return w.sourceFails("the leader is dead") }))
	w.site.Marathon.FailOver(1)
	w.must(stage.Until(w.patient(), func() error {
		if err := w.sourceFails(""); err == nil {
			return fmt.Errorf("the new leader is not read: %+v", w.status().Sources)
		}
		return nil
	}))
	w.mustRun(before, "a new leader without results of health checks")
	w.site.Marathon.RestoreHealth()
	_, err = w.site.AddTask(ports[1])
	w.must(err)
	w.settled()
	w.flawless(load)
	w.reloaded(loads, 0, "a failover")
}

// Before Marathon has spoken nothing is known, so nothing is done.
func TestMarathonIsNotThereAtTheStart(t *testing.T) {
	w := newWorld(t)
	w.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.Unavailable = -1 })
	ports := w.services(2, 1)
	w.must(w.host.Start("--marathon", w.site.URL))
	w.must(stage.Until(w.patient(), func() error {
		code, body, err := w.host.Get(w.Context(), "/readyz")
		if err == nil && (code != 503 || !strings.Contains(body, "503")) {
			err = fmt.Errorf("/readyz: %d %s, want 503 and Marathon's answer", code, body)
		}
		return err
	}))
	if code, body, err := w.host.Get(w.patient(), "/status"); err != nil || code != 503 || body != "INITIALIZING\n" {
		t.Errorf("/status: %d %q, %v", code, body, err)
	}
	if pids := w.host.HAProxy(); len(pids) > 0 {
		t.Errorf("HAProxy was started (%v), though nothing is known", pids)
	}
	w.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.Unavailable = 0 })
	w.must(w.host.Ready(w.patient()))
	w.served(ports...)
}
