package marathon

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// app is one entry of the answer to GET /v2/apps: the current definition, and the tasks of it and of older versions.
type app struct {
	definition
	VersionInfo struct {
		// LastConfigChangeAt is the version since which only the number of instances changed; empty before 0.11.
		LastConfigChangeAt string `json:"lastConfigChangeAt"`
	} `json:"versionInfo"`
	Readiness []readiness `json:"readinessCheckResults"`
	Instances *float64    `json:"instances"` // how many tasks are wanted; nil where the answer does not say

	tasks  []task
	untold bool // the answer said nothing of tasks
	// bad names the tasks that could not be read.
	bad []catalog.Problem
}

// definition is what an app, or one version of it, asks for. The three shapes of ports and networks are those of
// Marathon up to 1.0, up to 1.4 and from 1.5 on.
type definition struct {
	ID              string           `json:"id"`
	Version         string           `json:"version"`
	Ports           []int            `json:"ports"`
	PortDefinitions []portDefinition `json:"portDefinitions"`
	Container       *container       `json:"container"`
	Networks        []network        `json:"networks"`
	IPAddress       presence         `json:"ipAddress"`
	HealthChecks    []healthCheck    `json:"healthChecks"`
	ReadinessChecks []presence       `json:"readinessChecks"`
	Labels          map[string]label `json:"labels"`
}

type portDefinition struct {
	Port     int    `json:"port"`
	Protocol string `json:"protocol"`
}

type container struct {
	PortMappings []portMapping `json:"portMappings"`
	Docker       *struct {
		Network      string        `json:"network"`
		PortMappings []portMapping `json:"portMappings"`
	} `json:"docker"`
}

type portMapping struct {
	ContainerPort int    `json:"containerPort"`
	HostPort      *int   `json:"hostPort"` // nil: in container mode the port is not on the host
	ServicePort   int    `json:"servicePort"`
	Protocol      string `json:"protocol"`
}

type network struct {
	Mode string `json:"mode"`
}

type readiness struct {
	TaskID string `json:"taskId"`
	Ready  *bool  `json:"ready"`
}

type task struct {
	ID        string    `json:"id"`
	Host      string    `json:"host"`
	Ports     []int     `json:"ports"`
	State     string    `json:"state"` // empty before 1.1.2, which never tells it
	StartedAt presence  `json:"startedAt"`
	Version   string    `json:"version"`
	Addresses []address `json:"ipAddresses"`
	// Results may be null and may hold null, on tasks that flap.
	Results []result `json:"healthCheckResults"`
}

type address struct {
	IPAddress string `json:"ipAddress"`
}

type result struct {
	Alive verdict `json:"alive"`
}

// UnmarshalJSON takes true, false and null.
func (v *verdict) UnmarshalJSON(data []byte) error {
	var b *bool
	if err := json.Unmarshal(data, &b); err != nil {
		return err
	}
	switch {
	case b == nil:
		*v = silent
	case *b:
		*v = well
	default:
		*v = sick
	}
	return nil
}

// presence tells a missing value from null and from any other. Old Marathons say "not started" by a startedAt of
// null, new ones leave the key out of tasks that run.
type presence uint8

const (
	absent presence = iota
	isNull
	present
)

// UnmarshalJSON takes any value.
func (p *presence) UnmarshalJSON(data []byte) error {
	*p = present
	if string(data) == "null" {
		*p = isNull
	}
	return nil
}

// healthCheck is a check that Marathon or Mesos runs.
type healthCheck struct {
	defined         bool
	grace, interval time.Duration
}

// UnmarshalJSON takes any value; null is no check.
func (c *healthCheck) UnmarshalJSON(data []byte) error {
	var times struct {
		Grace    float64 `json:"gracePeriodSeconds"`
		Interval float64 `json:"intervalSeconds"`
	}
	c.defined = string(data) != "null"
	if err := json.Unmarshal(data, &times); err == nil {
		c.grace, c.interval = seconds(times.Grace), seconds(times.Interval)
	}
	return nil
}

// seconds gives at most an hour: nobody means more.
func seconds(s float64) time.Duration {
	return time.Duration(max(0, min(s, 3600)) * float64(time.Second))
}

// label is a label's value. Marathon stores strings, but clusters hold numbers and booleans as well.
type label string

// UnmarshalJSON takes any value: what is not a string stays as it was written.
func (l *label) UnmarshalJSON(data []byte) error {
	var s *string
	switch err := json.Unmarshal(data, &s); {
	case err != nil:
		*l = label(data)
	case s == nil:
		*l = ""
	default:
		*l = label(*s)
	}
	return nil
}

// parseApps reads the answer to GET /v2/apps. An app or a task that cannot be read costs only itself and a Problem; an
// error means that the whole answer is none: no JSON, or no list of apps.
func parseApps(data []byte) ([]app, []catalog.Problem, error) {
	var plain struct {
		Apps *[]struct {
			app
			Tasks *[]task `json:"tasks"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(data, &plain); err != nil {
		return parseEach(data)
	}
	if plain.Apps == nil {
		return nil, nil, errNoApps
	}
	apps := make([]app, 0, len(*plain.Apps))
	for _, p := range *plain.Apps {
		p.app.untold = p.Tasks == nil
		if p.Tasks != nil {
			p.app.tasks = *p.Tasks
		}
		apps = append(apps, p.app)
	}
	apps, problems := namedApps(apps)
	texts{}.share(apps)
	return apps, problems, nil
}

var errNoApps = errors.New(`the answer has no "apps"`)

// parseEach reads the same answer entry by entry, which takes several times as long, to find those that are malformed.
func parseEach(data []byte) ([]app, []catalog.Problem, error) {
	var answer map[string]json.RawMessage
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, nil, notJSON(err)
	}
	var entries []json.RawMessage
	if err := json.Unmarshal(answer["apps"], &entries); err != nil || entries == nil {
		return nil, nil, errNoApps
	}
	var apps []app
	var bad []catalog.Problem
	for i, raw := range entries {
		a, err := parseApp(raw)
		if err != nil {
			bad = append(bad, problem(identify(raw, fmt.Sprintf("apps[%d]", i)), typeError(err)))
			continue
		}
		apps = append(apps, a)
	}
	apps, problems := namedApps(apps)
	texts{}.share(apps)
	return apps, append(bad, problems...), nil
}

// texts shares equal strings. Tens of thousands of tasks have one of a few hosts, states and versions, and each copy of those is
// memory that the garbage collector walks through again and again.
type texts map[string]string

func (t texts) share(apps []app) {
	for _, a := range apps {
		for i := range a.tasks {
			task := &a.tasks[i]
			task.Host, task.State, task.Version = t.one(task.Host), t.one(task.State), t.one(task.Version)
			for j := range task.Addresses {
				task.Addresses[j].IPAddress = t.one(task.Addresses[j].IPAddress)
			}
		}
	}
}

func (t texts) one(s string) string {
	if known, ok := t[s]; ok {
		return known
	}
	t[s] = s
	return s
}

func parseApp(raw []byte) (app, error) {
	var entry struct {
		app
		Tasks []json.RawMessage `json:"tasks"`
	}
	if err := json.Unmarshal(raw, &entry); err != nil {
		return app{}, err
	}
	a := entry.app
	a.untold = entry.Tasks == nil
	for i, raw := range entry.Tasks {
		var t task
		if err := json.Unmarshal(raw, &t); err != nil {
			subject := identify(raw, fmt.Sprintf("%s tasks[%d]", a.ID, i))
			a.bad = append(a.bad, problem(subject, typeError(err)))
			continue
		}
		a.tasks = append(a.tasks, t)
	}
	return a, nil
}

// parseOne reads the answer to GET /v2/apps/{id}.
func parseOne(data []byte, id string) (app, error) {
	var answer struct {
		App json.RawMessage `json:"app"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return app{}, notJSON(err)
	}
	if answer.App == nil {
		return app{}, errors.New(`the answer has no "app"`)
	}
	a, err := parseApp(answer.App)
	if err != nil {
		return app{}, errors.New(typeError(err))
	}
	if a.ID != id {
		return app{}, fmt.Errorf("the answer is app %.100q, not %.100q", a.ID, id)
	}
	if a.untold {
		return app{}, errors.New("the answer does not tell the app's tasks")
	}
	return a, nil
}

// namedApps leaves out what has no usable id or repeats one.
func namedApps(apps []app) ([]app, []catalog.Problem) {
	var problems []catalog.Problem
	seen := make(map[string]bool, len(apps))
	named := apps[:0]
	for _, a := range apps {
		switch {
		case serviceName(a.ID) == "":
			problems = append(problems, problem("an app", fmt.Sprintf("its id %.100q names nothing", a.ID)))
		case seen[a.ID]:
			problems = append(problems, problem(a.ID, "the app is listed twice; the first one is used"))
		default:
			seen[a.ID] = true
			named = append(named, a)
		}
	}
	return named, problems
}

// parseDefinition reads the answer to GET /v2/apps/{id}/versions/{version}.
func parseDefinition(data []byte) (definition, error) {
	var d *definition
	if err := json.Unmarshal(data, &d); err != nil {
		return definition{}, errors.New(typeError(err))
	}
	if d == nil || d.ID == "" {
		return definition{}, errors.New("the answer is no app definition")
	}
	return *d, nil
}

// identify gives the id of an entry whose other fields may be malformed.
func identify(raw []byte, otherwise string) string {
	var entry struct {
		ID label `json:"id"`
	}
	if err := json.Unmarshal(raw, &entry); err != nil || entry.ID == "" {
		return otherwise
	}
	return string(entry.ID)
}

// typeError says what is wrong with an entry without naming Go's types.
func typeError(err error) string {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		if wrong.Field == "" {
			return fmt.Sprintf("a JSON object is wanted, not a %.40s", wrong.Value)
		}
		// The path begins with the structs that app embeds.
		field := strings.TrimPrefix(strings.TrimPrefix(wrong.Field, "app."), "definition.")
		return fmt.Sprintf("%.100s cannot be of type %.40s", field, wrong.Value)
	}
	return notJSON(err).Error()
}

func notJSON(err error) error {
	return fmt.Errorf("the answer is not the JSON that is wanted: %w", err)
}

func problem(subject, reason string) catalog.Problem {
	return catalog.Problem{Source: Name, Subject: clean(subject), Reason: clean(reason)}
}
