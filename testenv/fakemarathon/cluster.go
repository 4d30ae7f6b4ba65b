package fakemarathon

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// state is what Marathon knows. Slices and maps inside an app or a task are replaced, never written to, so a
// clone shares them.
type state struct {
	apps  map[string]appState
	raws  []rawApp
	tasks []Task
}

func (s state) clone() state {
	return state{maps.Clone(s.apps), slices.Clone(s.raws), slices.Clone(s.tasks)}
}

// task finds a task's place, -1 when there is none. The newest are found first: they are those that most happens to.
func (s state) task(id string) int {
	i := len(s.tasks) - 1
	for i >= 0 && s.tasks[i].ID != id {
		i--
	}
	return i
}

// Cluster is what all replicas share: apps, versions, tasks, event streams and callbacks. All methods may be called
// from any goroutine. Each method that changes something changes the state first and then sends the events of it.
type Cluster struct {
	gen    Generation
	v      release
	ctx    context.Context // ends callbacks that are still posted when the cluster closes
	cancel context.CancelFunc
	wg     sync.WaitGroup // listeners, streams and callbacks

	mu sync.Mutex
	state
	closed    bool
	changed   chan struct{} // closed and replaced at each change that somebody may wait for
	faults    Faults
	noKilling bool
	planSize  int
	replicas  []*Replica
	login     *Login           // nil: nobody needs a token
	leader    int              // index of a replica, -1 in an election
	entries   map[string]entry // by app
	streams   []*stream
	callbacks map[string]*callback
	cut       bool // posts to callbacks fail
	last      time.Time
	serial    int
	nextPort  int
	nextHost  int
}

// New gives an empty cluster without replicas. It panics if gen is no Marathon release.
func New(gen Generation) *Cluster {
	v, err := gen.release()
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Cluster{gen: gen, v: v, ctx: ctx, cancel: cancel, state: state{apps: map[string]appState{}},
		changed: make(chan struct{}), callbacks: map[string]*callback{}, entries: map[string]entry{}, nextPort: 10000, nextHost: 31000}
}

// Close closes all replicas and waits for everything that the cluster started.
func (c *Cluster) Close() {
	c.mu.Lock()
	c.closed = true
	replicas, login := slices.Clone(c.replicas), c.login
	c.mu.Unlock()
	c.cancel()
	if login != nil {
		_ = login.server.Close() // its listener is its own
	}
	for _, r := range replicas {
		r.Close()
	}
	c.wg.Wait()
}

// PutApp stores a new version of the app, as PUT /v2/apps/{id} would, and gives that version. Tasks of older versions
// stay. When only Instances differs it is a scaling: lastConfigChangeAt stays.
func (c *Cluster) PutApp(app App) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	app.ID = withSlash(app.ID)
	app.Mode = cmp.Or(app.Mode, Host)
	app.Labels = maps.Clone(app.Labels)
	app.Ports = slices.Clone(app.Ports)
	for i := range app.Ports {
		p := &app.Ports[i]
		p.Protocol = cmp.Or(p.Protocol, "tcp")
		// IP-per-task apps got no service port before networks came with 1.5.
		if p.ServicePort == 0 && (app.Mode != Container || c.v >= 105) {
			p.ServicePort = c.nextPort
			c.nextPort++
		}
	}
	version := c.now()
	a := c.apps[app.ID]
	if len(a.versions) == 0 || !onlyScaled(a.current().App, app) {
		a.lastConfig = version
	}
	a.lastScaling, a.deployment = version, c.uuid()
	a.versions = append(a.versions, definition{app, version})
	c.apps[app.ID] = a
	c.emit("api_post_event", object{"clientIp": "127.0.0.1", "uri": "/v2/apps" + app.ID,
		"appDefinition": c.v.definition(a.current(), a)})
	c.groupChanged(app.ID, version)
	c.emit("deployment_info", object{"plan": c.plan(app.ID), "currentStep": c.step(app.ID)})
	c.settle(app.ID)
	return version
}

func onlyScaled(a, b App) bool {
	a.Instances, b.Instances = 0, 0
	return mustJSON(a) == mustJSON(b)
}

// RawApp puts any JSON value among the apps, as a group change would: malformed entries, odd shapes. An entry with an
// id replaces the raw one of the same id, and RemoveApp takes it away.
func (c *Cluster) RawApp(body json.RawMessage) {
	var named struct{ ID string }
	_ = json.Unmarshal(body, &named) // an entry without a readable id is one of those wanted here
	c.mu.Lock()
	defer c.mu.Unlock()
	if named.ID != "" {
		c.raws = slices.DeleteFunc(c.raws, func(r rawApp) bool { return r.id == named.ID })
	}
	c.raws = append(c.raws, rawApp{named.ID, body})
	c.groupChanged(cmp.Or(named.ID, "/raw"), c.now())
}

// RemoveApp kills the app's tasks and removes it. Unknown ids are ignored.
func (c *Cluster) RemoveApp(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id = withSlash(id)
	plan := c.plan(id)
	version := c.now()
	_, known := c.apps[id]
	if n := len(c.raws); !known {
		c.raws = slices.DeleteFunc(c.raws, func(r rawApp) bool { return withSlash(r.id) == id })
		if len(c.raws) == n {
			return
		}
	}
	c.groupChanged(id, version)
	c.emit("deployment_info", object{"plan": plan, "currentStep": c.step(id)})
	for _, t := range slices.Clone(c.tasks) {
		if t.AppID == id {
			c.kill(t.ID)
		}
	}
	delete(c.apps, id)
	c.emit("app_terminated_event", object{"appId": id})
	c.emit("deployment_success", object{"id": c.uuid(), "plan": plan})
}

// AddTask adds a task of a known app, fills what is empty and gives it back. It panics when the app, or the version that
// the task asks for, is not known.
func (c *Cluster) AddTask(appID string, t Task) Task {
	t, err := c.addTask(appID, t)
	if err != nil {
		panic(err)
	}
	return t
}

func (c *Cluster) addTask(appID string, t Task) (Task, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.apps[withSlash(appID)]
	if !ok {
		return t, fmt.Errorf("fake Marathon: no app %q", appID)
	}
	t.AppID = a.current().ID
	t.Version = cmp.Or(t.Version, a.current().version)
	d, ok := a.find(t.Version)
	if !ok {
		return t, fmt.Errorf("fake Marathon: app %q has no version %q", appID, t.Version)
	}
	t.ID = cmp.Or(t.ID, c.taskID(t.AppID))
	t.Host = cmp.Or(t.Host, "127.0.0.1")
	t.State = cmp.Or(t.State, "TASK_RUNNING")
	t.staged = c.now()
	if t.State != "TASK_STAGING" && t.State != "TASK_STARTING" {
		t.started = c.now()
	}
	if t.Ports == nil {
		t.Ports = c.hostPorts(d)
	}
	if t.IPs == nil && d.Mode == Bridge {
		t.IPs = []string{"172.17.0.2"} // bridge tasks list an address that only their agent can reach
	}
	c.tasks = append(c.tasks, t)
	c.announce(t)
	c.settle(t.AppID)
	return t, nil
}

func (c *Cluster) hostPorts(d definition) []int {
	ports := []int{}
	for _, p := range d.Ports {
		switch {
		case !d.hasHostPort(p):
		case d.Mode == Host && d.RequirePorts:
			ports = append(ports, p.ServicePort)
		case d.Mode != Host && p.HostPort != nil && *p.HostPort != 0:
			ports = append(ports, *p.HostPort)
		default:
			ports = append(ports, c.nextHost)
			c.nextHost++
		}
	}
	return ports
}

func (c *Cluster) taskID(appID string) string {
	if c.v >= 106 {
		return safeID(appID) + ".instance-" + c.uuid() + "._app.1"
	}
	return safeID(appID) + "." + c.uuid()
}

// SetState moves a task to a Mesos state such as TASK_RUNNING or TASK_UNREACHABLE. A terminal state removes it.
func (c *Cluster) SetState(taskID, to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setState(taskID, to)
}

func (c *Cluster) setState(taskID, to string) {
	i := c.task(taskID)
	if i < 0 {
		return
	}
	t := c.tasks[i]
	t.State = to
	if to == "TASK_RUNNING" && t.started == "" {
		t.started = c.now()
	}
	c.tasks[i] = t
	if terminal(to) {
		c.tasks = slices.Delete(c.tasks, i, i+1)
	}
	c.announce(t)
	c.settle(t.AppID)
}

// Kill ends a task: TASK_KILLING first where the release has it, then TASK_KILLED, and it is gone.
func (c *Cluster) Kill(taskID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kill(taskID)
}

// KillUnhealthy says that Marathon's health checks condemned the task, and kills it.
func (c *Cluster) KillUnhealthy(taskID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := c.task(taskID); i >= 0 {
		c.condemn(c.tasks[i])
	}
	c.kill(taskID)
}

func (c *Cluster) kill(taskID string) {
	if c.v >= 103 && !c.noKilling {
		c.setState(taskID, "TASK_KILLING")
	}
	c.setState(taskID, "TASK_KILLED")
}

// SetKilling says whether the task_killing feature is enabled, as it is at first; 1.3 and later only.
func (c *Cluster) SetKilling(enabled bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noKilling = !enabled
}

// SetHealth replaces the results of a task's health checks; none means that no probe has finished yet. Like Marathon it
// tells of each change between alive and not, and "no result" counts as not alive.
func (c *Cluster) SetHealth(taskID string, results ...bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setHealth(taskID, results)
}

func (c *Cluster) setHealth(taskID string, results []bool) {
	i := c.task(taskID)
	if i < 0 {
		return
	}
	before := c.tasks[i].Health
	c.tasks[i].Health = slices.Clone(results)
	for n, alive := range results {
		if alive != (n < len(before) && before[n]) {
			c.healthChanged(c.tasks[i], alive)
		}
	}
	c.settle(c.tasks[i].AppID)
}

// SetReady gives the result of a task's readiness check. No event tells of it; the end of the deployment does.
func (c *Cluster) SetReady(taskID string, ready bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := c.task(taskID); i >= 0 {
		c.tasks[i].Ready = &ready
		c.settle(c.tasks[i].AppID)
	}
}

// FailOver makes another replica the leader, by its index in the order of creation; -1 means that there is none for
// now. All streams end, and the results of checks that Marathon runs vanish until RestoreHealth.
func (c *Cluster) FailOver(to int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = to
	for i, t := range c.tasks {
		if a, ok := c.apps[t.AppID]; ok && !a.current().MesosChecks && t.Health != nil {
			c.tasks[i].Health, c.tasks[i].lost = nil, t.Health
		}
	}
	c.closeStreams(func(*stream) bool { return true })
}

// RestoreHealth gives the results back that the last failover lost, with its storm of events: one for each check.
func (c *Cluster) RestoreHealth() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.apps {
		if d := a.current(); d.HealthChecks > 0 {
			c.emit("add_health_check_event", object{"appId": d.ID, "version": d.version, "healthCheck": c.v.healthCheck(d)})
		}
	}
	for i := range c.tasks {
		if lost := c.tasks[i].lost; lost != nil {
			c.tasks[i].lost = nil
			c.setHealth(c.tasks[i].ID, lost)
		}
	}
}

// Apps gives the current definitions in the order of their ids, without raw entries.
func (c *Cluster) Apps() []App {
	c.mu.Lock()
	defer c.mu.Unlock()
	var apps []App
	for _, id := range slices.Sorted(maps.Keys(c.apps)) {
		apps = append(apps, c.apps[id].current().App)
	}
	return apps
}

// Tasks gives all tasks in the order of their start.
func (c *Cluster) Tasks() []Task {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.tasks)
}

// now gives a time that was never given before, as Marathon writes times; such texts compare like the times.
func (c *Cluster) now() string {
	t := time.Now().UTC().Truncate(time.Millisecond)
	if !t.After(c.last) {
		t = c.last.Add(time.Millisecond)
	}
	c.last = t
	return t.Format("2006-01-02T15:04:05.000Z")
}

func (c *Cluster) uuid() string {
	c.serial++
	return fmt.Sprintf("%08x-5eed-11e5-8a3c-0242ac110002", c.serial)
}

func parent(id string) string { return cmp.Or(id[:strings.LastIndexByte(id, '/')], "/") }
