package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/meltwater/proxymatic/runtime/reconcile"
	"github.com/meltwater/proxymatic/runtime/status"
)

// closeGrace is what ending the proxies may take beyond the time that their connections are given.
const closeGrace = 10 * time.Second

// run runs until a signal ends it, and gives the exit code.
func (p program) run(flags *pflag.FlagSet, c Config) int {
	signals := make(chan os.Signal, 64) // a signal that finds no place is lost, and one to end must not be
	p.notify(signals)
	held, err := hold(c)
	if err != nil {
		return p.fail(err)
	}
	defer func() { _ = held.Close() }() // gives the lock back; nothing is left to be written
	first, err := newInstance(c, p.stderr, &instance{})
	if err != nil {
		return p.fail(err)
	}
	if err := makeDir("state-dir", c.StateDir); err != nil {
		first.log.Warn("state directory cannot be used; nothing is kept there yet", "err", err)
	}
	r := &runner{flags: flags, signals: signals, stderr: p.stderr}
	r.current.Store(first)
	stop, err := serveControl(c.controlSocket(), func(ctx context.Context) planned {
		return planOf(r.current.Load().loop.Plan(ctx))
	})
	if err != nil {
		return p.fail(fmt.Errorf("--run-dir: %w", err))
	}
	defer stop()
	b := buildInfo()
	first.log.Info("started", "version", b.Version, "pid", os.Getpid(), "config", c.File)
	return r.run()
}

// instance is what runs from one reading of the configuration.
type instance struct {
	config  Config
	log     *slog.Logger
	sources []reconcile.Source
	drivers []driver
	loop    *reconcile.Loop
	status  *status.Server // nil without an endpoint
}

// newInstance prepares one that comes after old, which is empty for the first. Nothing happens until run, so that a
// configuration that cannot be used costs nothing.
func newInstance(c Config, stderr io.Writer, old *instance) (*instance, error) {
	sources, err := c.sources()
	if err != nil {
		return nil, err
	}
	old.keep(c, sources)
	drivers, err := c.drivers()
	if err != nil {
		return nil, err
	}
	i := &instance{config: c, log: c.logger(stderr), sources: sources, drivers: drivers}
	if c.MarathonAccess.Insecure {
		i.log.Warn("Marathon's certificate is not checked, as --marathon-insecure wants it")
	}
	i.loop = reconcile.New(reconcile.Config{
		Sources: sources,
		Drivers: loopDrivers(drivers),
		Policy:  c.policy(),
		Resync:  c.RefreshInterval,
		Log:     i.log,
	})
	if c.StatusEndpoint != "" {
		b := buildInfo()
		i.status = status.New(status.Config{Addr: c.StatusEndpoint, Pass: i.loop.Pass, Version: b.Version, Commit: b.Commit,
			Warn: func(err error) { i.log.Warn("status endpoint is tried again; --status-endpoint moves it", "err", err) }})
	}
	return i, nil
}

// keep puts the instance's own sources in the place of those that would be made from the same settings: they know which
// replica answers.
func (i *instance) keep(c Config, sources []reconcile.Source) {
	before, now := i.config.sourceSettings(), c.sourceSettings()
	for _, s := range i.sources {
		for n := range sources {
			if name := s.Name(); sources[n].Name() == name && reflect.DeepEqual(before[name], now[name]) {
				sources[n] = s
			}
		}
	}
}

// start runs the instance. end stops it and waits for that; it first says so on the status endpoint when terminating,
// and then calls last, while the endpoint still answers.
func (i *instance) start() (end func(terminating bool, last func() error) error) {
	loopCtx, stopLoop := context.WithCancel(context.Background())
	statusCtx, stopStatus := context.WithCancel(context.Background())
	loopEnded := make(chan error, 1)
	go func() { loopEnded <- i.loop.Run(loopCtx) }()
	var serving sync.WaitGroup
	if i.status != nil {
		serving.Go(func() { _ = i.status.Run(statusCtx) }) // retries by itself and returns nil
	}
	return func(terminating bool, last func() error) error {
		if terminating && i.status != nil {
			i.status.SetTerminating()
		}
		stopLoop()
		err := errors.Join(<-loopEnded, last())
		stopStatus()
		serving.Wait()
		return err
	}
}

// close ends the proxies' part, at the same time.
func (i *instance) close(ctx context.Context, drain bool) error {
	errs := make([]error, len(i.drivers))
	var group sync.WaitGroup
	for n, d := range i.drivers {
		group.Go(func() { errs[n] = d.Close(ctx, drain) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// runner reacts to signals.
type runner struct {
	flags   *pflag.FlagSet
	signals <-chan os.Signal
	stderr  io.Writer
	current atomic.Pointer[instance]
}

// run runs instances, one after another, until a signal ends the last. It gives the exit code.
func (r *runner) run() int {
	for {
		current := r.current.Load()
		end := current.start()
		next, drain := r.listen(current)
		if next == nil {
			return r.finish(current, end, drain)
		}
		if err := end(false, func() error { return nil }); err != nil {
			current.log.Error("the old configuration did not end cleanly", "err", err)
		}
		next.loop.Continue(current.loop)
		r.current.Store(next)
		next.log.Info("configuration read again", "config", next.config.File)
	}
}

// listen waits for a signal that changes something: next is the instance that comes after current, or nil when all
// ends, drain whether the proxies end too.
func (r *runner) listen(current *instance) (next *instance, drain bool) {
	for sig := range r.signals {
		switch sig {
		case syscall.SIGHUP:
			next, err := r.reread(current)
			if err == nil {
				return next, false
			}
			current.log.Error("configuration not taken, the old one stays", "err", err)
		case syscall.SIGUSR1:
			current.log.Info("draining", "signal", sig.String())
			return nil, true
		default:
			current.log.Info("ending", "signal", sig.String(), "proxies", current.config.OnExit)
			return nil, current.config.OnExit == onExitDrain
		}
	}
	return nil, false
}

// reread reads the configuration again and prepares what runs from it.
func (r *runner) reread(old *instance) (*instance, error) {
	c, err := load(r.flags)
	if err != nil {
		return nil, err
	}
	if !c.hasSource() {
		return nil, errNoSource
	}
	if fixed := old.config.fixedChanges(c); len(fixed) > 0 {
		return nil, fmt.Errorf("%s cannot change while running; restart proxymatic for that", strings.Join(fixed, ", "))
	}
	return newInstance(c, r.stderr, old)
}

// fixedChanges names the settings that a running proxymatic, or the HAProxy that it runs, cannot change.
func (c Config) fixedChanges(next Config) []string {
	var names []string
	for _, s := range []struct {
		name    string
		changed bool
	}{
		{"--run-dir", c.RunDir != next.RunDir},
		{"--state-dir", c.StateDir != next.StateDir},
		{"--haproxy", c.HAProxy != next.HAProxy},
		{"--haproxy-start", (c.HAProxyStart == managed) != (next.HAProxyStart == managed)},
		{"--haproxy-config", c.HAProxyConfig != next.HAProxyConfig},
		{"--haproxy-socket", c.HAProxySocket != next.HAProxySocket},
	} {
		if s.changed {
			names = append(names, s.name)
		}
	}
	return names
}

// finish ends the last instance. A second signal to end does so at once.
func (r *runner) finish(last *instance, end func(bool, func() error) error, drain bool) int {
	ended := make(chan error, 1)
	go func() {
		ended <- end(true, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), last.config.Drain+closeGrace)
			defer cancel()
			return last.close(ctx, drain)
		})
	}()
	for {
		select {
		case err := <-ended:
			if err != nil {
				last.log.Error("not ended cleanly", "err", err)
				return exitError
			}
			return exitOK
		case sig := <-r.signals:
			if number, ok := sig.(syscall.Signal); ok && (sig == syscall.SIGTERM || sig == syscall.SIGINT) {
				return 128 + int(number)
			}
		}
	}
}
