package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	frozenLimit = 30 * time.Second // for a successor to bring up its proxies
	endingLimit = 2 * time.Second  // when a signal wants this run to end meanwhile: the image then drains for 7 s, and Docker waits for 10 s
	offerLimit  = 10 * time.Second // for looking at the running proxies
)

// handOver freezes the run for a successor: nothing is read, nothing changed, the proxies go on. When the successor has
// committed, the run directory is let go of, the proxies drain, and gone is true. Or else, whatever went wrong, the run goes on
// with what it has.
func (r *runner) handOver(current *instance, end ending, l *lease) (code int, gone bool) {
	current.log.Info("a successor takes over: frozen until its proxies serve")
	if err := end(false, nothing); err != nil {
		current.log.Error("not frozen cleanly", "err", err)
	}
	o, err := current.offer()
	if err != nil {
		current.log.Warn("nothing is handed over; this run goes on", "err", err)
		l.refuse("it hands nothing over: " + err.Error())
		return 0, false
	}
	if err = l.offer(o); err == nil && r.decide(l) && l.say(wordReady) == nil { // what it has brought up is ended if it died since
		if err := o.Place.settle(current.config.RunDir); err != nil {
			current.log.Error("the successor must say itself where the proxies are", "err", err)
		}
		r.letGo()
		current.log.Info("handed over; draining")
		defer l.end()
		return r.leave(current, o.From), true
	}
	current.log.Warn("the successor did not take over; this run goes on", "reason", l.reason(err))
	r.group.Go(func() { r.clearUp(current, o.Place, l) })
	return 0, false
}

// reason tells why a lease came to nothing. The successor knows more.
func (l *lease) reason(err error) string {
	switch {
	case err != nil:
		return "it left: " + err.Error()
	case l.gaveUp:
		return "it has given up"
	}
	return "it has ended, or was too slow"
}

// startGrace is the longest that a proxy takes from its fork until it can be told by its command line or socket.
const startGrace = 500 * time.Millisecond

// clearUp ends what a successor that did not take over may have left.
func (r *runner) clearUp(current *instance, of place, l *lease) {
	defer l.end()
	if l.gaveUp {
		defer context.AfterFunc(r.ctx, func() { _ = l.conn.Close() })()
		for range l.lines { // until it has done that itself
		}
	}
	r.sweep(current, of)
}

func nothing() error { return nil }

// decide waits for the successor's commitment. Signals wait for what comes of it, but not for long, and not once there is a second.
func (r *runner) decide(l *lease) bool {
	limit := time.NewTimer(frozenLimit)
	defer limit.Stop()
	for asked := false; ; {
		select {
		case word, open := <-l.lines:
			switch {
			case !open:
				return false
			case word == wordGiveUp:
				l.gaveUp = true
				return false
			case word == wordCommit:
				return true
			case word == wordReady && l.say(wordReady) != nil:
				return false
			}
		case <-limit.C:
			return l.lastWord()
		case sig := <-r.signals:
			switch r.waiting = append(r.waiting, sig); {
			case sig == syscall.SIGHUP:
			case asked:
				return l.lastWord()
			default:
				asked = true
				limit.Reset(endingLimit)
			}
		}
	}
}

// offer gives what a successor needs to know. The instance must have ended.
func (i *instance) offer() (offer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), offerLimit)
	defer cancel()
	c := i.config
	o := offer{From: c.Place}
	if i.drivers.haproxy != nil {
		if c.HAProxyStart != managed {
			return o, fmt.Errorf("its HAProxy is not its own, but run by %q", c.HAProxyStart)
		}
		serving, err := i.drivers.haproxy.Serving(ctx)
		if err != nil {
			return o, err
		}
		socket := c.proxySocket()
		if inside, err := filepath.Rel(c.RunDir, socket); err == nil && filepath.IsLocal(inside) {
			socket = inside
		}
		o.HAProxy = &haproxyOffer{socket, serving}
	}
	var err error
	if o.Pens, err = i.drivers.pen.Serving(ctx); err != nil {
		return o, err
	}
	for _, s := range i.loop.Snapshots() {
		o.Snapshots = append(o.Snapshots, snapshotToJSON(s))
	}
	o.Place, err = c.Place.next(c.RunDir)
	return o, err
}

// leave ends the proxies of a run that was handed over, and removes what they leave. It gives the exit code.
func (r *runner) leave(last *instance, from place) int {
	ended := func(_ bool, last func() error) error { return last() }
	code := r.finish(last, ended, true, false)
	if code == exitOK {
		if err := from.clear(last.config.RunDir); err != nil {
			last.log.Warn("not all files of the former proxies could be removed", "err", err)
		}
	}
	return code
}

// sweep ends what may be left in the places of runs that were killed, without cutting connections, as long as this run lasts. What
// another container has left has ended with it.
func (r *runner) sweep(i *instance, of ...place) {
	for _, p := range of {
		if _, err := os.Stat(p.dir(i.config.RunDir)); err != nil || p == i.config.Place {
			continue
		}
		r.group.Go(func() {
			if err := r.sweepOne(i.config, p); err != nil && r.ctx.Err() == nil {
				i.log.Warn("proxies of a former run may be left", "place", p.dir(i.config.RunDir), "err", err)
			}
		})
	}
}

// sweepOne sweeps one place. Where the run ends first, the next one does the rest.
func (r *runner) sweepOne(c Config, of place) error {
	// Templates of the user's are not needed to end anything, and only an HAProxy of our own is to be ended.
	c.HAProxyStart, c.HAProxyReload, c.HAProxyTemplate, c.PenTemplate = managed, managed, "", ""
	old, err := c.in(of).drivers(neighbours{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.ctx, c.Drain+closeGrace)
	defer cancel()
	err = closeAll(ctx, old.all(), true)
	select { // one that was just being started by a process that is gone does not show who it is at once
	case <-ctx.Done():
	case <-time.After(startGrace):
	}
	if err = errors.Join(err, closeAll(ctx, old.all(), true), r.ctx.Err()); err != nil {
		return err
	}
	return of.clear(c.RunDir)
}
