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

// Health results vanish in an election, which says nothing about the tasks.
func TestMarathonDiesAndAnotherLeads(t *testing.T) {
	w := newWorld(t)
	second, err := w.site.Marathon.Replica("127.0.0.1:0")
	w.must(err)
	ports := w.services(4, 2)
	w.startOn(w.site.URL+","+second.URL(), "--refresh-interval", "1")
	loads := w.loads()
	load := stage.StartLoad(ports, 300, func(port int, name string, began, ended time.Time) string {
		return w.site.Judge(port, name, began, ended, time.Hour)
	})
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
	ill := w.checkedTask(ports)
	w.site.Marathon.SetHealth(ill.ID, false) // its first result at the new leader
	w.must(stage.Until(w.patient(), func() error { return w.without(ill) }))
	w.site.RemoveTask(ill, time.Hour)
	w.site.Marathon.RestoreHealth()
	_, err = w.site.AddTask(ports[1])
	w.must(err)
	w.settled()
	w.flawless(load)
	w.reloaded(loads, 0, "a failover")
}

// checkedTask gives a task whose health Marathon checks.
func (w world) checkedTask(ports []int) *stage.Task {
	w.Helper()
	i := slices.IndexFunc(ports, func(port int) bool { return stage.App(port).HealthChecks > 0 })
	if i < 0 {
		w.Fatalf("no service of %v has a health check", ports)
	}
	return w.site.Tasks(ports[i])[0]
}

// without gives an error while the proxy has a server of one of these tasks.
func (w world) without(tasks ...*stage.Task) error {
	running, err := w.host.Running()
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if slices.Contains(running[t.Port], t.Addr) {
			return fmt.Errorf("%s is still a server of %d", t.Name, t.Port)
		}
	}
	return nil
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
