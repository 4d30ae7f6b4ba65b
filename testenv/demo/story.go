package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// story is the demo, step by step.
type story struct {
	ctx  context.Context
	site *stage.Site
	host *stage.Host

	containers *containers
	ports      []int // of the services that are there from the beginning
	first      int   // loads of HAProxy until the story begins: its start
	reloads    int   // those that were promised so far
}

const (
	services = 5
	tasks    = 2
)

// tell plays all steps. The first one that is not as promised ends it with an error.
func (s *story) tell() error {
	for _, step := range []func() error{s.begin, s.scale, s.newService, s.removeService, s.udpService, s.registrator, s.killDriver, s.overview} {
		if err := step(); err != nil {
			return err
		}
		if err := s.pause(); err != nil {
			return err
		}
	}
	return nil
}

// pause keeps steps apart: a reload so soon after another would wait for its turn, and readers want to follow.
func (s *story) pause() error {
	select {
	case <-time.After(500 * time.Millisecond):
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (s *story) say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func (s *story) begin() error {
	ports, err := freeport.Get(services)
	if err != nil {
		return err
	}
	for _, port := range ports {
		if err := s.site.AddService(port, tasks); err != nil {
			return err
		}
	}
	s.ports = ports
	s.say("A fake Marathon at %s has %d services with %d tasks each, on ports %s.", s.site.URL, services, tasks,
		strings.Trim(fmt.Sprint(ports), "[]"))
	s.say("A fake registrator has written one with a container into etcd, on port %d.", s.containers.port)
	if err := s.start(); err != nil {
		return err
	}
	for _, port := range ports {
		if err := s.served(port, ""); err != nil {
			return err
		}
	}
	first, err := s.loads()
	if err != nil {
		return err
	}
	s.first = first
	s.say("proxymatic has started HAProxy; all are served. Status: http://%s/api/v1/status", s.host.StatusAddr)
	s.say("Reloads are counted from here on.\n")
	return nil
}

// start starts proxymatic and waits until it serves everything.
func (s *story) start() error {
	if err := s.host.Start("--marathon", s.site.URL, "--registrator", "etcd://"+s.containers.etcd.Addrs()+"/services"); err != nil {
		return err
	}
	return s.host.Ready(s.ctx)
}

// served asks a service until the task of a name answers, any when it is empty.
func (s *story) served(port int, name string) error {
	return stage.Until(s.ctx, func() error {
		for range 4 * tasks { // all tasks get their turn
			got, err := stage.Request(s.ctx, port)
			if err != nil {
				return fmt.Errorf("service %d is not served: %w", port, err)
			}
			if name == "" || got == name {
				return nil
			}
		}
		return fmt.Errorf("task %s of service %d gets no traffic", name, port)
	})
}

// counted checks the reloads since the story began.
func (s *story) counted() error {
	loads, err := s.loads()
	if err == nil && loads-s.first != s.reloads {
		err = fmt.Errorf("%d reloads, promised were %d", loads-s.first, s.reloads)
	}
	return err
}

// loads counts the loads of HAProxy since proxymatic was started.
func (s *story) loads() (int, error) {
	status, err := s.host.Status(s.ctx)
	if err != nil {
		return 0, err
	}
	for _, d := range status.Drivers {
		if d.Name == "haproxy" {
			return d.Reloads, nil
		}
	}
	return 0, fmt.Errorf("no HAProxy in the status: %+v", status.Drivers)
}

func (s *story) scale() error {
	port := s.ports[0]
	began := time.Now()
	task, err := s.site.AddTask(port)
	if err != nil {
		return err
	}
	if err := s.served(port, task.Name); err != nil {
		return err
	}
	took := time.Since(began)
	if err := s.counted(); err != nil {
		return err
	}
	s.say("Service %d is scaled to %d tasks:     added task served after %s, reloads %d", port, tasks+1, millis(took), s.reloads)
	return nil
}

func (s *story) newService() error {
	ports, err := freeport.Get(1)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := s.site.AddService(ports[0], tasks); err != nil {
		return err
	}
	if err := s.served(ports[0], ""); err != nil {
		return err
	}
	took := time.Since(began)
	s.reloads = 1
	if err := stage.Until(s.ctx, s.counted); err != nil { // HAProxy serves a moment before proxymatic has looked
		return err
	}
	s.say("Service %d is new:                   served after %s, reloads %d", ports[0], millis(took), s.reloads)
	return nil
}

func (s *story) removeService() error {
	port := s.ports[1]
	began := time.Now()
	s.site.RemoveService(port)
	err := stage.Until(s.ctx, func() error {
		if _, err := stage.Request(s.ctx, port); err == nil || !strings.Contains(err.Error(), "connection refused") {
			return fmt.Errorf("removed service %d is not refused: %v", port, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	took := time.Since(began)
	if err := s.counted(); err != nil {
		return err
	}
	s.say("Service %d is removed:               refused after %s, reloads still %d", port, millis(took), s.reloads)
	return nil
}

// udpService lets clients use a UDP service while one of its tasks falls silent and is removed.
func (s *story) udpService() error {
	ports, err := freeport.Get(1)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := s.site.AddUDPService(ports[0], tasks); err != nil {
		return err
	}
	if err := s.udpServed(ports[0]); err != nil {
		return err
	}
	s.say("Service %d is new, and UDP:          served by pen after %s", ports[0], millis(time.Since(began)))
	if err := s.host.Ready(s.ctx); err != nil {
		return err
	}
	const clients = 50
	flows, err := stage.StartFlows(ports, clients, 1000)
	if err != nil {
		return err
	}
	err = flows.Born(s.ctx)
	moved := time.Now()
	if err == nil {
		_, err = s.site.AddUDPTask(ports[0])
	}
	if err == nil {
		s.site.RemoveTask(s.site.UDPTasks(ports[0])[0], 0)
		err = flows.Wait(s.ctx, 1000)
	}
	r := flows.Stop()
	if err != nil {
		return err
	}
	current := map[string]bool{}
	for _, t := range s.site.UDPTasks(ports[0]) {
		current[t.Name] = true
	}
	slowest := stage.Slowest(r.Reached(moved, func(name string) bool { return current[name] }))
	if slowest == stage.Never {
		return fmt.Errorf("clients of UDP service %d still wait for a task that was removed", ports[0])
	}
	if err := s.counted(); err != nil {
		return err
	}
	s.say("One of its tasks falls silent and goes: its %d clients were answered by others after %s at most, %d of %d datagrams lost",
		clients, millis(slowest), len(r.Lost(moved)), r.Sent(moved))
	return nil
}

// udpServed asks a UDP service until a task answers.
func (s *story) udpServed(port int) error {
	return stage.Until(s.ctx, func() error {
		_, err := stage.RequestUDP(port)
		return err
	})
}

func (s *story) killDriver() error {
	pens := s.host.Pens()
	worker, err := s.host.Worker()
	if err != nil {
		return err
	}
	load := stage.StartLoad(s.site.Ports(), 300, nil)
	s.host.Kill()
	err = load.WaitRequests(s.ctx, 150)
	if err == nil {
		err = s.start()
	}
	if err == nil {
		err = load.WaitRequests(s.ctx, 150)
	}
	r := load.Stop()
	switch now, workerErr := s.host.Worker(); {
	case err != nil:
		return err
	case workerErr != nil:
		return workerErr
	case len(r.Failed) > 0:
		return fmt.Errorf("%d of %d requests failed: %s", len(r.Failed), r.Requests, r.Failed[0])
	case now != worker:
		return fmt.Errorf("HAProxy's worker was process %d and is now %d", worker, now)
	case !slices.Equal(s.host.Pens(), pens):
		return fmt.Errorf("the pens were %+v and are now %+v", pens, s.host.Pens())
	}
	s.first, s.reloads = 0, 0 // a new proxymatic counts anew
	if err := s.counted(); err != nil {
		return err
	}
	s.say("proxymatic is killed (kill -9) and started again: %d requests meanwhile, 0 failed, reloads 0, and pen is the same\n", r.Requests)
	return nil
}

// overview prints what HAProxy's own statistics say.
func (s *story) overview() error {
	text, err := stage.Ask(s.host.Path("haproxy.sock"), "show stat -1 6 -1")
	if err != nil {
		return err
	}
	s.say("%-24s %-24s %-6s %8s", "SERVICE", "SERVER", "STATUS", "SESSIONS")
	for line := range strings.Lines(text) {
		f := strings.Split(line, ",")
		if len(f) < 18 || strings.HasPrefix(line, "#") || f[1] == "BACKEND" {
			continue
		}
		status := strings.Fields(f[17] + " -")[0] // "no check" is what an unchecked server has: the source knows its health
		if status == "no" {
			status = "UP"
		}
		s.say("%-24s %-24s %-6s %8s", f[0], f[1], status, f[7])
	}
	return nil
}

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }
