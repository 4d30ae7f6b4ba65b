package main

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/meltwater/proxymatic/runtime/reconcile"
)

const (
	noticePause = time.Second // between two looks at the run
	// readyPatience is how long systemd waits for the first pass. Who asks for the start, such as the boot or Puppet, must not
	// hang for as long as Marathon is away: a start that is repeated would not bring it back.
	readyPatience = time.Minute
	// passLimit is the longest that a pass can take, and some.
	passLimit = 6 * time.Minute
)

// notices tells systemd how the run fares, where it started us (Type=notify). An error is nobody's to repair: systemd then
// goes by its timeouts. Nil tells nobody anything.
type notices struct {
	ready atomic.Bool
	stop  chan struct{}
	ended chan struct{}
}

// notice begins to tell what the current instance does, until finish. It gives nil where nobody listens.
func notice(current func() *instance) *notices {
	if told, err := daemon.SdNotify(false, "STATUS=starting"); err != nil || !told {
		return nil
	}
	n := &notices{stop: make(chan struct{}), ended: make(chan struct{})}
	go n.run(current)
	return n
}

func (n *notices) run(current func() *instance) {
	defer close(n.ended)
	began, said := time.Now(), ""
	for {
		i, now := current(), time.Now()
		pass := i.loop.Pass()
		var lines []string
		if text := passText(pass); text != said {
			lines, said = append(lines, "STATUS="+text), text
		}
		if !n.ready.Load() && ready(pass, now.Sub(began)) {
			n.ready.Store(true)
			lines = append(lines, daemon.SdNotifyReady)
		}
		if alive(pass, i.config.RefreshInterval, now) {
			lines = append(lines, daemon.SdNotifyWatchdog)
		}
		tell(lines...)
		select {
		case <-time.After(noticePause):
		case <-n.stop:
			return
		}
	}
}

// reloading tells that the configuration is read again.
func (n *notices) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err == nil && n != nil && n.ready.Load() {
		tell(daemon.SdNotifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000))
	}
}

// reloaded tells what came of it; nil is that it was taken.
func (n *notices) reloaded(err error) {
	if n == nil {
		return
	}
	if err != nil {
		tell("STATUS=configuration not taken, the old one stays: " + strings.Join(strings.Fields(err.Error()), " "))
	}
	if n.ready.Load() {
		tell(daemon.SdNotifyReady)
	}
}

// finish tells that the end has begun, and how long it may take.
func (n *notices) finish(limit time.Duration) {
	if n == nil {
		return
	}
	close(n.stop)
	<-n.ended
	tell(daemon.SdNotifyStopping, "STATUS=ending", fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", limit.Microseconds()))
}

// tell sends systemd one message of several lines.
func tell(lines ...string) {
	_, _ = daemon.SdNotify(false, strings.Join(lines, "\n"))
}

// ready reports whether the start counts as done.
func ready(pass *reconcile.Pass, waited time.Duration) bool {
	return pass.Applied || waited >= readyPatience
}

// passText is a pass in one line.
func passText(pass *reconcile.Pass) string {
	var waiting []string
	for _, s := range pass.Sources {
		if s.Succeeded.IsZero() {
			waiting = append(waiting, s.Name)
		}
	}
	switch {
	case len(waiting) > 0 && !pass.Applied:
		return "nothing is changed until an answer of " + strings.Join(waiting, ", ")
	case !pass.Applied:
		return "first pass"
	}
	return fmt.Sprintf("%d services, %d problems", len(pass.Want), len(pass.Problems))
}

// alive reports whether passes are made as often as they should: each refresh interval, give or take a tenth. Before the first
// there is nothing that could hang but the sources, which have deadlines of their own.
func alive(pass *reconcile.Pass, refresh time.Duration, now time.Time) bool {
	return pass.At.IsZero() || now.Sub(pass.At) < 2*refresh+passLimit
}
