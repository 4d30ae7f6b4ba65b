// Package fakemarathon is a Marathon for tests and demos: it serves the HTTP interface of a chosen release, with the
// JSON shapes, headers, event frames and weaknesses of that release, over state that a test changes step by step.
//
// No task runs anywhere: AddTask only says that one does.
package fakemarathon

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Generation is a Marathon release as "major.minor", such as "1.4". Shapes and behaviour follow it.
type Generation string

// A typical release of each generation of shapes: 0.7-0.15, 1.0-1.3, 1.4-1.5 and 1.6-1.10.
const (
	GenA Generation = "0.11"
	GenB Generation = "1.3"
	GenC Generation = "1.5"
	GenD Generation = "1.8"
)

// ParseGeneration reads a letter of A to D or a release such as "1.4".
func ParseGeneration(s string) (Generation, error) {
	letters := map[string]Generation{"A": GenA, "B": GenB, "C": GenC, "D": GenD}
	if g, ok := letters[strings.ToUpper(s)]; ok {
		return g, nil
	}
	_, err := Generation(s).release()
	return Generation(s), err
}

// release is 100*major + minor.
type release int

func (g Generation) release() (release, error) {
	var major, minor int
	if _, err := fmt.Sscanf(string(g), "%d.%d", &major, &minor); err != nil || major < 0 || major > 1 || minor < 0 {
		return 0, fmt.Errorf("release %q of Marathon: want A, B, C, D or one of 0.7 to 1.10", g)
	}
	return release(100*major + minor), nil
}

// Mode is how an app's tasks are attached to the network. The zero value means Host.
type Mode string

// The network modes.
const (
	Host      Mode = "host"
	Bridge    Mode = "bridge"
	Container Mode = "container"
)

// App is what a user asks Marathon to run. It is rendered in the shape of the cluster's release.
type App struct {
	ID              string            `json:"id"` // a leading slash is added where it is missing
	Mode            Mode              `json:"mode,omitempty"`
	Ports           []PortMapping     `json:"ports,omitempty"`
	HealthChecks    int               `json:"healthChecks,omitempty"`    // how many checks are defined
	MesosChecks     bool              `json:"mesosChecks,omitempty"`     // Mesos runs them: results outlive a failover
	ReadinessChecks int               `json:"readinessChecks,omitempty"` // how many are defined; Marathon 1.0 and later
	Labels          map[string]string `json:"labels,omitempty"`
	RequirePorts    bool              `json:"requirePorts,omitempty"` // host ports equal service ports in host mode
	Instances       int               `json:"instances,omitempty"`    // a deployment lasts until so many tasks are up
}

// PortMapping is one port of an app.
type PortMapping struct {
	ContainerPort int               `json:"containerPort,omitempty"`
	HostPort      *int              `json:"hostPort,omitempty"`    // nil: dynamic in host and bridge mode, none in container mode
	ServicePort   int               `json:"servicePort,omitempty"` // 0: a free one of 10000 and up is given, where the release would
	Protocol      string            `json:"protocol,omitempty"`    // "tcp" if empty
	Name          string            `json:"name,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
}

// Task is a running (or dying) copy of an app. AddTask fills what is empty.
type Task struct {
	ID      string          `json:"id,omitempty"`
	AppID   string          `json:"appId,omitempty"`
	Host    string          `json:"host,omitempty"`    // the agent; 127.0.0.1 if empty
	Ports   []int           `json:"ports,omitempty"`   // host ports; nil: as the definition asks, dynamic ones from 31000 up
	IPs     []string        `json:"ips,omitempty"`     // the container's own addresses
	State   string          `json:"state,omitempty"`   // TASK_RUNNING if empty
	Version string          `json:"version,omitempty"` // of the definition it runs; the current one if empty
	Health  []bool          `json:"health,omitempty"`  // alive or not, one per check that has a result
	Ready   *bool           `json:"ready,omitempty"`   // readiness check result; nil: none
	Raw     json.RawMessage `json:"-"`                 // served instead of everything above, to inject odd entries

	staged, started string
	lost            []bool // results before the last failover
}

// definition is one version of an app.
type definition struct {
	App
	version string
}

type appState struct {
	versions    []definition // oldest first, the last is the current one
	lastScaling string
	lastConfig  string
	deployment  string // id of the one under way
}

func (a appState) current() definition { return a.versions[len(a.versions)-1] }

func (a appState) find(version string) (definition, bool) {
	i := slices.IndexFunc(a.versions, func(d definition) bool { return d.version == version })
	if i < 0 {
		return definition{}, false
	}
	return a.versions[i], true
}

type rawApp struct {
	id   string
	body json.RawMessage
}

func (d definition) servicePorts() []int {
	ports := make([]int, 0, len(d.Ports))
	for _, p := range d.Ports {
		ports = append(ports, p.ServicePort)
	}
	return ports
}

// hasHostPort reports whether a task gets a port of its agent for the mapping.
func (d definition) hasHostPort(p PortMapping) bool { return d.Mode != Container || p.HostPort != nil }

func safeID(appID string) string { return strings.ReplaceAll(strings.TrimPrefix(appID, "/"), "/", "_") }

func withSlash(id string) string { return "/" + strings.TrimLeft(id, "/") }

// instanceID is the instance that a task belongs to: "X.<uuid>" is X.marathon-<uuid>, "I._app.1" is I.
func instanceID(taskID string) string {
	if instance, _, ok := strings.Cut(taskID, "._app"); ok {
		return instance
	}
	i := strings.LastIndexByte(taskID, '.')
	return taskID[:i+1] + "marathon-" + taskID[i+1:]
}

func terminal(state string) bool {
	switch state {
	case "TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR", "TASK_LOST", "TASK_GONE", "TASK_GONE_BY_OPERATOR", "TASK_DROPPED":
		return true
	}
	return false
}
