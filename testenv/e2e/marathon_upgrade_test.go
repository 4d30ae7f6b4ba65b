package e2e

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/backend"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

// faster is how much shorter the waits are here than they were in the recording.
const faster = 10

// exits is how long a task whose end Marathon does not announce serves on after it was reported as killed. A real one is told to
// stop long before, and closes its listener when it likes; no proxy could hide one that accepts and does not answer any more
// before anybody was told.
const exits = time.Second

// A rolling upgrade of four tasks to a definition that has a port more, before the one that both have. It was recorded at
// Marathon 1.3: three old tasks are killed at once, the last one 9 ms after the first new one became healthy, and for the
// long time until the others are healthy there is only that one. HAProxy is reloaded meanwhile, for the new port.
func TestMarathonRollingUpgrade(t *testing.T) {
	tests := map[string]struct {
		gen     fakemarathon.Generation
		mode    fakemarathon.Mode
		killing bool // ends of tasks are announced by TASK_KILLING
		checks  int
	}{
		"A":                      {fakemarathon.GenA, fakemarathon.Bridge, false, 1},
		"B":                      {fakemarathon.GenB, fakemarathon.Host, true, 1},
		"B without task_killing": {fakemarathon.GenB, fakemarathon.Bridge, false, 1},
		"C":                      {fakemarathon.GenC, fakemarathon.Bridge, true, 1},
		"D":                      {fakemarathon.GenD, fakemarathon.Host, true, 1},
		"D with two checks":      {fakemarathon.GenD, fakemarathon.Host, true, 2},
		"D without checks":       {fakemarathon.GenD, fakemarathon.Bridge, true, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUpgrade(newWorldOf(t, tt.gen), tt.mode, tt.killing, tt.checks)
			before := []*instance{u.launch("old", "TASK_RUNNING"), u.launch("old", "TASK_RUNNING"),
				u.launch("old", "TASK_RUNNING"), u.launch("old", "TASK_RUNNING")}
			u.healthy(before...)
			u.startServing()
			load := stage.StartLoad([]int{u.port, u.steady, u.port, u.port}, 400, u.judge)
			probe := stage.StartLoad([]int{u.extra}, 100, u.judgeExtra)
			u.roll(before)
			u.settledOn(u.wanted)
			u.must(load.WaitRequests(u.patient(), 100))
			u.flawless(load)
			u.noExtraFailed(probe.Stop())
			u.reloaded(1, 1, "one new service port")
		})
	}
}

// busy is how long Marathon takes to answer: longer than from a task's health to the end of the one that it replaces.
const busy = 50 * time.Millisecond

// upgrade is an app that is upgraded, and a service beside it that is not.
type upgrade struct {
	world
	mode                fakemarathon.Mode
	killing             bool
	checks              int
	steady, port, extra int // service ports: the other service's, that of both definitions, and that of the new one alone
	began               time.Time

	mu         sync.Mutex
	instances  map[string]*instance // by name
	firstExtra time.Time            // when the new port was answered first
	wrongExtra []string             // what was wrong with answers there
}

// instance is a task and what it runs.
type instance struct {
	name, task  string
	main, extra *backend.Server // extra is nil for the old definition
	alive       time.Time       // when Marathon began to say so
	gone        time.Time       // when its end was announced
}

// app is where the upgraded app is in Marathon.
const app = "/shop/upgraded"

func newUpgrade(w world, mode fakemarathon.Mode, killing bool, checks int) *upgrade {
	w.Helper()
	ports := w.ports(3)
	u := &upgrade{world: w, mode: mode, killing: killing, checks: checks, steady: ports[0], port: ports[1], extra: ports[2], instances: map[string]*instance{}}
	w.must(w.site.AddService(u.steady, 2))
	w.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.Delay = busy })
	u.put(u.port)
	w.Cleanup(func() {
		for _, i := range u.instances {
			i.main.Close()
			if i.extra != nil {
				i.extra.Close()
			}
		}
	})
	return u
}

// put makes a definition the app's current one.
func (u *upgrade) put(servicePorts ...int) {
	definition := fakemarathon.App{ID: app, Mode: u.mode, HealthChecks: u.checks, Instances: 4}
	for _, port := range servicePorts {
		definition.Ports = append(definition.Ports, fakemarathon.PortMapping{ServicePort: port, ContainerPort: 8080})
	}
	u.site.Marathon.PutApp(definition)
}

// launch adds a task of the current definition with real backends, which answer before Marathon says that they are healthy.
func (u *upgrade) launch(which, state string) *instance {
	u.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	i := &instance{name: fmt.Sprintf("%s.%d", which, len(u.instances))}
	u.instances[i.name] = i
	var ports []int
	if which == "new" {
		i.extra = u.listen(i.name+" extra", &ports)
	}
	i.main = u.listen(i.name, &ports)
	i.task = u.site.Marathon.AddTask(app, fakemarathon.Task{Ports: ports, State: state}).ID
	return i
}

func (u *upgrade) listen(name string, ports *[]int) *backend.Server {
	u.Helper()
	server, err := backend.ListenHTTP("127.0.0.1:0", name)
	u.must(err)
	_, digits, err := net.SplitHostPort(server.Addr())
	u.must(err)
	port, err := strconv.Atoi(digits)
	u.must(err)
	*ports = append(*ports, port)
	return server
}

func (u *upgrade) startServing() {
	u.Helper()
	u.must(u.host.Start("--marathon", u.site.URL))
	u.must(u.host.Ready(u.patient()))
	u.settledOn(u.wanted)
}

// roll replays the recording. Its times are in seconds.
func (u *upgrade) roll(before []*instance) {
	u.began = time.Now()
	u.put(u.extra, u.port)
	u.dying(before[:3]...)
	first := u.launch("new", "TASK_STAGING")
	u.until(0.9)
	u.running(first)
	u.until(7.6)
	u.healthy(first)
	time.Sleep(9 * time.Millisecond) // as it was recorded
	u.dying(before[3])
	u.until(20)
	u.dead(before[:3]...)
	rest := []*instance{u.launch("new", "TASK_STAGING"), u.launch("new", "TASK_STAGING"), u.launch("new", "TASK_STAGING")}
	u.until(21)
	u.running(rest...)
	u.until(27.6)
	u.dead(before[3])
	u.until(40) // it was 67, without anything else in between
	u.healthy(rest...)
}

// until waits for a time of the recording.
func (u *upgrade) until(seconds float64) {
	time.Sleep(time.Until(u.began.Add(time.Duration(seconds * float64(time.Second) / faster))))
}

// running starts tasks, which takes until they are healthy where nothing checks that.
func (u *upgrade) running(list ...*instance) {
	for _, i := range list {
		if u.checks > 0 {
			u.site.Marathon.SetState(i.task, "TASK_RUNNING")
		}
	}
}

// healthy gives tasks the first success of a check: the one that the deployment waits for.
func (u *upgrade) healthy(list ...*instance) {
	for _, i := range list {
		u.note(&i.alive)
		if u.checks == 0 {
			u.site.Marathon.SetState(i.task, "TASK_RUNNING")
			continue
		}
		u.site.Marathon.SetHealth(i.task, true)
	}
}

// dying begins to kill tasks. They serve on: whoever was told must leave them before they end, and nobody is told where Marathon
// has no word for it.
func (u *upgrade) dying(list ...*instance) {
	for _, i := range list {
		if u.killing {
			u.site.Marathon.SetState(i.task, "TASK_KILLING")
			u.note(&i.gone)
		}
	}
}

// dead ends tasks. What they ran hangs from then on: it accepts and never answers.
func (u *upgrade) dead(list ...*instance) {
	for _, i := range list {
		if u.killing {
			i.main.Hang()
			u.site.Marathon.SetState(i.task, "TASK_KILLED")
			continue
		}
		u.site.Marathon.SetState(i.task, "TASK_KILLED")
		u.note(&i.gone)
		timer := time.AfterFunc(exits, i.main.Hang)
		u.Cleanup(func() { timer.Stop() })
	}
}

func (u *upgrade) note(at *time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	*at = time.Now()
}

// wanted gives the servers that each service should have now.
func (u *upgrade) wanted() stage.Servers {
	servers := u.site.Wanted()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, i := range u.instances {
		if i.alive.IsZero() || !i.gone.IsZero() {
			continue
		}
		servers.Add(u.port, i.main.Addr())
		if i.extra != nil {
			servers.Add(u.extra, i.extra.Addr())
		}
	}
	return servers
}

// judge tells what is wrong with an answer of the services that are there all the time.
func (u *upgrade) judge(port int, name string, began, ended time.Time) string {
	if port == u.steady {
		return u.site.Judge(port, name, began, ended, lateness)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	i, ok := u.instances[name]
	switch {
	case !ok:
		return fmt.Sprintf("answer %.80q is not of this port", name)
	case i.alive.IsZero() || ended.Before(i.alive):
		return name + " answered before it was healthy"
	}
	return "" // a task whose end was announced may answer until it hangs
}

// judgeExtra notes answers of the port that only the new definition has.
func (u *upgrade) judgeExtra(_ int, name string, _, ended time.Time) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.firstExtra.IsZero() {
		u.firstExtra = ended
	}
	var of string
	if n, _ := fmt.Sscanf(name, "%s extra", &of); n != 1 || u.instances[of] == nil || name != of+" extra" {
		u.wrongExtra = append(u.wrongExtra, name)
	}
	return ""
}

// noExtraFailed checks that the new port was answered by new tasks only, and always once it was answered.
func (u *upgrade) noExtraFailed(r stage.Result) {
	u.Helper()
	if u.firstExtra.IsZero() {
		u.Error("the new port was never answered")
	}
	for _, name := range u.wrongExtra {
		u.Errorf("the new port was answered by %q", name)
	}
	for _, f := range r.Failed {
		if f.Began.After(u.firstExtra) {
			u.Errorf("a request to the new port failed: %s", f)
		}
	}
}
