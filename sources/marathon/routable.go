package marathon

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/hostname"
)

// world is what routing needs to know beside the list of apps. It was asked for before, so that routing is pure.
type world struct {
	source    string
	versions  map[versionKey]versionAnswer
	hosts     map[string]hostname.Answer
	beliefs   beliefs
	now       time.Time
	groupSize int // how many proxies share the connections of a server; at least 1
}

// definition gives the definition that a task runs.
func (w world) definition(a app, t task) (definition, bool) {
	if a.runs(t) {
		return a.definition, true
	}
	answer, ok := w.versions[versionKey{a.ID, t.Version}]
	return answer.definition, ok && answer.reason == ""
}

// versionKey names one version of an app.
type versionKey struct{ app, version string }

// versionAnswer is a version's definition, or why there is none.
type versionAnswer struct {
	definition definition
	reason     string
}

// offer is a service of one app, as one version of it wants it.
type offer struct {
	app     string
	current bool // wanted by the app's current definition, not only by an older one whose tasks still run
	service *catalog.Service
}

func (o offer) equal(p offer) bool {
	return o.app == p.app && o.current == p.current && o.service.Equal(p.service)
}

// routed is what comes of one app alone.
type routed struct {
	offers   []offer
	problems []catalog.Problem
}

// route gives the services of one app: those of its current definition, even without servers, and those of older
// versions that still have tasks.
func route(a app, w world) routed {
	r := routed{problems: slices.Clone(a.bad)}
	tasks := make(map[string][]task) // by version, that of the current configuration being ""
	for _, t := range a.tasks {
		switch {
		case t.ID == "":
			r.problems = append(r.problems, problem(a.ID, "a task without an id is left out"))
		case !t.running():
		case a.runs(t):
			tasks[""] = append(tasks[""], t)
		default:
			tasks[t.Version] = append(tasks[t.Version], t)
		}
	}
	r.add(a, a.definition, tasks[""], w, true)
	delete(tasks, "")
	for _, version := range slices.Sorted(maps.Keys(tasks)) {
		answer, ok := w.versions[versionKey{a.ID, version}]
		if !ok {
			answer.reason = "it was not read"
		}
		if answer.reason != "" {
			r.lose(tasks[version], fmt.Sprintf("the definition of its version %.40s has its ports, but %s", version, answer.reason))
			continue
		}
		r.add(a, answer.definition, tasks[version], w, false)
	}
	return r
}

func (r *routed) lose(tasks []task, reason string) {
	for _, t := range tasks {
		r.problems = append(r.problems, problem(t.ID, "the task is left out: "+reason))
	}
}

// add offers the endpoints of one definition with the servers of its tasks.
func (r *routed) add(a app, d definition, tasks []task, w world, current bool) {
	endpoints, reasons := d.endpoints(w.groupSize)
	for _, reason := range reasons {
		r.problems = append(r.problems, problem(a.ID, reason))
	}
	tasks = slices.DeleteFunc(tasks, func(t task) bool { return !a.ready(t) || !t.healthy(d, w.beliefs.alive(t.ID, w.now)) })
	for _, e := range endpoints {
		servers := r.servers(e, d, tasks, w)
		if len(servers) == 0 && !current {
			continue
		}
		for _, key := range e.keys {
			r.offers = append(r.offers, offer{app: a.ID, current: current, service: e.service(key, w.source, a.ID, servers)})
		}
	}
}

func (e endpoint) service(key catalog.Key, source, id string, servers []catalog.Server) *catalog.Service {
	s := &catalog.Service{Key: key, Name: serviceName(id), Source: source, Mode: e.settings.mode, Timeouts: e.settings.timeouts, Servers: servers}
	if key.Proto == catalog.UDP {
		s.Mode = catalog.ModeTCP
	}
	return s.Canonical()
}

func (r *routed) servers(e endpoint, d definition, tasks []task, w world) []catalog.Server {
	var out []catalog.Server
	for _, t := range tasks {
		addr, reason := w.address(t, e)
		if reason != "" {
			r.problems = append(r.problems, problem(t.ID, fmt.Sprintf("port %d of the task is left out: %s", e.index, reason)))
			continue
		}
		out = append(out, catalog.Server{Addr: addr, Weight: e.settings.weight, MaxConn: e.settings.maxConn,
			Check: !d.checked(), OnHost: e.hostIndex >= 0})
	}
	return out
}

func sortProblems(problems []catalog.Problem) []catalog.Problem {
	slices.SortFunc(problems, func(a, b catalog.Problem) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Reason, b.Reason))
	})
	return slices.Compact(problems)
}

// runs reports whether a task runs the app's current configuration, so that the current definition has its ports.
func (a app) runs(t task) bool {
	if t.Version == "" || t.Version == a.Version {
		return true
	}
	changed, err := time.Parse(time.RFC3339, a.VersionInfo.LastConfigChangeAt)
	if err != nil {
		return false
	}
	began, err := time.Parse(time.RFC3339, t.Version)
	return err == nil && !began.Before(changed)
}

// running goes by the state alone where there is one: tasks that are being killed, unreachable or lost are out.
func (t task) running() bool {
	if t.State != "" {
		return t.State == "TASK_RUNNING"
	}
	// Up to 1.1.1 a reservation without a task has neither version nor ports.
	reserved := t.StartedAt == absent && t.Version == "" && len(t.Ports) == 0
	return t.StartedAt != isNull && !reserved
}

// healthy wants a result of each health check that has one yet, and no dead one. A missing result is not a dead one, but
// without any it must be known from before that the task did answer: Marathon forgets all results when another replica
// leads, and a task that never had one may not be ready.
func (t task) healthy(d definition, knewAlive bool) bool {
	if !d.checked() {
		return true
	}
	results, alive := t.results()
	return alive || !results && knewAlive
}

// results reports whether any health check has a result, and whether all that have one are alive.
func (t task) results() (any, allAlive bool) {
	allAlive = true
	for _, r := range t.Results {
		if r.Alive != silent {
			any, allAlive = true, allAlive && r.Alive == well
		}
	}
	return any, any && allAlive
}

// checks gives the health checks, without those that are null.
func (d definition) checks() []healthCheck {
	return slices.DeleteFunc(slices.Clone(d.HealthChecks), func(c healthCheck) bool { return !c.defined })
}

func (d definition) checked() bool {
	return slices.ContainsFunc(d.HealthChecks, func(c healthCheck) bool { return c.defined })
}

// waits reports whether tasks may wait for a readiness check, of which no event tells.
func (a app) waits() bool { return len(a.Readiness) > 0 || slices.Contains(a.ReadinessChecks, present) }

// ready is false only when a readiness check says so; there are results only while a deployment starts tasks.
func (a app) ready(t task) bool {
	return !slices.ContainsFunc(a.Readiness, func(r readiness) bool {
		return r.TaskID == t.ID && r.Ready != nil && !*r.Ready
	})
}

// address is where a task serves an endpoint: on its agent when the endpoint has a host port, else in its container.
func (w world) address(t task, e endpoint) (netip.AddrPort, string) {
	number, answer := e.containerPort, t.containerAddress()
	if e.hostIndex >= 0 {
		if e.hostIndex >= len(t.Ports) {
			return netip.AddrPort{}, fmt.Sprintf("the task has %d ports, this is the host port %d of its definition",
				len(t.Ports), e.hostIndex+1)
		}
		number, answer = t.Ports[e.hostIndex], w.agent(t.Host)
	}
	port, err := catalog.Port(number)
	if err != nil {
		return netip.AddrPort{}, err.Error()
	}
	if answer.Reason != "" {
		return netip.AddrPort{}, answer.Reason
	}
	return netip.AddrPortFrom(answer.Addr, port), ""
}

func (w world) agent(host string) hostname.Answer {
	if addr, err := netip.ParseAddr(host); err == nil {
		return hostname.Usable(addr)
	}
	answer, ok := w.hosts[host]
	switch {
	case ok && answer.Reason == "":
		return hostname.Usable(answer.Addr)
	case ok:
		return answer
	default:
		return hostname.Answer{Reason: fmt.Sprintf("its host %.100q has no known address", host)}
	}
}

// containerAddress is the first IPv4 address, else the first IPv6 one.
func (t task) containerAddress() hostname.Answer {
	answer := hostname.Answer{Reason: "it has no host port, and the task has no address of its own yet"}
	for _, a := range t.Addresses {
		addr, err := netip.ParseAddr(a.IPAddress)
		if err != nil {
			continue
		}
		this := hostname.Usable(addr)
		if this.Reason == "" && this.Addr.Is4() {
			return this
		}
		if this.Reason == "" && answer.Reason != "" {
			answer = this
		}
	}
	return answer
}

// serviceName turns /product/system/service into service.system.product.
func serviceName(id string) string {
	parts := strings.FieldsFunc(id, func(r rune) bool { return r == '/' })
	slices.Reverse(parts)
	return clean(strings.Join(parts, "."))
}

// clean drops control characters from a string of others' making and cuts it at 256 bytes.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
	if len(s) > 256 {
		s = strings.ToValidUTF8(s[:256], "")
	}
	return s
}
