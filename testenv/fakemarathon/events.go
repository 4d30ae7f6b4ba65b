package fakemarathon

import (
	"strings"
)

// Emit sends an event of any type to all streams and callbacks; the type and the time are added to the payload.
func (c *Cluster) Emit(event string, payload map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.emit(event, payload)
}

// WriteStreams writes bytes as they are to all open streams: broken frames, two objects on one line.
func (c *Cluster) WriteStreams(frame string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enqueue(func(*stream) []byte { return []byte(frame) })
}

// SetPlanSize makes the heavy plan of each later deployment event so many bytes long. Light plans stay small.
func (c *Cluster) SetPlanSize(bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.planSize = bytes
}

func (c *Cluster) emit(event string, payload object) {
	full := object{"eventType": event, "timestamp": c.now()}
	for k, value := range payload {
		full[k] = value
	}
	heavy := mustJSON(full)
	light := heavy
	if plan, ok := full["plan"].(object); ok {
		full["plan"] = object{"id": plan["id"], "steps": plan["steps"], "version": plan["version"]}
		light = mustJSON(full)
	}
	c.enqueue(func(s *stream) []byte {
		switch {
		case s.types != nil && !s.types[event]:
			return nil
		case s.light:
			return s.frame(event, light)
		default:
			return s.frame(event, heavy)
		}
	})
	c.post(heavy)
}

func (s *stream) frame(event, data string) []byte {
	if s.replica.cluster.v < 11 {
		return []byte("data: " + data + "\r\n\r\n")
	}
	return []byte("event: " + event + "\r\ndata: " + data + "\r\n\r\n")
}

// announce tells of a task's state.
func (c *Cluster) announce(t Task) {
	if c.v >= 104 {
		c.emit("instance_changed_event", object{"instanceId": instanceID(t.ID), "condition": condition(t.State), "runSpecId": t.AppID,
			"agentId": "S0", "host": t.Host, "runSpecVersion": t.Version})
	}
	if c.v <= 8 && t.State != "TASK_RUNNING" && !terminal(t.State) {
		return
	}
	o := object{"slaveId": "S0", "taskId": t.ID, "taskStatus": t.State, "message": "", "appId": t.AppID, "host": t.Host, "ports": t.Ports, "version": t.Version}
	if c.v >= 14 && t.State != "TASK_STAGING" {
		o["ipAddresses"] = addresses(t)
	}
	c.emit("status_update_event", o)
}

// condition is the word that instances have for a Mesos state: TASK_RUNNING is Running.
func condition(state string) string {
	var words strings.Builder
	for w := range strings.SplitSeq(strings.ToLower(strings.TrimPrefix(state, "TASK_")), "_") {
		words.WriteString(strings.ToUpper(w[:min(1, len(w))]) + w[min(1, len(w)):])
	}
	return words.String()
}

func (c *Cluster) healthChanged(t Task, alive bool) {
	c.emit("health_status_changed_event", object{"appId": t.AppID, c.v.healthID(): c.v.healthTask(t), "version": t.Version, "alive": alive})
	if a, ok := c.apps[t.AppID]; ok && c.v >= 104 && a.current().MesosChecks {
		c.emit("instance_health_changed_event", object{"instanceId": instanceID(t.ID), "runSpecId": t.AppID, "runSpecVersion": t.Version, "healthy": alive})
		c.announce(t) // such a result is a status update to Mesos, which Marathon passes on
	}
}

func (c *Cluster) condemn(t Task) {
	o := object{"appId": t.AppID, "taskId": t.ID, "version": t.Version, "reason": "health check failed", "host": t.Host, "slaveId": "S0"}
	event := "unhealthy_task_kill_event"
	if c.v >= 104 {
		event, o["instanceId"] = "unhealthy_instance_kill_event", instanceID(t.ID)
	}
	c.emit(event, o)
}

// groupChanged tells of a change of the tree of groups: each change of an app is one of its parent group too.
func (c *Cluster) groupChanged(id, version string) {
	c.emit("group_change_success", object{"groupId": parent(withSlash(id)), "version": version})
}

// settle ends an app's deployment when as many tasks as wanted are up, healthy and ready.
func (c *Cluster) settle(appID string) {
	a, ok := c.apps[appID]
	if !ok || a.deployment == "" {
		return
	}
	up := 0
	for _, t := range c.tasks {
		if t.AppID == appID && t.State == "TASK_RUNNING" && t.Version >= a.lastConfig && (t.Ready == nil || *t.Ready) &&
			(a.current().HealthChecks == 0 || anyTrue(t.Health)) {
			up++
		}
	}
	if up < a.current().Instances {
		return
	}
	plan := c.plan(appID)
	id := a.deployment
	a.deployment = ""
	c.apps[appID] = a
	c.emit("deployment_step_success", object{"plan": plan, "currentStep": c.step(appID)})
	c.emit("deployment_success", object{"id": id, "plan": plan})
}

// anyTrue is Marathon's own rule: a deployment goes on as soon as one check reports healthy.
func anyTrue(results []bool) bool {
	for _, alive := range results {
		if alive {
			return true
		}
	}
	return false
}

func (c *Cluster) plan(appID string) object {
	root := object{"id": "/", "apps": []any{}, "padding": strings.Repeat("x", c.planSize/2)}
	return object{"id": c.apps[appID].deployment, "version": c.now(), "steps": []any{c.step(appID)}, "original": root, "target": root}
}

func (c *Cluster) step(appID string) object {
	key := "type"
	if c.v >= 100 {
		key = "action"
	}
	return object{"actions": []any{object{key: "ScaleApplication", "app": appID}}}
}
