// Command fakeregistrator writes services, or what runs in a Docker engine, into etcd as the registrator of a host would, for
// demos and test environments, until it is ended. As the real one's, its keys stay then, or expire with their TTL.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/meltwater/proxymatic/testenv/fakeregistrator"
)

// retry is how long it waits for etcd before it tries again.
const retry = 2 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	c, err := configure(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	c.run(ctx)
}

// command is what the command line asks for.
type command struct {
	registrator *fakeregistrator.Registrator
	containers  []fakeregistrator.Container
	docker      fakeregistrator.Engine // whose containers are written too; none without a Socket
}

// configure reads the command line.
func configure(args []string) (c command, err error) {
	r := &fakeregistrator.Registrator{Failed: func(err error) { fmt.Fprintln(os.Stderr, err) }}
	c.registrator = r
	host, err := os.Hostname()
	if err != nil {
		return c, err
	}
	flags := flag.NewFlagSet("fakeregistrator", flag.ContinueOnError)
	etcd := flags.String("etcd", "etcd3://127.0.0.1:2379/services", "`URL` of etcd: etcd2:// (what upstream's registrator writes) or etcd3:// (its fork), host:port[,host:port...], prefix")
	flags.StringVar(&r.Host, "host", host, "`name` of the host")
	flags.DurationVar(&r.TTL, "ttl", 0, "life of keys that are not refreshed, such as 30s; 0: for ever")
	flags.DurationVar(&r.Refresh, "ttl-refresh", 0, "how often keys are refreshed")
	flags.DurationVar(&r.Resync, "resync", 0, "how often all keys are written again")
	flags.BoolVar(&r.Cleanup, "cleanup", false, "remove what is left of this host's containers of an earlier run (etcd3 only)")
	flags.Func("service", "`name[:exposed]=ip:port[/udp]` of a container; exposed is its own port, port where it is not given. Repeatable", func(s string) error {
		one, err := parseService(s, len(c.containers)+1)
		c.containers = append(c.containers, one)
		return err
	})
	flags.StringVar(&c.docker.Socket, "docker", "", "`path` of the socket of a Docker engine whose containers are followed, such as /var/run/docker.sock")
	flags.StringVar(&c.docker.Label, "label", "", "`label` that these containers must have, such as NAME or NAME=VALUE; empty: none")
	flags.StringVar(&c.docker.IP, "ip", "127.0.0.1", "`address` of the host, for ports that Docker publishes on all of its addresses")
	flags.SetOutput(io.Discard) // main prints the error
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(os.Stdout)
			flags.PrintDefaults()
		}
		return c, err
	}
	if flags.NArg() > 0 {
		return c, fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	if (r.TTL == 0) != (r.Refresh == 0) || r.TTL > 0 && r.TTL <= r.Refresh {
		return c, fmt.Errorf("-ttl %s and -ttl-refresh %s: want both or none, and -ttl the longer one", r.TTL, r.Refresh)
	}
	r.Store, r.Prefix, err = fakeregistrator.Open(*etcd)
	return c, err
}

// unfit are the characters that Docker has in no container's name.
var unfit = regexp.MustCompile(`[^a-zA-Z0-9_.-]`)

// parseService reads name[:exposed]=ip:port[/udp]. The container is named for the service and number.
func parseService(s string, number int) (fakeregistrator.Container, error) {
	left, addr, found := strings.Cut(s, "=")
	addr, udp := strings.CutSuffix(addr, "/udp")
	addr = strings.TrimSuffix(addr, "/tcp")
	_, exposed, err := net.SplitHostPort(addr)
	if !found || err != nil {
		return fakeregistrator.Container{}, fmt.Errorf("want name[:exposed]=ip:port[/udp]")
	}
	name, given, found := strings.Cut(left, ":")
	if found {
		exposed = given
	}
	port, err := strconv.ParseUint(exposed, 10, 16)
	if err != nil || port == 0 || name == "" {
		return fakeregistrator.Container{}, fmt.Errorf("want a name and a port of 1 to 65535, not %q and %q", name, exposed)
	}
	return fakeregistrator.Container{
		Name:  fmt.Sprintf("c%d-%s", number, unfit.ReplaceAllString(name, "_")),
		Env:   map[string]string{"SERVICE_NAME": name},
		Ports: []fakeregistrator.Port{{Exposed: uint16(port), UDP: udp, Addr: addr}},
	}, nil
}

// run writes the keys, as soon as etcd takes them, and refreshes them until ctx ends.
func (c command) run(ctx context.Context) {
	r := c.registrator
	r.Crash() // it starts when its containers run already
	for _, one := range c.containers {
		if err := r.Add(ctx, one); err != nil {
			r.Failed(err)
		}
	}
	for err := r.Restart(ctx); err != nil; err = r.Restart(ctx) {
		r.Failed(err)
		if !pause(ctx) {
			return
		}
	}
	fmt.Printf("%d services of %s written\n", len(c.containers), r.Host)
	var follower sync.WaitGroup
	defer follower.Wait()
	if c.docker.Socket != "" {
		follower.Go(func() { c.follow(ctx) })
	}
	_ = r.Run(ctx) // ends with ctx
}

// follow writes what runs in Docker until ctx ends.
func (c command) follow(ctx context.Context) {
	for {
		if err := c.registrator.Follow(ctx, c.docker); ctx.Err() == nil {
			c.registrator.Failed(err)
		}
		if !pause(ctx) {
			return
		}
	}
}

// pause reports whether ctx goes on after it.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(retry):
		return true
	}
}
