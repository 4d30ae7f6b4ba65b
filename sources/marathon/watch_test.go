package marathon_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/marathon"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

// watch is a source that runs against a fake Marathon, and what it has sent.
type watch struct {
	t    *testing.T
	out  chan catalog.Snapshot
	last catalog.Snapshot
	all  []catalog.Snapshot
}

// start runs a source whose waits are short, but which polls so rarely that only events can explain what it sees.
func start(t *testing.T, c marathon.Config) *watch {
	t.Helper()
	if c.RefreshInterval == 0 {
		c.RefreshInterval = time.Hour
	}
	c.ConfirmPause, c.RetryPause = time.Millisecond, time.Millisecond
	c.Settle = max(c.Settle, 10*time.Millisecond)
	s, err := marathon.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := &watch{t: t, out: make(chan catalog.Snapshot)}
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := s.Run(ctx, w.out); !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wait.Wait() })
	return w
}

// until takes snapshots until one satisfies done.
func (w *watch) until(what string, done func(catalog.Snapshot) bool) {
	w.t.Helper()
	end := time.After(20 * time.Second)
	for !done(w.last) {
		select {
		case w.last = <-w.out:
			w.all = append(w.all, w.last)
		case <-end:
			w.t.Fatalf("no snapshot with %s, the last one was\n%s%v %s", what, catalog.Format(w.last.Services), w.last.Problems, w.last.Err)
		}
	}
}

// serves takes snapshots until the services are those given, and reading does not fail.
func (w *watch) serves(want string) {
	w.t.Helper()
	want = strings.TrimLeft(want, "\n")
	w.until("\n"+want, func(s catalog.Snapshot) bool { return s.Err == "" && catalog.Format(s.Services) == want })
}

// never fails the test if any snapshot so far satisfies bad.
func (w *watch) never(what string, bad func(catalog.Snapshot) bool) {
	w.t.Helper()
	for _, s := range w.all {
		if bad(s) {
			w.t.Errorf("a snapshot with %s was sent:\n%s%v", what, catalog.Format(s.Services), s.Err)
		}
	}
}

func cluster(t *testing.T, gen fakemarathon.Generation, addrs ...string) (*fakemarathon.Cluster, []*fakemarathon.Replica, []string) {
	t.Helper()
	c := fakemarathon.New(gen)
	t.Cleanup(c.Close)
	var replicas []*fakemarathon.Replica
	var urls []string
	for _, addr := range addrs {
		r, err := c.Replica(addr + ":0")
		if err != nil {
			t.Fatal(err)
		}
		replicas, urls = append(replicas, r), append(urls, r.URL()+"/")
	}
	return c, replicas, urls
}

// web is an app with one service port.
func web(checks int) fakemarathon.App {
	return fakemarathon.App{ID: "/shop/web", Mode: fakemarathon.Bridge, HealthChecks: checks,
		Ports: []fakemarathon.PortMapping{{ContainerPort: 80, ServicePort: 8300}}}
}

func task(id, host string) fakemarathon.Task {
	return fakemarathon.Task{ID: id, Host: host, Ports: []int{31000}}
}

const webAlone = "8300/tcp web.shop mode=tcp source=marathon\n"
