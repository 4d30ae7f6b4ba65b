package stage

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meltwater/proxymatic/testenv/backend"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

// Site is a cluster: a fake Marathon whose tasks are real backends that answer with their names. It remembers when each was
// wanted. Its methods may be called from any goroutine, one at a time for each service.
type Site struct {
	Marathon *fakemarathon.Cluster
	Replica  *fakemarathon.Replica
	URL      string

	mu     sync.Mutex
	tasks  map[string]*Task // by name; those that are gone stay, to judge answers by
	timers []*time.Timer    // of backends that are to hang
	serial int
}

// Task is a task of a service and the backend that it is.
type Task struct {
	Name, ID string // what the backend answers, and the task's ID in Marathon
	Port     int    // the service's
	Addr     string // of the backend

	server  *backend.Server
	added   time.Time // when Marathon began to tell of it
	removed time.Time // when Marathon had told of its end; zero while it is wanted
}

// NewSite gives a cluster without services.
func NewSite(gen fakemarathon.Generation) (*Site, error) {
	c := fakemarathon.New(gen)
	r, err := c.Replica("127.0.0.1:0")
	if err != nil {
		c.Close()
		return nil, err
	}
	return &Site{Marathon: c, Replica: r, URL: r.URL(), tasks: map[string]*Task{}}, nil
}

// Close ends Marathon and all backends.
func (s *Site) Close() {
	for _, t := range s.timers {
		t.Stop()
	}
	s.Marathon.Close()
	for _, t := range s.tasks {
		t.server.Close()
	}
}

// App is the usual app of a service port, for PutApp. Services with an even port have a health check in Marathon, those with
// an odd one are checked by HAProxy.
func App(port int) fakemarathon.App {
	return fakemarathon.App{ID: appID(port), HealthChecks: 1 - port%2, Ports: []fakemarathon.PortMapping{{ServicePort: port}}}
}

func appID(port int) string { return fmt.Sprintf("/shop/s%d", port) }

// AddService adds a service with so many tasks.
func (s *Site) AddService(port, tasks int) error {
	s.Marathon.PutApp(App(port))
	for range tasks {
		if _, err := s.AddTask(port); err != nil {
			return err
		}
	}
	return nil
}

// AddTask adds a task to a service.
func (s *Site) AddTask(port int) (*Task, error) {
	s.mu.Lock()
	s.serial++
	name := fmt.Sprintf("s%d.%d", port, s.serial)
	s.mu.Unlock()
	server, err := backend.ListenHTTP("127.0.0.1:0", name)
	if err != nil {
		return nil, err
	}
	t := &Task{Name: name, Port: port, Addr: server.Addr(), server: server, added: time.Now()}
	s.mu.Lock()
	s.tasks[name] = t
	s.mu.Unlock()
	health := []bool{true}
	if port%2 == 1 {
		health = nil
	}
	var host int
	if _, err := fmt.Sscanf(t.Addr, "127.0.0.1:%d", &host); err != nil {
		return nil, err
	}
	t.ID = s.Marathon.AddTask(appID(port), fakemarathon.Task{Ports: []int{host}, Health: health}).ID
	return t, nil
}

// RemoveTask lets Marathon kill a task. The backend answers for a while, then it hangs: it accepts and never answers, which
// no proxy can hide from its clients by trying another server.
func (s *Site) RemoveTask(t *Task, while time.Duration) {
	s.Marathon.Kill(t.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	t.removed = time.Now()
	s.timers = append(s.timers, time.AfterFunc(while, t.server.Hang))
}

// RemoveService removes a service with its tasks, which go on answering whoever still asks them.
func (s *Site) RemoveService(port int) {
	s.Marathon.RemoveApp(appID(port))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tasks {
		if t.Port == port && t.removed.IsZero() {
			t.removed = time.Now()
		}
	}
}

// Tasks gives the wanted tasks of a service, oldest first.
func (s *Site) Tasks(port int) []*Task {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Task
	for _, t := range s.tasks {
		if t.Port == port && t.removed.IsZero() {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *Task) int { return a.added.Compare(b.added) })
	return out
}

// Removal is a task that was removed.
type Removal struct {
	Port      int    // of its service
	Addr      string // of its backend
	Announced time.Time
}

// Removals gives the tasks that were removed so far, in any order.
func (s *Site) Removals() []Removal {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Removal
	for _, t := range s.tasks {
		if !t.removed.IsZero() {
			out = append(out, Removal{t.Port, t.Addr, t.removed})
		}
	}
	return out
}

// Wanted gives the servers that each service should have now.
func (s *Site) Wanted() Servers {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Servers{}
	for _, t := range s.tasks {
		if t.removed.IsZero() {
			out.add(t.Port, t.Addr)
		}
	}
	return out
}

// Ports gives the ports of the services that have tasks, in order.
func (s *Site) Ports() []int { return slices.Sorted(maps.Keys(s.Wanted())) }

// Judge tells what is wrong with an answer; "" when it came from a task of the service that was wanted when the request
// began, or no longer than late before.
func (s *Site) Judge(port int, name string, began, ended time.Time, late time.Duration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, known := s.tasks[name]
	switch {
	case !known:
		return fmt.Sprintf("answer %.80q is no task's", name)
	case t.Port != port:
		return fmt.Sprintf("%s answered, which is of another service", name)
	case ended.Before(t.added):
		return fmt.Sprintf("%s answered before it was added", name)
	case !t.removed.IsZero() && began.After(t.removed.Add(late)):
		return fmt.Sprintf("%s answered a request that began %s after its removal was announced", name, began.Sub(t.removed))
	}
	return ""
}
