package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/backend"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

// Health results live in the leader's memory. After a failover all are gone, then each check of each task tells that it is
// alive: a storm as large as the cluster, which says nothing new.
func TestMarathonFailsOver(t *testing.T) {
	tests := map[string]struct {
		gen   fakemarathon.Generation
		lead  func(crowd) // makes another replica the leader
		storm func(crowd) // gives the results back, and tells
	}{
		"all at once":      {fakemarathon.GenD, crowd.newLeader, crowd.allAtOnce},
		"check by check":   {fakemarathon.GenB, crowd.newLeader, crowd.checkByCheck},
		"a leader unready": {fakemarathon.GenC, crowd.unreadyLeader, crowd.allAtOnce},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCrowd(newWorldOf(t, tt.gen))
			loads, worker := c.loads(), c.worker()
			load := stage.StartLoad(c.ports[:20], 300, nil)
			before, failed := c.quietly(), time.Now()
			tt.lead(c)
			c.streamed()
			c.quietly() // all that is known then has no results
			tt.storm(c)
			c.quietly() // up to 1.7 events are lost while more than 50 wait for a reader
			_, err := c.site.AddTask(c.last)
			c.must(err)
			c.settledOn(c.wanted)
			asked := c.quietly().Since(before)
			c.flawless(load)
			c.noneRemoved(failed)
			c.reloaded(loads, 0, "a failover")
			c.sameWorker(worker)
			t.Logf("asked for %+v", asked)
			if asked.Lists > 3 || asked.Apps > 10 || asked.Versions > 0 {
				t.Errorf("asked for %+v, want at most 3 lists and 10 apps", asked)
			}
		})
	}
}

// crowd is a large cluster of three replicas: apps of five tasks each, with one health check or two, and a service apart.
type crowd struct {
	world
	apps  []fakemarathon.App
	ports []int // of the apps
	last  int   // the service apart
	each  []string
}

func newCrowd(w world) crowd {
	w.Helper()
	c := crowd{world: w, ports: w.ports(300), last: w.services(1, 1)[0]}
	urls := []string{w.site.URL}
	for _, addr := range []string{"127.0.0.1:0", "127.77.0.2:0"} {
		r, err := w.site.Marathon.Replica(addr)
		w.must(err)
		urls = append(urls, r.URL())
	}
	tasks := c.listen(5)
	for i, port := range c.ports {
		a := fakemarathon.App{ID: fmt.Sprintf("/crowd/s%d", port), HealthChecks: 1 + i%3/2,
			Ports: []fakemarathon.PortMapping{{ServicePort: port}}}
		c.apps = append(c.apps, a)
		w.site.Marathon.PutApp(a)
		for _, port := range tasks {
			t := w.site.Marathon.AddTask(a.ID, fakemarathon.Task{Ports: []int{port}})
			w.site.Marathon.SetHealth(t.ID, allAlive(a.HealthChecks)...)
		}
	}
	w.must(w.host.Start("--marathon", strings.Join(urls, ","), "--refresh-interval", "1h"))
	w.must(w.host.Ready(w.patient()))
	w.settledOn(c.wanted)
	w.must(w.site.Marathon.WaitStream(w.patient()))
	return c
}

func allAlive(checks int) []bool {
	results := make([]bool, checks)
	for i := range results {
		results[i] = true
	}
	return results
}

// listen starts the backends that the tasks of all apps share, and gives their ports.
func (c *crowd) listen(n int) []int {
	c.Helper()
	var ports []int
	for i := range n {
		server, err := backend.ListenHTTP("127.0.0.1:0", fmt.Sprintf("task %d", i))
		c.must(err)
		c.Cleanup(server.Close)
		c.each = append(c.each, server.Addr())
		_, digits, err := net.SplitHostPort(server.Addr())
		c.must(err)
		port, err := strconv.Atoi(digits)
		c.must(err)
		ports = append(ports, port)
	}
	return ports
}

// wanted gives the servers that each service should have.
func (c crowd) wanted() stage.Servers {
	servers := c.site.Wanted()
	for _, port := range c.ports {
		for _, addr := range c.each {
			servers.Add(port, addr)
		}
	}
	return servers
}

// quietly waits until nobody has asked Marathon for anything for longer than events may be held together, and gives what was
// asked for so far.
func (c crowd) quietly() fakemarathon.Asked {
	c.Helper()
	last, since := c.site.Marathon.Asked(), time.Now()
	c.must(stage.Until(c.patient(), func() error {
		if now := c.site.Marathon.Asked(); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) < 1500*time.Millisecond {
			return fmt.Errorf("Marathon is still asked: %+v", last)
		}
		return nil
	}))
	return last
}

// streamed waits for a stream from the new leader, for which replicas that fail are tried again at ever longer intervals.
func (c crowd) streamed() {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 3*patience)
	defer cancel()
	c.must(c.site.Marathon.WaitStream(ctx))
}

// newLeader is a failover in which the old leader becomes a standby.
func (c crowd) newLeader() { c.site.Marathon.FailOver(1) }

// unreadyLeader is one in which the old leader is gone, nobody leads for a while, and the new one is not ready at first.
func (c crowd) unreadyLeader() {
	refused := c.site.Marathon.Asked().Refused
	c.site.Replica.Close()
	c.site.Marathon.FailOver(-1)
	c.must(stage.Until(c.patient(), func() error {
		if n := c.site.Marathon.Asked().Refused - refused; n < 2 {
			return fmt.Errorf("%d requests were refused", n)
		}
		return nil
	}))
	c.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.Unavailable, f.StreamEOF = 1, 1 })
	c.site.Marathon.FailOver(2)
}

func (c crowd) allAtOnce() { c.site.Marathon.RestoreHealth() }

// checkByCheck tells of the checks at once, as a new leader does when it begins, and of each result when it comes.
func (c crowd) checkByCheck() {
	for _, a := range c.apps {
		c.site.Marathon.Emit("add_health_check_event", map[string]any{"appId": a.ID, "healthCheck": map[string]any{"protocol": "HTTP"}})
	}
	checks := map[string]int{}
	for _, a := range c.site.Marathon.Apps() {
		checks[a.ID] = a.HealthChecks
	}
	tasks := c.site.Marathon.Tasks()
	rand.Shuffle(len(tasks), func(i, j int) { tasks[i], tasks[j] = tasks[j], tasks[i] })
	for n := 1; n <= 2; n++ {
		for i, t := range tasks {
			if n <= checks[t.AppID] {
				c.site.Marathon.SetHealth(t.ID, allAlive(n)...)
			}
			if i%20 == 0 {
				time.Sleep(10 * time.Millisecond) // so that the results come over one and a half seconds
			}
		}
	}
}

// noneRemoved checks that no server was taken away since then.
func (c crowd) noneRemoved(since time.Time) {
	c.Helper()
	changes, err := c.host.Changes(c.patient())
	c.must(err)
	for _, change := range changes.Changes {
		added := change.Action == "add server" || !c.reloadless() && (change.Action == "load service" || change.Action == "reload")
		if change.At.After(since) && !added {
			c.Errorf("after the failover: %+v", change)
		}
	}
}
