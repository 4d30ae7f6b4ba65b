package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/etcd"
	"github.com/meltwater/proxymatic/testenv/fakeregistrator"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// containers are what registrator finds on one host and writes into an etcd.
type containers struct {
	*stage.Registry
	etcd *etcd.Cluster
	host *fakeregistrator.Registrator
	port int // of their service
}

// newContainers starts etcd, and a service of one container.
func newContainers(ctx context.Context, dir string) (*containers, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	cluster, err := etcd.Start(ctx, etcd.Config{Dir: dir, V2: true})
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	c := &containers{Registry: stage.NewRegistry(), etcd: cluster}
	store, prefix, err := fakeregistrator.Open("etcd2://" + cluster.Addrs() + "/services")
	ports, portErr := freeport.Get(1)
	if err = errors.Join(err, portErr); err == nil {
		c.host = &fakeregistrator.Registrator{Host: "host1", Store: store, Prefix: prefix}
		c.port = ports[0]
		_, err = c.add(ctx, c.port)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// add starts a container whose service has the given port.
func (c *containers) add(ctx context.Context, port int) (*stage.Instance, error) {
	return c.Add(ctx, c.host, stage.Wish{Key: catalog.Key{Port: uint16(port), Proto: catalog.TCP}})
}

func (c *containers) close() {
	c.Close()
	c.etcd.Kill()
}

// registrator shows that services come from registrator beside Marathon's, and who gets a port that both want.
func (s *story) registrator() error {
	c := s.containers
	if err := s.served(c.port, ""); err != nil {
		return err
	}
	began := time.Now()
	second, err := c.add(s.ctx, c.port)
	if err == nil {
		err = s.served(c.port, second.Name)
	}
	if err != nil {
		return err
	}
	took := time.Since(began)
	if err := s.counted(); err != nil {
		return err
	}
	s.say("Service %d is registrator's:         second container served after %s, reloads still %d", c.port, millis(took), s.reloads)

	contested := s.ports[2]
	if _, err := c.add(s.ctx, contested); err != nil {
		return err
	}
	problem := ""
	err = stage.Until(s.ctx, func() error {
		status, err := s.host.Status(s.ctx)
		for _, p := range status.Problems {
			if strings.Contains(p.Reason, fmt.Sprintf("port %d/tcp belongs to", contested)) {
				problem = p.Reason
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("no problem names port %d: %+v", contested, status.Problems))
	})
	if err != nil {
		return err
	}
	for range 20 {
		name, err := stage.Request(s.ctx, contested)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(s.site.Tasks(contested), func(t *stage.Task) bool { return t.Name == name }) {
			return fmt.Errorf("port %d is Marathon's, and %s answered", contested, name)
		}
	}
	s.say("Registrator wants port %d too:       Marathon keeps it, and a problem says so:\n  %s", contested, problem)
	return nil
}
