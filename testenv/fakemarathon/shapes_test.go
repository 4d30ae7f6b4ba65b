package fakemarathon

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestTaskKeysByRelease(t *testing.T) {
	const old = "appId healthCheckResults host id ports "
	tests := []struct {
		gen        Generation
		task, idle string // keys of a running, checked task and of one that is not up
		health     string
	}{
		{"0.8", old + "servicePorts stagedAt startedAt version",
			"appId host id ports servicePorts stagedAt startedAt version",
			"alive consecutiveFailures firstSuccess lastFailure lastSuccess taskId"},
		{GenA, old + "servicePorts slaveId stagedAt startedAt version",
			"appId host id ports servicePorts slaveId stagedAt startedAt version",
			"alive consecutiveFailures firstSuccess lastFailure lastSuccess taskId"},
		{GenB, "appId healthCheckResults host id ipAddresses ports servicePorts slaveId stagedAt startedAt state version",
			"appId host id ipAddresses ports servicePorts slaveId stagedAt startedAt state version",
			"alive consecutiveFailures firstSuccess lastFailure lastFailureCause lastSuccess taskId"},
		{GenC, "appId healthCheckResults host id ipAddresses ports servicePorts slaveId stagedAt startedAt state version",
			"appId host id ipAddresses ports servicePorts slaveId stagedAt startedAt state version",
			"alive consecutiveFailures firstSuccess instanceId lastFailure lastFailureCause lastSuccess"},
		{GenD, "appId healthCheckResults host id ipAddresses localVolumes ports region role servicePorts slaveId stagedAt startedAt state version zone",
			"appId healthCheckResults host id ipAddresses localVolumes ports region role servicePorts slaveId stagedAt state version zone",
			"alive consecutiveFailures firstSuccess instanceId lastSuccess"},
	}
	for _, tt := range tests {
		t.Run(string(tt.gen), func(t *testing.T) {
			c, r := start(t, tt.gen)
			c.PutApp(App{ID: "shop/cart", Mode: Bridge, HealthChecks: 1, Ports: []PortMapping{{ContainerPort: 80, ServicePort: 8300}}})
			task := c.AddTask("/shop/cart", Task{})
			c.SetHealth(task.ID, true)
			c.AddTask("/shop/cart", Task{State: "TASK_STAGING"})
			tasks := getJSON(t, r[0].URL()+"/v2/tasks")["tasks"].([]any)
			running := tasks[0].(object)
			result := running["healthCheckResults"].([]any)[0].(object)
			for _, check := range []struct{ got, want string }{{keys(running), tt.task}, {keys(tasks[1].(object)), tt.idle}, {keys(result), tt.health}} {
				if check.got != check.want {
					t.Errorf("keys\n%s, want\n%s", check.got, check.want)
				}
			}
		})
	}
}

func keys(o object) string { return strings.Join(slices.Sorted(maps.Keys(o)), " ") }

func TestPortsAndModeByRelease(t *testing.T) {
	none := 0
	host := App{ID: "/h", Ports: []PortMapping{{ServicePort: 8300, Protocol: "udp,tcp", Name: "api"}}}
	bridge := App{ID: "/b", Mode: Bridge, Ports: []PortMapping{{ContainerPort: 80, ServicePort: 8301}, {ContainerPort: 81, ServicePort: 8302}}}
	user := App{ID: "/u", Mode: Container, Ports: []PortMapping{{ContainerPort: 80, ServicePort: 8303}, {ContainerPort: 81, HostPort: &none, ServicePort: 8304}}}
	const plain = `[{"containerPort":80,"hostPort":0,"protocol":"tcp","servicePort":8301},{"containerPort":81,"hostPort":0,"protocol":"tcp","servicePort":8302}]`
	const labelled = `[{"containerPort":80,"hostPort":0,"labels":{},"protocol":"tcp","servicePort":8301},{"containerPort":81,"hostPort":0,"labels":{},"protocol":"tcp","servicePort":8302}]`
	const mixed = `[{"containerPort":80,"labels":{},"protocol":"tcp","servicePort":8303},{"containerPort":81,"hostPort":0,"labels":{},"protocol":"tcp","servicePort":8304}]`
	const defs = `[{"labels":{},"name":"api","port":8300,"protocol":"udp,tcp"}]`
	tests := []struct {
		name string
		gen  Generation
		app  App
		want object // nil: the key must be missing
	}{
		{"host before definitions", "1.0", host, object{"ports": `[8300]`, "portDefinitions": nil, "container": `null`}},
		{"host with both", "1.4", host, object{"ports": `[8300]`, "portDefinitions": defs, "networks": nil}},
		{"host with networks", "1.5", host, object{"ports": nil, "portDefinitions": defs, "networks": `[{"mode":"host"}]`, "container": nil}},
		{"bridge before definitions", GenA, bridge, object{"ports": `[8301,8302]`, "network": `"BRIDGE"`, "docker.portMappings": plain, "networks": nil}},
		{"bridge has a definition nobody asked for", GenB, bridge,
			object{"portDefinitions": `[{"labels":{},"port":8301,"protocol":"tcp"}]`, "docker.portMappings": labelled}},
		{"bridge with networks", GenD, bridge, object{"ports": nil, "portDefinitions": nil, "portMappings": labelled, "networks": `[{"mode":"container/bridge"}]`}},
		{"user network", "1.4", user, object{"ports": `[]`, "portDefinitions": `[]`, "network": `"USER"`, "docker.portMappings": mixed}},
		{"container network", GenD, user, object{"portMappings": mixed, "networks": `[{"mode":"container","name":"overlay"}]`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, r := start(t, tt.gen)
			c.PutApp(tt.app)
			app := getJSON(t, r[0].URL()+"/v2/apps/"+tt.app.ID)["app"].(object)
			container, _ := app["container"].(object)
			docker, _ := container["docker"].(object)
			got := object{}
			for name, o := range map[string]object{"ports": app, "portDefinitions": app, "networks": app, "container": app, "portMappings": container, "network": docker} {
				got[name] = text(o, name)
			}
			got["docker.portMappings"] = text(docker, "portMappings")
			for name, want := range tt.want {
				if got[name] != want {
					t.Errorf("%s: got %v, want %v", name, got[name], want)
				}
			}
		})
	}
}

// text is a value's JSON, nil where the key is missing.
func text(o object, key string) any {
	value, ok := o[key]
	if !ok {
		return nil
	}
	b, _ := json.Marshal(value)
	return string(b)
}

func TestTaskPortsFollowTheMappingsThatHaveAHostPort(t *testing.T) {
	dynamic, fixed := 0, 4000
	tests := []struct {
		name string
		app  App
		want []int
	}{
		{"host", App{Ports: []PortMapping{{ServicePort: 1}, {ServicePort: 2}}}, []int{31000, 31001}},
		{"host, required", App{RequirePorts: true, Ports: []PortMapping{{ServicePort: 8300}}}, []int{8300}},
		{"bridge", App{Mode: Bridge, Ports: []PortMapping{{}, {HostPort: &fixed}, {HostPort: &dynamic}}}, []int{31000, 4000, 31001}},
		{"container", App{Mode: Container, Ports: []PortMapping{{}, {HostPort: &dynamic}}}, []int{31000}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := New(GenD)
			defer c.Close()
			tt.app.ID = "/a"
			c.PutApp(tt.app)
			if got := c.AddTask("/a", Task{}).Ports; !slices.Equal(got, tt.want) {
				t.Errorf("ports %v, want %v", got, tt.want)
			}
		})
	}
}

func TestIDsByRelease(t *testing.T) {
	tests := map[Generation]string{
		GenB: "a_b.00000002-5eed-11e5-8a3c-0242ac110002 a_b.marathon-00000002-5eed-11e5-8a3c-0242ac110002",
		GenD: "a_b.instance-00000002-5eed-11e5-8a3c-0242ac110002._app.1 a_b.instance-00000002-5eed-11e5-8a3c-0242ac110002",
	}
	for gen, want := range tests {
		c := New(gen)
		c.PutApp(App{ID: "/a/b"})
		task := c.AddTask("/a/b", Task{})
		if got := task.ID + " " + instanceID(task.ID); got != want {
			t.Errorf("%s: %s, want %s", gen, got, want)
		}
	}
}

func TestVersionsAndScaling(t *testing.T) {
	c, r := start(t, GenD)
	old := c.PutApp(App{ID: "/a", Ports: []PortMapping{{ServicePort: 8300}}})
	scaled := c.PutApp(App{ID: "/a", Ports: []PortMapping{{ServicePort: 8300}}, Instances: 2})
	info := func() any { return getJSON(t, r[0].URL()+"/v2/apps/a")["app"].(object)["versionInfo"] }
	if got, want := mustJSON(info()), mustJSON(object{"lastConfigChangeAt": old, "lastScalingAt": scaled}); got != want {
		t.Errorf("after scaling %s, want %s", got, want)
	}
	moved := c.PutApp(App{ID: "/a", Ports: []PortMapping{{ServicePort: 8400}}})
	if got, want := mustJSON(info()), mustJSON(object{"lastConfigChangeAt": moved, "lastScalingAt": moved}); got != want {
		t.Errorf("after a change %s, want %s", got, want)
	}
	task := c.AddTask("/a", Task{Version: old})
	shown := getJSON(t, r[0].URL()+"/v2/tasks")["tasks"].([]any)[0].(object)
	if got := text(shown, "servicePorts"); task.Version != old || got != "[8400]" {
		t.Errorf("an old task shows service ports %v, want those of the current definition", got)
	}
	if got := text(getJSON(t, r[0].URL()+"/v2/apps//a/versions/"+old), "portDefinitions"); got != `[{"labels":{},"port":8300,"protocol":"tcp"}]` {
		t.Errorf("old definition %v", got)
	}
	c.SetFaults(func(f *Faults) { f.NoVersions = true })
	if resp, body := get(t, r[0].URL()+"/v2/apps//a/versions/"+old, "application/json"); resp.StatusCode != 404 {
		t.Errorf("pruned version: %s %s", resp.Status, body)
	}
}

func TestReadinessShowsDuringTheDeploymentOnly(t *testing.T) {
	c, r := start(t, GenD)
	c.PutApp(App{ID: "/a", Instances: 1, ReadinessChecks: 1})
	notYet := false
	task := c.AddTask("/a", Task{Ready: &notYet})
	read := func() string {
		app := getJSON(t, r[0].URL()+"/v2/apps?embed=apps.tasks&embed=apps.readiness")["apps"].([]any)[0].(object)
		return mustJSON([]any{len(app["deployments"].([]any)), app["readinessCheckResults"]})
	}
	if got, want := read(), `[1,[{"name":"ready0","ready":false,"taskId":"`+task.ID+`"}]]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	c.SetReady(task.ID, true)
	if got, want := read(), `[0,[]]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestTextFormListsRunningTasksByServicePort(t *testing.T) {
	c, r := start(t, GenC)
	c.PutApp(App{ID: "/a/b", Ports: []PortMapping{{ServicePort: 8300}, {ServicePort: 8301}}})
	c.AddTask("/a/b", Task{Host: "h1"})
	c.AddTask("/a/b", Task{Host: "h2"})
	c.AddTask("/a/b", Task{Host: "h3", State: "TASK_STAGING"})
	_, body := get(t, r[0].URL()+"/v2/tasks", "text/plain")
	if want := "a_b\t8300\th1:31000\th2:31002\t\na_b\t8301\th1:31001\th2:31003\t\n"; body != want {
		t.Errorf("got\n%swant\n%s", body, want)
	}
}
