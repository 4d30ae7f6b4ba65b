package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

func TestUDPServicesComeAndGo(t *testing.T) {
	w := newPenWorld(t)
	others := w.udpServices(2, 2)
	w.startPen()
	flows := w.flows(others, 20, 400)
	began := time.Now()
	ports := w.udpServices(10, 2)
	w.udpServed(ports...)
	w.penSettled()
	for _, port := range ports {
		w.site.RemoveUDPService(port)
	}
	w.ended(ports...)
	w.penSettled()
	for _, port := range ports {
		w.noFiles(port)
	}
	w.must(w.site.AddUDPService(ports[0], 1))
	w.udpServed(ports[0])
	w.penSettled()
	w.lossless(flows, began)
	w.quiet()
	w.must(w.host.Ready(w.patient()))
}

// noFiles waits until the run directory holds nothing of a UDP service.
func (w world) noFiles(port int) {
	w.Helper()
	w.must(stage.Until(w.patient(), func() error {
		return filepath.WalkDir(w.host.RunDir, func(path string, _ os.DirEntry, err error) error {
			if err == nil && strings.Contains(filepath.Base(path), fmt.Sprintf("udp-%d", port)) {
				return fmt.Errorf("%s is left", path)
			}
			return nil
		})
	}))
}

// The last task of a service is gone for a moment in many deployments: a pen that ended would lose the clients' flows.
func TestPenStaysWithoutTasks(t *testing.T) {
	w := newPenWorld(t)
	port := w.udpServices(1, 1)[0]
	other := w.udpServices(1, 1)[0]
	w.startPen()
	pens := w.host.Pens()
	flows := w.flows([]int{other}, 10, 200)
	began := time.Now()
	w.site.RemoveTask(w.site.UDPTasks(port)[0], 0)
	w.penSettled()
	if name, err := stage.RequestUDP(port); err == nil {
		t.Errorf("%s answered for a service without tasks", name)
	}
	w.addUDPTask(port)
	w.udpServed(port)
	w.samePens(pens)
	w.lossless(flows, began)
	w.quiet()
}

func TestDriverDiesUnderUDPLoad(t *testing.T) {
	fullSpeed(t)
	w := newPenWorld(t)
	ports := w.udpServices(3, 3)
	w.startPen()
	pens := w.host.Pens()
	flows := w.flows(ports, 90, 1500)
	began := time.Now()
	for range 2 {
		w.host.Kill()
		w.must(flows.Wait(w.patient(), 500))
		w.addUDPTask(ports[0])
		w.startPen()
		w.must(flows.Wait(w.patient(), 500))
	}
	w.end(syscall.SIGTERM)
	w.must(flows.Wait(w.patient(), 500))
	w.startPen()
	w.lossless(flows, began)
	w.samePens(pens)
	w.quiet()
}

// What was removed while nobody ran must be gone after the start, and the slots of what stays must not change hands.
func TestPensAreBroughtUpToDateAtTheStart(t *testing.T) {
	w := newPenWorld(t)
	ports := w.udpServices(2, 3)
	removed := w.udpServices(1, 2)[0]
	w.startPen()
	pens := slices.DeleteFunc(w.host.Pens(), func(p stage.Pen) bool { return p.Port == removed })
	flows := w.flows(ports, 30, 600)
	began := time.Now()
	w.host.Kill()
	w.must(os.RemoveAll(w.host.Path("state"))) // or else what Marathon lacks then is held: nobody heard that it ended
	gone := w.site.UDPTasks(ports[0])[0]
	w.site.RemoveTask(gone, time.Minute)
	w.addUDPTask(ports[1])
	w.site.RemoveUDPService(removed)
	w.startPen()
	settled := time.Now()
	w.must(flows.Wait(w.patient(), 300))
	w.ended(removed)
	w.noFiles(removed)
	w.samePens(pens)
	w.quiet()
	r := flows.Stop()
	w.losses(r, began, 0.01) // what is under way to a task that is removed
	for _, d := range slices.Concat(r.Flows...) {
		if d.By == gone.Name && d.Sent.After(settled) {
			t.Fatalf("the flow of a task that was removed stays with it: %s", d)
		}
	}
}

func TestPenDies(t *testing.T) {
	for name, restart := range map[string]bool{"started by this run": false, "started by an earlier run": true} {
		t.Run(name, func(t *testing.T) {
			fullSpeed(t)
			w := newPenWorld(t)
			ports := w.udpServices(2, 3)
			w.startPen()
			if restart {
				w.host.Kill()
				w.startPen()
			}
			victims, others := w.flows(ports[:1], 20, 1000), w.flows(ports[1:], 20, 400)
			killed := time.Now()
			pid := w.pen(ports[0]).PID
			w.must(syscall.Kill(pid, syscall.SIGKILL))
			w.must(victims.Wait(w.patient(), 1500))
			w.penSettled()
			if now := w.pen(ports[0]).PID; now == pid {
				t.Errorf("process %d serves on, though it was killed", pid)
			}
			r := victims.Stop()
			tasks := names(w.site.UDPTasks(ports[0]))
			back := stage.Slowest(r.Reached(killed, func(name string) bool { return tasks[name] }))
			t.Logf("all flows were answered %s after the kill; %d datagrams lost", back, len(r.Lost(killed)))
			if back > time.Second {
				t.Errorf("pen was back after %s, want 1 s", back)
			}
			w.lossless(others, killed)
			w.quiet()
		})
	}
}

func TestAllPensDieWhileNobodyLooks(t *testing.T) {
	w := newPenWorld(t)
	ports := w.udpServices(3, 2)
	w.startPen()
	w.host.Kill()
	for _, p := range w.host.Pens() {
		w.must(syscall.Kill(p.PID, syscall.SIGKILL))
	}
	w.startPen()
	w.udpServed(ports...)
	w.quiet()
}

// Another size needs another process, which takes over the port before the old one lets go of it.
func TestHUPWithMorePenClientsReplacesPens(t *testing.T) {
	fullSpeed(t)
	w := newPenWorld(t)
	ports := w.udpServices(2, 3)
	config := w.host.Path("c.yaml")
	w.must(os.WriteFile(config, []byte("pen-clients: 512\n"), 0o644))
	w.startPen("--config", config)
	before := map[int]bool{}
	for _, p := range w.host.Pens() {
		before[p.PID] = true
	}
	flows := w.flows(ports, 40, 1000)
	began := time.Now()
	w.must(os.WriteFile(config, []byte("pen-clients: 1024\n"), 0o644))
	w.must(w.host.Signal(syscall.SIGHUP))
	w.must(stage.Until(w.patient(), func() error {
		for _, p := range w.host.Pens() {
			if before[p.PID] {
				return fmt.Errorf("process %d was not replaced", p.PID)
			}
		}
		return w.pensAreWanted()
	}))
	w.must(flows.Wait(w.patient(), 1500))
	// All flows are born again, which may cost each the one datagram that comes at the same time.
	w.losses(flows.Stop(), began, 40.0/1500)
	now := w.host.Pens()
	w.must(w.host.Signal(syscall.SIGHUP))
	w.must(stage.Until(w.patient(), func() error {
		if n := strings.Count(w.host.Log(), "configuration read again"); n < 2 {
			return fmt.Errorf("read again %d times", n)
		}
		return nil
	}))
	w.must(w.host.Ready(w.patient()))
	w.quiet()
	w.samePens(now)
}

// Pens get what a user meets everywhere else.
func TestPenIsSeen(t *testing.T) {
	w := newPenWorld(t)
	port := w.udpServices(1, 2)[0]
	w.says(w.command("plan"), 2, "start pen", fmt.Sprintf("%d/udp", port))
	if pens := w.host.Pens(); len(pens) > 0 {
		t.Errorf("plan started %+v", pens)
	}
	w.startPen()
	w.says(w.command("plan"), 0, "nothing to change")
	w.host.Kill()
	w.addUDPTask(port)
	w.says(w.command("plan"), 2, "add server")
	w.startPen()
	w.says(w.command("healthcheck"), 0, "healthy")
	w.says(w.command("version"), 0, "pen ")
	_, metrics, err := w.host.Get(w.patient(), "/metrics")
	w.must(err)
	for _, line := range []string{`proxymatic_driver_up{driver="pen"} 1`, "proxymatic_services 1", "proxymatic_servers 3"} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("no %q in the metrics", line)
		}
	}
	w.site.RemoveTask(w.site.UDPTasks(port)[0], 0)
	w.penSettled()
	w.site.RemoveUDPService(port)
	w.ended(port)
	w.quiet()
	changes := w.driver("pen").Changes
	if n := changes["remove server"]; n < 1 || n > 3 { // those of the two other tasks may be seen before the end of their app
		t.Errorf("%d servers were removed, want 1 to 3", n)
	}
	delete(changes, "remove server")
	if want := map[string]int{"add server": 1, "stop pen": 1}; !maps.Equal(changes, want) {
		t.Errorf("changes %v, want %v", changes, want)
	}
	for _, words := range []string{"add server", "remove server", "stop pen"} {
		if err := inLog(w.host.Log(), []string{words, "driver=pen", fmt.Sprint(port)}); err != nil {
			t.Error(err)
		}
	}
}
