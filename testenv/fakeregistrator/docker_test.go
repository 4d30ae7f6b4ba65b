package fakeregistrator

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// engine is a Docker engine without containers' programs, which answers as 20.10 does.
type engine struct {
	Engine
	mu     sync.Mutex
	ports  map[string]string // published port of each running container
	events chan string
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "pm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	e := &engine{Engine: Engine{Socket: filepath.Join(dir, "docker.sock"), IP: "10.0.0.1"}, ports: map[string]string{}, events: make(chan string)}
	l, err := net.Listen("unix", e.Socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(e.serve))
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	return e
}

func (e *engine) serve(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/events" {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case event := <-e.events:
				_, _ = fmt.Fprintln(w, event)
				_ = http.NewResponseController(w).Flush()
			case <-req.Context().Done():
				return
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if name, one := strings.CutPrefix(strings.TrimSuffix(req.URL.Path, "/json"), "/containers/id-"); one {
		_, _ = fmt.Fprintf(w, `{"Name":"/%s","Config":{"Image":"example/web:1","Env":["SERVICE_NAME=shop@80"],"Labels":{"x":"y"}},
			"NetworkSettings":{"Ports":{"8080/tcp":[{"HostIp":"0.0.0.0","HostPort":"%s"},{"HostIp":"::","HostPort":"1"}],"9/tcp":null}}}`, name, e.ports[name])
		return
	}
	var list []map[string]any
	for name := range e.ports {
		list = append(list, map[string]any{"Id": "id-" + name, "Names": []string{"/" + name}})
	}
	_ = json.NewEncoder(w).Encode(list)
}

// start runs a container with a published port; port "" ends it.
func (e *engine) start(t *testing.T, name, port string) {
	t.Helper()
	action := "start"
	e.mu.Lock()
	e.ports[name] = port
	if port == "" {
		delete(e.ports, name)
		action = "die"
	}
	e.mu.Unlock()
	select {
	case e.events <- fmt.Sprintf(`{"id":"id-%s","Action":"%s","Actor":{"Attributes":{"name":"%s"}}}`, name, action, name):
	case <-time.After(10 * time.Second):
		t.Fatal("nobody follows the events")
	}
}

// memory is a store that remembers each key's value.
type memory struct {
	mu      sync.Mutex
	all     map[string]string
	changed chan struct{}
}

func (k *memory) Set(_ context.Context, key, value string, _ time.Duration) error {
	return k.change(func() { k.all[key] = value })
}

func (k *memory) Delete(_ context.Context, key string) error {
	return k.change(func() { delete(k.all, key) })
}

func (k *memory) change(how func()) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	how()
	select {
	case k.changed <- struct{}{}:
	default:
	}
	return nil
}

func (k *memory) services(context.Context, string) ([]entry, error) { return nil, nil }

// await waits until the keys are these.
func (k *memory) await(t *testing.T, want ...string) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		k.mu.Lock()
		var got []string
		for _, key := range slices.Sorted(maps.Keys(k.all)) {
			got = append(got, key+"="+k.all[key])
		}
		k.mu.Unlock()
		if slices.Equal(got, want) {
			return
		}
		select {
		case <-k.changed:
		case <-timeout:
			t.Fatalf("got keys\n%q, want\n%q", got, want)
		}
	}
}

func TestFollowWritesWhatRunsInDocker(t *testing.T) {
	e, k := newEngine(t), &memory{all: map[string]string{}, changed: make(chan struct{}, 1)}
	r := &Registrator{Host: "h", Store: k, Prefix: "/services", Failed: func(err error) { t.Error(err) }}
	e.ports["one"] = "32001" // it ran before
	follow := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = r.Follow(ctx, e.Engine) }()
		return func() { cancel(); <-ended }
	}
	stop := follow()
	k.await(t, "/services/shop@80/h:one:8080=10.0.0.1:32001")
	e.start(t, "two", "32002")
	k.await(t, "/services/shop@80/h:one:8080=10.0.0.1:32001", "/services/shop@80/h:two:8080=10.0.0.1:32002")
	e.start(t, "one", "")
	k.await(t, "/services/shop@80/h:two:8080=10.0.0.1:32002")
	e.start(t, "two", "32003") // restarted, its end went unseen
	k.await(t, "/services/shop@80/h:two:8080=10.0.0.1:32003")
	stop()
	delete(e.ports, "two")
	e.ports["three"] = "32004"
	defer follow()()
	k.await(t, "/services/shop@80/h:three:8080=10.0.0.1:32004")
}

func TestFollowSeesOnlyContainersWithTheLabel(t *testing.T) {
	asked := make(chan string, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		asked <- req.URL.Query().Get("filters")
	}))
	e := newEngine(t)
	l, err := net.Listen("unix", e.Socket+"2")
	if err != nil {
		t.Fatal(err)
	}
	server.Listener = l
	server.Start()
	defer server.Close()
	body, err := Engine{Socket: e.Socket + "2", Label: "x=y"}.get(t.Context(), "/events", filter{"type": {"container"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = body.Close()
	if got, want := <-asked, `{"label":["x=y"],"type":["container"]}`; got != want {
		t.Errorf("filters %s, want %s", got, want)
	}
}
