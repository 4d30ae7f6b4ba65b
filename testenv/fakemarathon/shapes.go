package fakemarathon

import (
	"encoding/json"
	"fmt"
)

// object is a JSON object to be.
type object = map[string]any

func mustJSON(v any) string {
	if text, ok := v.(rendered); ok {
		return string(text)
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("fake Marathon: injected JSON is not valid: %v", err))
	}
	return string(b)
}

// definition renders one version of an app without anything about its tasks.
func (v release) definition(d definition, a appState) object {
	checks := make([]any, 0, d.HealthChecks)
	for range d.HealthChecks {
		checks = append(checks, v.healthCheck(d))
	}
	labels := d.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	o := object{"id": d.ID, "cmd": "sleep 3600", "args": nil, "env": object{}, "instances": d.Instances, "cpus": 0.1, "mem": 64.0, "disk": 0.0,
		"constraints": []any{}, "labels": labels, "healthChecks": checks, "requirePorts": d.RequirePorts, "dependencies": []any{},
		"upgradeStrategy": object{"minimumHealthCapacity": 1.0, "maximumOverCapacity": 1.0}, "version": d.version}
	if v >= 11 {
		o["versionInfo"] = object{"lastScalingAt": a.lastScaling, "lastConfigChangeAt": a.lastConfig}
	}
	if v >= 100 {
		readiness := make([]any, 0, d.ReadinessChecks)
		for i := range d.ReadinessChecks {
			readiness = append(readiness, object{"name": fmt.Sprintf("ready%d", i), "protocol": "HTTP", "path": "/ready", "portName": "http-api",
				"intervalSeconds": 30, "timeoutSeconds": 10, "httpStatusCodesForReady": []int{200}, "preserveLastResponse": false})
		}
		o["readinessChecks"] = readiness
	}
	if v >= 104 {
		o["unreachableStrategy"] = object{"inactiveAfterSeconds": 300, "expungeAfterSeconds": 600}
	}
	v.network(o, d)
	return o
}

func (v release) healthCheck(d definition) object {
	protocol := "HTTP"
	if d.MesosChecks {
		protocol = "MESOS_HTTP"
	}
	return object{"protocol": protocol, "path": "/health", "portIndex": 0, "gracePeriodSeconds": 300, "intervalSeconds": 60,
		"timeoutSeconds": 20, "maxConsecutiveFailures": 3, "ignoreHttp1xx": false}
}

// network adds the ports and the mode, which stand in three different places over the releases.
func (v release) network(o object, d definition) {
	if v >= 105 {
		v.networks(o, d)
		return
	}
	o["container"], o["ipAddress"] = nil, nil
	ports := d.servicePorts()
	switch {
	case d.Mode == Bridge:
		o["container"] = v.docker(d, "BRIDGE")
	case d.Mode == Container && v >= 101:
		o["container"], ports = v.docker(d, "USER"), []int{}
		o["ipAddress"] = object{"groups": []any{}, "labels": object{}, "discovery": object{"ports": []any{}}, "networkName": "overlay"}
	case d.Mode == Container:
		discovery := make([]any, 0, len(d.Ports))
		for _, p := range d.Ports {
			discovery = append(discovery, object{"number": p.ContainerPort, "name": p.Name, "protocol": p.Protocol})
		}
		o["ipAddress"], ports = object{"groups": []any{}, "labels": object{}, "discovery": object{"ports": discovery}}, []int{}
	}
	o["ports"] = ports
	if v < 101 {
		return
	}
	defs := portDefinitions(d)
	if d.Mode == Bridge && len(defs) > 0 {
		// A default definition that nobody asked for takes the first mapping's service port.
		defs = []any{object{"port": ports[0], "protocol": "tcp", "labels": object{}}}
	}
	if d.Mode == Container {
		defs = []any{}
	}
	o["portDefinitions"] = defs
}

func (v release) networks(o object, d definition) {
	switch d.Mode {
	case Bridge:
		o["networks"] = []any{object{"mode": "container/bridge"}}
	case Container:
		o["networks"] = []any{object{"mode": "container", "name": "overlay"}}
	default:
		o["networks"], o["portDefinitions"] = []any{object{"mode": "host"}}, portDefinitions(d)
		return
	}
	o["container"] = object{"type": "DOCKER", "docker": object{"image": "example/image:1", "forcePullImage": false, "privileged": false, "parameters": []any{}},
		"volumes": []any{}, "portMappings": v.portMappings(d)}
}

func (v release) docker(d definition, network string) object {
	return object{"type": "DOCKER", "volumes": []any{}, "docker": object{"image": "example/image:1", "network": network,
		"portMappings": v.portMappings(d), "privileged": false, "parameters": []any{}, "forcePullImage": false}}
}

func portDefinitions(d definition) []any {
	defs := make([]any, 0, len(d.Ports))
	for _, p := range d.Ports {
		o := object{"port": p.ServicePort, "protocol": p.Protocol, "labels": orEmpty(p.Labels)}
		if p.Name != "" {
			o["name"] = p.Name
		}
		defs = append(defs, o)
	}
	return defs
}

func (v release) portMappings(d definition) []any {
	mappings := make([]any, 0, len(d.Ports))
	for _, p := range d.Ports {
		o := object{"containerPort": p.ContainerPort, "servicePort": p.ServicePort, "protocol": p.Protocol}
		switch {
		case p.HostPort != nil:
			o["hostPort"] = *p.HostPort
		case d.Mode == Bridge:
			o["hostPort"] = 0
		}
		if v >= 101 {
			o["labels"] = orEmpty(p.Labels)
			if p.Name != "" {
				o["name"] = p.Name
			}
		}
		mappings = append(mappings, o)
	}
	return mappings
}

func orEmpty(labels map[string]string) map[string]string {
	if labels == nil {
		return map[string]string{}
	}
	return labels
}

// task renders a task; servicePorts is nil where the answer has none (embedded ones, and one app's list).
func (v release) task(t Task, servicePorts []int) any {
	if t.Raw != nil {
		return t.Raw
	}
	o := object{"id": t.ID, "appId": t.AppID, "host": t.Host, "ports": t.Ports, "version": t.Version, "stagedAt": orNull(t.staged), "startedAt": orNull(t.started)}
	if v >= 106 && t.started == "" {
		delete(o, "startedAt")
	}
	if v >= 11 {
		o["slaveId"] = "20150602-090000-16777343-5050-1-S0"
	}
	if v >= 101 {
		o["state"] = t.State
	}
	if len(t.IPs) > 0 && v >= 14 || v >= 106 || v == 14 || v == 15 {
		o["ipAddresses"] = addresses(t)
	}
	if len(servicePorts) > 0 || v >= 106 {
		o["servicePorts"] = append([]int{}, servicePorts...)
	}
	if len(t.Health) > 0 || v >= 106 {
		o["healthCheckResults"] = v.results(t)
	}
	if v >= 106 {
		o["localVolumes"], o["region"], o["zone"], o["role"] = []any{}, "default", "default", "*"
	}
	return o
}

func (v release) results(t Task) []any {
	results := make([]any, 0, len(t.Health))
	for _, alive := range t.Health {
		o := object{"alive": alive, "consecutiveFailures": 0, v.healthID(): v.healthTask(t)}
		success, failure := any(t.staged), any(nil)
		if !alive {
			o["consecutiveFailures"], success, failure = 1, nil, t.staged
		}
		o["firstSuccess"], o["lastSuccess"], o["lastFailure"] = success, success, failure
		if v >= 100 {
			o["lastFailureCause"] = nil
		}
		if v >= 106 {
			dropNulls(o)
		}
		results = append(results, o)
	}
	return results
}

// healthID is the key under which health results and events name their task.
func (v release) healthID() string {
	if v >= 104 {
		return "instanceId"
	}
	return "taskId"
}

func (v release) healthTask(t Task) string {
	if v >= 104 {
		return instanceID(t.ID)
	}
	return t.ID
}

func addresses(t Task) []any {
	list := make([]any, 0, len(t.IPs))
	for _, ip := range t.IPs {
		list = append(list, object{"ipAddress": ip, "protocol": "IPv4"})
	}
	return list
}

func dropNulls(o object) {
	for k, value := range o {
		if value == nil {
			delete(o, k)
		}
	}
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}
