package e2e

import (
	"cmp"
	"errors"
	"syscall"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/fakeregistrator"
)

// containers are a host whose registrator writes to etcd, and its services.
type containers struct {
	host  *fakeregistrator.Registrator
	ports []int
	of    map[int][]*stage.Instance // oldest first
}

// containers adds services of containers.
func (c *chaos) addContainers(services, each int) {
	c.Helper()
	c.docker = containers{host: c.agent("v3", "vm", 0), ports: c.ports(services), of: map[int][]*stage.Instance{}}
	for _, port := range c.docker.ports {
		for range each {
			c.docker.of[port] = append(c.docker.of[port], c.add(c.docker.host, port))
		}
	}
}

// changeContainers starts or stops a container. etcd must be up.
func (c *chaos) changeContainers() {
	c.Helper()
	port := c.docker.ports[c.IntN(len(c.docker.ports))]
	all := c.docker.of[port]
	if len(all) < 2 || len(all) < 5 && c.IntN(2) == 0 {
		c.docker.of[port] = append(all, c.add(c.docker.host, port))
		return
	}
	c.must(c.reg.Remove(c.patient(), all[0], answersOn))
	c.docker.of[port] = all[1:]
}

// wanted gives what all sources tell.
func (c *chaos) wanted() stage.Servers {
	out := c.reg.Wanted()
	for port, servers := range c.site.Wanted() {
		out[port] = servers
	}
	return out
}

// etcdFaults are those of etcd, and of the registrator that writes to it.
func etcdFaults() map[string]strike {
	return map[string]strike{
		"etcd is killed":           func(c *chaos) func() { c.etcd.Kill(); return func() { c.must(c.etcd.Restart(c.patient())) } },
		"etcd stands still":        func(c *chaos) func() { return c.still(c.etcd.Members[0].Pid()) },
		"etcd forgets its history": func(c *chaos) func() { c.must(c.etcd.Members[0].Compact(c.patient())); return nil },
		"etcd is wiped":            (*chaos).wiped,
		"registrator is restarted": func(c *chaos) func() { c.must(c.docker.host.Restart(c.patient())); return nil },
		"proxymatic is killed while etcd is wiped": func(c *chaos) func() {
			undo := c.wiped()
			c.host.Kill()
			return func() { c.begin(); undo() }
		},
		"proxymatic is restarted while etcd stands still": func(c *chaos) func() {
			undo := c.still(c.etcd.Members[0].Pid())
			c.signal(c.host.Pid(), syscall.SIGTERM)
			_, err := c.host.Wait(c.patient())
			c.must(err)
			return func() { c.begin(); undo() }
		},
	}
}

// wiped takes all data from etcd, until registrator is started anew. What it deleted shortly before was seen: nobody can tell a
// deletion from a loss that it had no time to see.
func (c *chaos) wiped() func() {
	c.settledWithin(chaosPatience, c.wanted)
	c.must(c.etcd.Wipe(c.patient()))
	return func() {
		c.must(c.docker.host.Restart(c.patient()))
		c.readSince(time.Now())
	}
}

// readSince waits until proxymatic has read etcd after some time.
func (c *chaos) readSince(then time.Time) {
	c.Helper()
	c.must(stage.Until(c.patient(), func() error {
		status, err := c.host.Status(c.Context())
		for _, s := range status.Sources {
			if s.Name == "registrator" && s.Up && s.LastSuccess != nil && s.LastSuccess.After(then) {
				return nil
			}
		}
		return cmp.Or(err, errors.New("etcd was not read again"))
	}))
}
