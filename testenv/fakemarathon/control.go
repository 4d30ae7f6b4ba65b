package fakemarathon

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Seed is an app with its tasks, as an apps file lists them.
type Seed struct {
	App
	Tasks []Task `json:"tasks"`
}

// Load adds the apps and tasks of a JSON list of Seed.
func (c *Cluster) Load(file []byte) error {
	var seeds []Seed
	if err := json.Unmarshal(file, &seeds); err != nil {
		return fmt.Errorf("apps: %w", err)
	}
	for _, s := range seeds {
		c.PutApp(s.App)
		for _, t := range s.Tasks {
			if _, err := c.addTask(s.ID, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// control is the interface for demos, on the same listener:
//
//	PUT    /fake/apps                App as JSON
//	DELETE /fake/apps/{id}
//	POST   /fake/apps/{id}/tasks     Task as JSON, or nothing; answers the task
//	PUT    /fake/tasks/{id}          {"state":"TASK_..."} or {"health":[true]}
//	DELETE /fake/tasks/{id}
//	PUT    /fake/faults              Faults as JSON; what is not named stays
//	POST   /fake/failover?to=1       then /fake/restore-health
func (c *Cluster) control(w http.ResponseWriter, req *http.Request) {
	body, err := c.do(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintln(w, mustJSON(body))
}

func (c *Cluster) do(req *http.Request) (any, error) {
	what, id, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/fake/"), "/")
	appID, isTask := strings.CutSuffix(id, "/tasks")
	in := json.NewDecoder(req.Body)
	switch req.Method + " " + what {
	case "PUT apps":
		var app App
		if err := in.Decode(&app); err != nil || app.ID == "" {
			return nil, fmt.Errorf("want an app with an id: %v", err)
		}
		return object{"version": c.PutApp(app)}, nil
	case "POST apps":
		if !isTask {
			return nil, fmt.Errorf("POST /fake/apps/{id}/tasks adds a task")
		}
		return c.controlAdd(appID, req, in)
	case "DELETE apps":
		c.RemoveApp(id)
	case "PUT tasks":
		var t Task
		if err := in.Decode(&t); err != nil {
			return nil, fmt.Errorf("task: %w", err)
		}
		c.controlTask(id, t)
	case "DELETE tasks":
		c.Kill(id)
	case "PUT faults":
		return c.controlFaults(in)
	case "POST failover":
		to, err := strconv.Atoi(req.URL.Query().Get("to"))
		if err != nil {
			return nil, fmt.Errorf("to: %w", err)
		}
		c.FailOver(to)
	case "POST restore-health":
		c.RestoreHealth()
	default:
		return nil, fmt.Errorf("no such control: %s %s", req.Method, req.URL.Path)
	}
	return object{}, nil
}

func (c *Cluster) controlAdd(appID string, req *http.Request, in *json.Decoder) (any, error) {
	var t Task
	if req.ContentLength != 0 {
		if err := in.Decode(&t); err != nil {
			return nil, fmt.Errorf("task: %w", err)
		}
	}
	return c.addTask(appID, t)
}

func (c *Cluster) controlTask(id string, t Task) {
	if t.State != "" {
		c.SetState(id, t.State)
	}
	if t.Health != nil {
		c.SetHealth(id, t.Health...)
	}
}

func (c *Cluster) controlFaults(in *json.Decoder) (any, error) {
	var patch json.RawMessage
	if err := in.Decode(&patch); err != nil {
		return nil, fmt.Errorf("faults: %w", err)
	}
	var err error
	c.SetFaults(func(f *Faults) { err = json.Unmarshal(patch, f) })
	return object{}, err
}
