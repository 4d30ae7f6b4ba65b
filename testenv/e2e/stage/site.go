package stage

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/backend"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

// Site is a cluster: a fake Marathon whose tasks are real backends that answer with their names. It remembers when each was
// wanted. Its methods may be called from any goroutine, one at a time for each service. A port is that of a TCP service, unless
// a method says UDP: both may have one of the same number.
type Site struct {
	Marathon *fakemarathon.Cluster
	Replica  *fakemarathon.Replica
	URL      string
	Agent    func(task int) string // the host that the task of this number runs on, which must be this one; nil: all are on 127.0.0.1

	mu     sync.Mutex
	tasks  map[string]*Task // by name; those that are gone stay, to judge answers by
	timers []*time.Timer    // of backends that are to hang
	serial int
}

// Task is a task of a service and the backend that it is.
type Task struct {
	Name, ID string // what the backend answers, and the task's ID in Marathon
	Port     int    // the service's
	Proto    catalog.Proto
	Addr     string // of the backend

	server  *backend.Server
	added   time.Time // when Marathon began to tell of it
	removed time.Time // when Marathon had told of its end; zero while it is wanted
}

// Hang makes the backend silent: it takes what comes and never answers. Marathon does not notice.
func (t *Task) Hang() { t.server.Hang() }

// Die ends the backend, so that nobody listens at its address any more. Marathon does not notice.
func (t *Task) Die() { t.server.Close() }

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
func App(port int) fakemarathon.App { return app(tcp(port)) }

// UDPApp is the usual app of a UDP service's port, for PutApp. Nobody checks its health.
func UDPApp(port int) fakemarathon.App { return app(udp(port)) }

func tcp(port int) catalog.Key { return catalog.Key{Port: uint16(port), Proto: catalog.TCP} }

func udp(port int) catalog.Key { return catalog.Key{Port: uint16(port), Proto: catalog.UDP} }

// checked tells whether Marathon checks the health of the service's tasks.
func checked(key catalog.Key) bool { return key.Proto == catalog.TCP && key.Port%2 == 0 }

func app(key catalog.Key) fakemarathon.App {
	a := fakemarathon.App{ID: appID(key), Ports: []fakemarathon.PortMapping{{ServicePort: int(key.Port), Protocol: string(key.Proto)}}}
	if checked(key) {
		a.HealthChecks = 1
	}
	return a
}

func appID(key catalog.Key) string { return "/shop/" + prefix(key) }

// prefix begins the names of a service and its tasks: s and the port, u and the port for UDP.
func prefix(key catalog.Key) string {
	if key.Proto == catalog.UDP {
		return fmt.Sprintf("u%d", key.Port)
	}
	return fmt.Sprintf("s%d", key.Port)
}

// AddService adds a service with so many tasks.
func (s *Site) AddService(port, tasks int) error { return s.addService(tcp(port), tasks) }

// AddUDPService adds a UDP service with so many tasks.
func (s *Site) AddUDPService(port, tasks int) error { return s.addService(udp(port), tasks) }

func (s *Site) addService(key catalog.Key, tasks int) error {
	s.Marathon.PutApp(app(key))
	for range tasks {
		if _, err := s.addTask(key); err != nil {
			return err
		}
	}
	return nil
}

// AddTask adds a task to a service.
func (s *Site) AddTask(port int) (*Task, error) { return s.addTask(tcp(port)) }

// AddUDPTask adds a task to a UDP service.
func (s *Site) AddUDPTask(port int) (*Task, error) { return s.addTask(udp(port)) }

func (s *Site) addTask(key catalog.Key) (*Task, error) {
	s.mu.Lock()
	s.serial++
	serial := s.serial
	s.mu.Unlock()
	name := fmt.Sprintf("%s.%d", prefix(key), serial)
	listen := backend.ListenHTTP
	if key.Proto == catalog.UDP {
		listen = backend.ListenUDP
	}
	server, err := listen("127.0.0.1:0", name)
	if err != nil {
		return nil, err
	}
	t := &Task{Name: name, Port: int(key.Port), Proto: key.Proto, Addr: server.Addr(), server: server, added: time.Now()}
	s.mu.Lock()
	s.tasks[name] = t
	s.mu.Unlock()
	var host int
	if _, err := fmt.Sscanf(t.Addr, "127.0.0.1:%d", &host); err != nil {
		return nil, err
	}
	task := fakemarathon.Task{Ports: []int{host}}
	if s.Agent != nil {
		task.Host = s.Agent(serial)
	}
	t.ID = s.Marathon.AddTask(appID(key), task).ID
	if checked(key) {
		s.Marathon.SetHealth(t.ID, true)
	}
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
func (s *Site) RemoveService(port int) { s.removeService(tcp(port)) }

// RemoveUDPService removes a UDP service as RemoveService does.
func (s *Site) RemoveUDPService(port int) { s.removeService(udp(port)) }

func (s *Site) removeService(key catalog.Key) {
	s.Marathon.RemoveApp(appID(key))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tasks {
		if t.of(key) && t.removed.IsZero() {
			t.removed = time.Now()
		}
	}
}

// of tells whether the task is one of the service.
func (t *Task) of(key catalog.Key) bool { return t.Port == int(key.Port) && t.Proto == key.Proto }

// Tasks gives the wanted tasks of a service, oldest first.
func (s *Site) Tasks(port int) []*Task { return s.tasksOf(tcp(port)) }

// UDPTasks gives the wanted tasks of a UDP service, oldest first.
func (s *Site) UDPTasks(port int) []*Task { return s.tasksOf(udp(port)) }

func (s *Site) tasksOf(key catalog.Key) []*Task {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Task
	for _, t := range s.tasks {
		if t.of(key) && t.removed.IsZero() {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *Task) int { return a.added.Compare(b.added) })
	return out
}

// Removal is a task that was removed.
type Removal struct {
	Port      int       // of its service
	Addr      string    // of its backend
	Added     time.Time // before Marathon announced it
	Announced time.Time
}

// Removals gives the tasks that were removed so far, in any order.
func (s *Site) Removals() []Removal {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Removal
	for _, t := range s.tasks {
		if !t.removed.IsZero() {
			out = append(out, Removal{t.Port, t.Addr, t.added, t.removed})
		}
	}
	return out
}

// Wanted gives the servers that each service should have now.
func (s *Site) Wanted() Servers { return s.wanted(catalog.TCP) }

// UDPWanted gives the servers that each UDP service should have now.
func (s *Site) UDPWanted() Servers { return s.wanted(catalog.UDP) }

func (s *Site) wanted(proto catalog.Proto) Servers {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Servers{}
	for _, t := range s.tasks {
		if t.Proto == proto && t.removed.IsZero() {
			out.Add(t.Port, t.Addr)
		}
	}
	return out
}

// Ports gives the ports of the services that have tasks, in order.
func (s *Site) Ports() []int { return slices.Sorted(maps.Keys(s.Wanted())) }

// UDPPorts gives the ports of the UDP services that have tasks, in order.
func (s *Site) UDPPorts() []int { return slices.Sorted(maps.Keys(s.UDPWanted())) }

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
