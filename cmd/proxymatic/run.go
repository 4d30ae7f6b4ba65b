package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
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

// run runs until a signal or a successor ends it, and gives the exit code.
func (p program) run(flags *pflag.FlagSet, c Config) int {
	r := &runner{flags: flags, stderr: p.stderr, leases: make(chan *lease)}
	signals := make(chan os.Signal, 64) // a signal that finds no place is lost, and one to end must not be
	p.notify(signals)
	r.signals = signals
	r.ctx, r.cancel = context.WithCancel(context.Background())
	defer r.end()
	end, err := r.begin(c)
	if err != nil {
		return p.fail(err)
	}
	r.notices = notice(r.current.Load)
	return r.run(end)
}

// begin takes the run directory, or takes over from the run that holds it, and starts the first instance.
func (r *runner) begin(c Config) (ending, error) {
	if err := makeDir("run-dir", c.RunDir); err != nil {
		return nil, err
	}
	held, err := lock(c.RunDir)
	if other := new(heldError); errors.As(err, &other) && c.TakeOver {
		return r.takeOver(c)
	}
	if err != nil {
		return nil, err
	}
	r.hold(held)
	now, err := readPlaced(c.RunDir)
	if err != nil {
		return nil, err
	}
	c = c.in(now.serving)
	first, err := newInstance(c, r.stderr, &instance{}, neighbours{})
	if err != nil {
		return nil, err
	}
	r.current.Store(first)
	if err := r.own(c); err != nil {
		return nil, err
	}
	first.recall()
	r.sweep(first, append(places(c.RunDir), 0)...)
	first.hello()
	return first.start(), nil
}

// hold keeps the lock of the run directory.
func (r *runner) hold(held *os.File) {
	r.owning.Lock()
	defer r.owning.Unlock()
	r.held = held
}

// own does what only the holder of the run directory may do.
func (r *runner) own(c Config) error {
	r.owning.Lock() // a successor comes through the socket maybe, and has letGo called, before there is a way to close it
	defer r.owning.Unlock()
	var err error
	r.stopControl, err = control{r.plan, r.acknowledge, r.leases}.serve(c.controlSocket())
	if err = errors.Join(err, c.link()); err != nil {
		return fmt.Errorf("--run-dir: %w", err)
	}
	return nil
}

// letGo gives the run directory to whoever wants it. It may be called again.
func (r *runner) letGo() {
	r.owning.Lock()
	defer r.owning.Unlock()
	if r.stopControl != nil {
		r.stopControl()
	}
	if r.held != nil {
		_ = r.held.Close() // which gives the lock back; nothing is left to be written
	}
	r.stopControl, r.held = nil, nil
}

// end ends what was begun beside the instances.
func (r *runner) end() {
	r.cancel()
	r.group.Wait()
	r.letGo()
}

// instance is what runs from one reading of the configuration.
type instance struct {
	config  Config
	log     *slog.Logger
	sources []reconcile.Source
	drivers drivers
	loop    *reconcile.Loop
	status  *status.Server // nil without an endpoint

	templates [2][]byte // the texts that the drivers were made from
}

// newInstance prepares one that comes after old, which is empty for the first, and beside the proxies of another run. Nothing
// happens until it is started, so that a configuration that cannot be used costs nothing.
func newInstance(c Config, stderr io.Writer, old *instance, beside neighbours) (*instance, error) {
	sources, err := c.sources()
	if err != nil {
		return nil, err
	}
	old.keep(c, sources)
	templates := c.templates() // before they are used: what changes meanwhile is found by the next plan
	drivers, err := c.drivers(beside)
	if err != nil {
		return nil, err
	}
	i := instance{config: c, log: c.logger(stderr), sources: sources, drivers: drivers, templates: templates}
	if c.MarathonAccess.Insecure {
		i.log.Warn("Marathon's certificate is not checked, as --marathon-insecure wants it")
	}
	return i.looped(), nil
}

// looped gives the instance with a loop and a status endpoint that nobody has used yet.
func (i instance) looped() *instance {
	i.loop = reconcile.New(reconcile.Config{
		Sources: i.sources,
		Drivers: i.drivers.forLoop(),
		Policy:  i.config.policy(),
		Guard:   i.config.guard(),
		Flaps:   i.config.FlapLimit,
		Resync:  i.config.RefreshInterval,
		Log:     i.log,
	})
	if i.config.StatusEndpoint != "" {
		b := buildInfo()
		i.status = status.New(status.Config{Addr: i.config.StatusEndpoint, Pass: i.loop.Pass, Version: b.Version, Commit: b.Commit,
			Warn: func(err error) { i.log.Warn("status endpoint is tried again; --status-endpoint moves it", "err", err) }})
	}
	return &i
}

// again gives the instance that goes on where this one has ended. Nothing is read from files, so nothing can be wrong with it.
func (i *instance) again() *instance {
	next := i.looped()
	next.loop.Continue(i.loop)
	return next
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

// hello logs that a run has begun.
func (i *instance) hello() {
	b := buildInfo()
	i.log.Info("started", "version", b.Version, "pid", os.Getpid(), "config", i.config.File)
}

// ending stops an instance and waits for that. It first says so on the status endpoint when terminating, and then calls last,
// while the endpoint still answers.
type ending func(terminating bool, last func() error) error

// start runs the instance until it is ended.
func (i *instance) start() ending {
	if err := makeDir("state-dir", i.config.StateDir); err != nil {
		i.log.Warn("state directory cannot be used: nothing is kept for the next start", "err", err)
	}
	loopCtx, stopLoop := context.WithCancel(context.Background())
	statusCtx, stopStatus := context.WithCancel(context.Background())
	loopEnded := make(chan error, 1)
	go func() { loopEnded <- i.loop.Run(loopCtx) }()
	savingCtx, stopSaving := context.WithCancel(context.Background())
	var saving, serving sync.WaitGroup
	saving.Go(func() { i.saveState(savingCtx) })
	if i.status != nil {
		serving.Go(func() { _ = i.status.Run(statusCtx) }) // retries by itself and returns nil
	}
	return func(terminating bool, last func() error) error {
		if terminating && i.status != nil {
			i.status.SetTerminating()
		}
		stopLoop()
		err := <-loopEnded
		stopSaving()
		saving.Wait()
		err = errors.Join(err, last())
		stopStatus()
		serving.Wait()
		return err
	}
}

// close ends the proxies' part.
func (i *instance) close(drain bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), i.config.Drain+closeGrace)
	defer cancel()
	return closeAll(ctx, i.drivers.all(), drain)
}

// closeAll ends the parts of drivers at the same time.
func closeAll(ctx context.Context, all []driver, drain bool) error {
	errs := make([]error, len(all))
	var group sync.WaitGroup
	for n, d := range all {
		group.Go(func() { errs[n] = d.Close(ctx, drain) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// runner reacts to signals and to successors.
type runner struct {
	flags   *pflag.FlagSet
	signals <-chan os.Signal
	leases  chan *lease // of those who want to take over
	stderr  io.Writer
	waiting []os.Signal // that came while something else was decided
	current atomic.Pointer[instance]
	notices *notices // to systemd; nil where nobody listens

	owning      sync.Mutex // for what follows
	held        *os.File   // the lock; nil when somebody else has it
	stopControl func()     // nil without a control socket

	ctx    context.Context // ends with the run
	cancel context.CancelFunc
	group  sync.WaitGroup // what goes on beside the instances, until ctx ends
}

// event is what an instance ends for.
type event struct {
	next  *instance // comes after it; or
	lease *lease    // wants to take over; or the run ends, and
	drain bool      // the proxies too
}

// run runs instances, one after another, until a signal or a successor ends the last. It gives the exit code.
func (r *runner) run(end ending) int {
	for {
		current := r.current.Load()
		e := r.listen(current)
		switch {
		case e.lease != nil:
			code, gone := r.handOver(current, end, e.lease)
			if gone {
				return code
			}
			e.next = current.again()
		case e.next == nil:
			return r.finish(current, end, e.drain, true)
		default:
			if err := end(false, nothing); err != nil {
				current.log.Error("the old configuration did not end cleanly", "err", err)
			}
			e.next.loop.Continue(current.loop)
			e.next.log.Info("configuration read again", "config", e.next.config.File)
		}
		r.current.Store(e.next)
		end = e.next.start()
	}
}

// listen waits for something that changes something.
func (r *runner) listen(current *instance) event {
	for {
		var sig os.Signal
		if len(r.waiting) > 0 {
			sig, r.waiting = r.waiting[0], r.waiting[1:]
		} else {
			select {
			case l := <-r.leases:
				return event{lease: l}
			case sig = <-r.signals:
			}
		}
		switch sig {
		case syscall.SIGHUP:
			r.notices.reloading()
			next, err := r.reread(current, r.stderr)
			r.notices.reloaded(err)
			if err == nil {
				return event{next: next}
			}
			current.log.Error("configuration not taken, the old one stays", "err", err)
		case syscall.SIGUSR1:
			current.log.Info("draining", "signal", sig.String())
			return event{drain: true}
		default:
			current.log.Info("ending", "signal", sig.String(), "proxies", current.config.OnExit)
			return event{drain: current.config.OnExit == onExitDrain}
		}
	}
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

// finish ends the last instance and gives the exit code. asked tells that a signal wants it: the next one ends at once.
func (r *runner) finish(last *instance, end ending, drain, asked bool) int {
	r.notices.finish(last.config.Drain + 2*closeGrace)
	err := r.patiently(asked, func() error {
		return end(true, func() error { return last.close(drain) })
	})
	if sig := signalled(0); errors.As(err, &sig) {
		return 128 + int(sig)
	}
	if err != nil {
		last.log.Error("not ended cleanly", "err", err)
		return exitError
	}
	return exitOK
}

// signalled is the error of what a signal has cut short.
type signalled syscall.Signal

func (s signalled) Error() string { return "ended by a signal: " + syscall.Signal(s).String() }

// patiently calls f, and waits for it until TERM or INT comes for a second time. asked tells that the first has come.
func (r *runner) patiently(asked bool, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	for {
		var sig os.Signal
		if len(r.waiting) > 0 {
			sig, r.waiting = r.waiting[0], r.waiting[1:]
		} else {
			select {
			case err := <-done:
				return err
			case sig = <-r.signals:
			}
		}
		if sig != syscall.SIGTERM && sig != syscall.SIGINT {
			continue
		}
		if number, ok := sig.(syscall.Signal); ok && asked {
			return signalled(number)
		}
		asked = true
	}
}
