package stage

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/backend"
	"github.com/meltwater/proxymatic/testenv/fakeregistrator"
)

// Registry is a cluster without Marathon: containers on hosts whose registrators write them into etcd. The containers are real
// backends that answer with their names. It remembers when each was wanted. Its methods may be called from any goroutine.
type Registry struct {
	mu        sync.Mutex
	instances map[string]*Instance // by name; those that are gone stay, to judge answers by
	timers    []*time.Timer        // of backends that are to hang
	serial    int
}

// Wish says what container is to be added.
type Wish struct {
	catalog.Key                   // of the service; TCP where Proto is empty
	Exposed     uint16            // the container's own port, where Env asks for another; 0: the service's
	Env         map[string]string // of the container, which says how its service is called; nil: r and the port
}

// Instance is a container of a service and the backend that it is.
type Instance struct {
	Name string // what the backend answers, and the container's
	catalog.Key
	Addr string // of the backend
	Host *fakeregistrator.Registrator

	server *backend.Server
	added  time.Time
	until  time.Time // when it may have answered last; zero while it is wanted
}

// NewRegistry gives a cluster without containers.
func NewRegistry() *Registry { return &Registry{instances: map[string]*Instance{}} }

// Close ends all backends.
func (r *Registry) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.timers {
		t.Stop()
	}
	for _, i := range r.instances {
		i.server.Close()
	}
}

// Add adds a container on a host. Its key is written when Add returns.
func (r *Registry) Add(ctx context.Context, host *fakeregistrator.Registrator, wish Wish) (*Instance, error) {
	i, err := r.start(host, wish)
	if err != nil {
		return nil, err
	}
	env := wish.Env
	if env == nil {
		env = map[string]string{"SERVICE_NAME": fmt.Sprintf("r%d", wish.Port)}
	}
	exposed := wish.Exposed
	if exposed == 0 {
		exposed = wish.Port
	}
	return i, host.Add(ctx, fakeregistrator.Container{Name: i.Name, Image: "example/backend", Env: env,
		Ports: []fakeregistrator.Port{{Exposed: exposed, UDP: i.Proto == catalog.UDP, Addr: i.Addr}}})
}

// start starts a backend.
func (r *Registry) start(host *fakeregistrator.Registrator, wish Wish) (*Instance, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serial++
	i := &Instance{Name: fmt.Sprintf("r%d.%d", wish.Port, r.serial), Key: wish.Key, Host: host, added: time.Now()}
	listen := backend.ListenHTTP
	switch i.Proto {
	case catalog.UDP:
		listen = backend.ListenUDP
	default:
		i.Proto = catalog.TCP
	}
	var err error
	if i.server, err = listen("127.0.0.1:0", i.Name); err != nil {
		return nil, err
	}
	i.Addr = i.server.Addr()
	r.instances[i.Name] = i
	return i, nil
}

// Remove ends a container; its key is deleted when Remove returns. The backend answers for a while, then it hangs, which no
// proxy can hide from its clients.
func (r *Registry) Remove(ctx context.Context, i *Instance, while time.Duration) error {
	err := i.Host.Remove(ctx, i.Name)
	r.mu.Lock()
	defer r.mu.Unlock()
	i.until = time.Now().Add(while)
	r.timers = append(r.timers, time.AfterFunc(while, i.server.Hang))
	return err
}

// Crash ends the registrator of a host, whose containers are no longer wanted: their keys expire. The backends still answer,
// and may do so for a while.
func (r *Registry) Crash(host *fakeregistrator.Registrator, while time.Duration) {
	host.Crash()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, i := range r.instances {
		if i.Host == host && i.until.IsZero() {
			i.until = time.Now().Add(while)
		}
	}
}

// Wanted gives the servers that each TCP service should have now.
func (r *Registry) Wanted() Servers {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := Servers{}
	for _, i := range r.instances {
		if i.Proto == catalog.TCP && i.until.IsZero() {
			out.Add(int(i.Port), i.Addr)
		}
	}
	return out
}

// Judge tells what is wrong with an answer; "" when it came from a container of the service that may have given it.
func (r *Registry) Judge(port int, name string, began, ended time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, known := r.instances[name]
	switch {
	case !known:
		return fmt.Sprintf("answer %.80q is no container's", name)
	case int(i.Port) != port:
		return fmt.Sprintf("%s answered, which is of another service", name)
	case ended.Before(i.added):
		return fmt.Sprintf("%s answered before it was added", name)
	case !i.until.IsZero() && began.After(i.until):
		return fmt.Sprintf("%s answered a request that began %s after it should be gone", name, began.Sub(i.until))
	}
	return ""
}
