package fakemarathon

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// route finds and computes the answer of the leader from a state.
func (r *Replica) route(req *http.Request, s state) answer {
	c := r.cluster
	path := req.URL.Path
	switch {
	case path == "/ping":
		return answer{status: http.StatusOK, body: "pong\n"}
	case path == "/v2/info":
		return ok(c.info())
	case path == "/v2/leader":
		return ok(object{"leader": c.replicas[c.leader].addr})
	case path == "/v2/eventSubscriptions" && c.v < 105:
		return c.subscriptions(req, r.faults)
	case path == "/v2/events" && r.faults.StreamPage.take():
		return answer{status: http.StatusOK, body: page, header: http.Header{"Content-Type": {"text/html;charset=utf-8"}}}
	case path == "/v2/events" && c.v >= 9:
		return events(req)
	case path == "/v2/tasks":
		return c.allTasks(req, s)
	case path == "/v2/apps":
		return c.allApps(req, s)
	case strings.HasPrefix(path, "/v2/apps/"):
		return c.oneApp(strings.TrimPrefix(path, "/v2/apps"), s, r.faults)
	}
	return answer{status: http.StatusNotFound, body: "<html><body><h2>HTTP ERROR: 404</h2></body></html>",
		header: http.Header{"Content-Type": {"text/html;charset=iso-8859-1"}}}
}

func ok(body any) answer   { return answer{status: http.StatusOK, body: body} }
func list(body any) answer { return answer{status: http.StatusOK, body: body, slow: true} }
func all(body any) answer  { return answer{status: http.StatusOK, body: body, slow: true, whole: true} }

// events refuses every Accept but the one word: Jetty compares it as a string.
func events(req *http.Request) answer {
	if req.Header.Get("Accept") != "text/event-stream" {
		return answer{status: http.StatusMethodNotAllowed}
	}
	return answer{status: http.StatusOK, stream: true}
}

func (c *Cluster) info() object {
	features := []string{}
	if c.v >= 103 && !c.noKilling {
		features = append(features, "task_killing")
	}
	o := object{"name": "marathon", "version": string(c.gen) + ".2", "elected": true, "leader": c.replicas[c.leader].addr, "frameworkId": "20150602-090000-16777343-5050-1-0000",
		"marathon_config": object{"master": "zk://127.0.0.1:2181/mesos", "hostname": "127.0.0.1", "features": features, "leader_proxy_read_timeout_ms": 10000},
		"http_config":     object{"http_port": 8080, "https_port": 8443}}
	if c.v < 105 {
		o["event_subscriber"] = object{"type": "http_callback", "http_endpoints": []string{}}
	}
	if c.v >= 104 {
		o["buildref"] = "unknown"
	}
	return o
}

// embeds is what the query asks to be embedded. 0.8 reads one value only; without any, deployments come.
func (c *Cluster) embeds(req *http.Request) map[string]bool {
	values := req.URL.Query()["embed"]
	if c.v <= 8 {
		values = values[:min(1, len(values))]
	}
	embed := map[string]bool{}
	for _, value := range values {
		embed[strings.TrimPrefix(value, "app.")] = true
		embed[strings.TrimPrefix(value, "apps.")] = true
	}
	if len(values) == 0 {
		embed["deployments"] = true
	}
	return embed
}

func (c *Cluster) allApps(req *http.Request, s state) answer {
	apps := make([]string, 0, len(s.apps)+len(s.raws))
	embed := c.embeds(req)
	byApp := map[string][]Task{}
	for _, t := range s.tasks {
		byApp[t.AppID] = append(byApp[t.AppID], t)
	}
	for _, id := range slices.Sorted(maps.Keys(s.apps)) {
		apps = append(apps, c.rendered(s.apps[id], byApp[id], embed))
	}
	for _, raw := range s.raws {
		apps = append(apps, mustJSON(raw.body))
	}
	return all(rendered(`{"apps":[` + strings.Join(apps, ",") + `]}`))
}

// rendered is a JSON answer that is text already.
type rendered string

// entry is an app's part of the list as it was rendered last, and from what.
type entry struct {
	app   appState
	tasks []Task
	embed map[string]bool
	text  string
}

// rendered gives app's text, from memory when nothing has changed: a list of a thousand apps would otherwise take longer than
// what a benchmark measures.
func (c *Cluster) rendered(a appState, tasks []Task, embed map[string]bool) string {
	id := a.current().ID
	if e, ok := c.entries[id]; ok && e.app.same(a) && slices.EqualFunc(e.tasks, tasks, Task.same) && maps.Equal(e.embed, embed) {
		return e.text
	}
	e := entry{a, tasks, embed, mustJSON(c.app(a, tasks, embed))}
	c.entries[id] = e
	return e.text
}

// same reports whether nothing has changed: every change gives another time or deployment.
func (a appState) same(o appState) bool {
	return len(a.versions) == len(o.versions) && a.current().version == o.current().version &&
		a.current().Instances == o.current().Instances && a.lastScaling == o.lastScaling &&
		a.lastConfig == o.lastConfig && a.deployment == o.deployment
}

// same reports whether two tasks are rendered alike.
func (t Task) same(o Task) bool {
	ready := t.Ready == o.Ready || t.Ready != nil && o.Ready != nil && *t.Ready == *o.Ready
	return ready && t.ID == o.ID && t.AppID == o.AppID && t.Host == o.Host && t.State == o.State && t.Version == o.Version &&
		t.staged == o.staged && t.started == o.started && slices.Equal(t.Ports, o.Ports) && slices.Equal(t.IPs, o.IPs) &&
		slices.Equal(t.Health, o.Health) && (t.Health == nil) == (o.Health == nil) && bytes.Equal(t.Raw, o.Raw)
}

func (c *Cluster) app(a appState, tasks []Task, embed map[string]bool) object {
	o := c.v.definition(a.current(), a)
	if a.current().Instances == 0 {
		o["instances"] = len(tasks)
	}
	if embed["deployments"] || embed["tasks"] {
		o["deployments"] = []any{}
		if a.deployment != "" {
			o["deployments"] = []any{object{"id": a.deployment}}
		}
	}
	if embed["tasks"] {
		o["tasks"] = c.renderTasks(tasks)
	}
	if embed["readiness"] && c.v >= 100 {
		o["readinessCheckResults"] = readiness(a, tasks)
	}
	return o
}

func (c *Cluster) renderTasks(tasks []Task) []any {
	rendered := make([]any, 0, len(tasks))
	for _, t := range tasks {
		rendered = append(rendered, c.v.task(t, nil))
	}
	return rendered
}

// readiness gives the results of a deployment's tasks; there are none at other times.
func readiness(a appState, tasks []Task) []any {
	results := []any{}
	for _, t := range tasks {
		if a.deployment != "" && t.Ready != nil {
			results = append(results, object{"name": "ready0", "taskId": t.ID, "ready": *t.Ready})
		}
	}
	return results
}

// oneApp serves /v2/apps/{id} and what lies below it. Ids hold slashes, so the path is read from its end.
func (c *Cluster) oneApp(path string, s state, f Faults) answer {
	path = strings.TrimSuffix(path, "/")
	id, version, hasVersion := strings.Cut(path, "/versions/")
	id, wantsTasks := strings.CutSuffix(id, "/tasks")
	id = withSlash(id)
	a, found := s.apps[id]
	if !found {
		return c.oneRaw(id, s)
	}
	var tasks []Task
	for i := range s.tasks { // without a copy of all: there may be 25,000
		if s.tasks[i].AppID == id {
			tasks = append(tasks, s.tasks[i])
		}
	}
	switch {
	case hasVersion:
		d, known := a.find(version)
		if !known || f.NoVersions && version != a.current().version {
			return message(http.StatusNotFound, "App '%s' does not exist in version %s", id, version)
		}
		return ok(c.v.definition(d, a))
	case wantsTasks:
		return list(object{"tasks": c.renderTasks(tasks)})
	}
	return list(object{"app": c.app(a, tasks, map[string]bool{"tasks": true, "readiness": true})})
}

func (c *Cluster) oneRaw(id string, s state) answer {
	for _, raw := range s.raws {
		if raw.id != "" && withSlash(raw.id) == id {
			return list(object{"app": raw.body})
		}
	}
	return message(http.StatusNotFound, "App '%s' does not exist", id)
}

func (c *Cluster) allTasks(req *http.Request, s state) answer {
	accept := req.Header.Get("Accept")
	wantsJSON := strings.Contains(accept, "application/json")
	if strings.Contains(accept, "text/plain") && !wantsJSON || c.v < 100 && !wantsJSON {
		if c.v >= 110 {
			return answer{status: http.StatusNotAcceptable}
		}
		a := all(c.text(s))
		a.header = http.Header{"Content-Type": {"text/plain"}}
		return a
	}
	states := slices.Concat(req.URL.Query()["status"], req.URL.Query()["status[]"])
	running, staging := slices.Contains(states, "running"), slices.Contains(states, "staging")
	tasks := make([]any, 0, len(s.tasks))
	for _, t := range s.tasks {
		if running && t.State == "TASK_RUNNING" || staging && t.State == "TASK_STAGING" || !running && !staging {
			// The service ports are those of the current definition, whatever version the task runs.
			tasks = append(tasks, c.v.task(t, s.apps[t.AppID].current().servicePorts()))
		}
	}
	return all(object{"tasks": tasks})
}

// text is the form of /v2/tasks for shell scripts: a line per service port, only running tasks, health ignored.
func (c *Cluster) text(s state) string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(s.apps)) {
		ports := s.apps[id].current().servicePorts()
		if len(ports) == 0 {
			b.WriteString(safeID(id) + "\t \t")
			for _, t := range s.tasks {
				if t.AppID == id && t.State == "TASK_RUNNING" {
					b.WriteString(t.Host + " ")
				}
			}
			b.WriteString("\n")
		}
		for i, port := range ports {
			fmt.Fprintf(&b, "%s\t%d\t", safeID(id), port)
			for _, t := range s.tasks {
				if t.AppID == id && t.State == "TASK_RUNNING" {
					fmt.Fprintf(&b, "%s:%d\t", t.Host, at(t.Ports, i))
				}
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// at gives 0 for a port that is missing, as the text form does.
func at(ports []int, i int) int {
	if i < len(ports) {
		return ports[i]
	}
	return 0
}
