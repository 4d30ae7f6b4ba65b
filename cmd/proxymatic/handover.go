package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	frozenLimit = 30 * time.Second // for a successor to bring up its proxies
	endingLimit = 3 * time.Second  // when a signal wants this run to end meanwhile
	offerLimit  = 10 * time.Second // for looking at the running proxies
	againPause  = time.Second      // when a run that was frozen cannot go on
)

// handOver freezes the run for a successor: nothing is read, nothing changed, the proxies go on. When the successor has
// committed, the run directory is let go of, the proxies drain, and gone is true. Or else, whatever went wrong, the run goes on as
// after a HUP, with the same configuration.
func (r *runner) handOver(current *instance, end ending, l *lease) (code int, gone bool) {
	current.log.Info("a successor takes over: frozen until its proxies serve")
	if err := end(false, nothing); err != nil {
		current.log.Error("not frozen cleanly", "err", err)
	}
	o := current.offer()
	reason := o.Error
	if text, err := json.Marshal(o); err != nil {
		reason = err.Error()
	} else if err := l.say(string(text)); err != nil && reason == "" {
		reason = "it left: " + err.Error()
	}
	if reason == "" && r.decide(l) && l.say(wordReady) == nil { // a successor that died since has no proxies that live
		r.letGo()
		_ = l.say(wordReleased) // it tries the lock anyway
		current.log.Info("handed over; draining")
		defer l.end()
		return r.leave(current, o.From), true
	}
	current.log.Warn("the successor did not take over; this run goes on", "reason", reason)
	if err := o.From.settle(current.config.RunDir); err != nil {
		current.log.Error("say where the proxies are", "err", err)
	}
	r.group.Go(func() { r.clearUp(current, o.Place, l) })
	return 0, false
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

// ended is the ending of an instance that has ended already.
func ended(_ bool, last func() error) error { return last() }

// decide waits for the successor's commitment. Signals wait for what comes of it.
func (r *runner) decide(l *lease) bool {
	limit := time.NewTimer(frozenLimit)
	defer limit.Stop()
	for {
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
			if r.waiting = append(r.waiting, sig); sig != syscall.SIGHUP {
				limit.Reset(endingLimit)
			}
		}
	}
}

// again gives the instance that goes on in the place of one that was frozen. It is nil when a signal came before a template, say, that
// somebody has removed could be read again.
func (r *runner) again(frozen *instance) *instance {
	for {
		next, err := newInstance(frozen.config, r.stderr, frozen, neighbours{})
		if err == nil {
			next.loop.Continue(frozen.loop)
			return next
		}
		frozen.log.Error("this run cannot go on yet; its proxies do", "err", err)
		select {
		case sig := <-r.signals:
			if r.waiting = append(r.waiting, sig); sig != syscall.SIGHUP {
				return nil
			}
		case <-time.After(againPause):
		}
	}
}

// offer tells a successor what it needs to know. The instance must have ended.
func (i *instance) offer() offer {
	ctx, cancel := context.WithTimeout(context.Background(), offerLimit)
	defer cancel()
	c := i.config
	o := offer{Place: nextPlace(c.RunDir), From: c.Place}
	fail := func(err error) offer {
		return offer{Place: o.Place, From: o.From, Error: "it hands nothing over: " + err.Error()}
	}
	if i.drivers.haproxy != nil {
		if c.HAProxyStart != managed {
			return fail(fmt.Errorf("its HAProxy is not its own, but run by %q", c.HAProxyStart))
		}
		serving, err := i.drivers.haproxy.Serving(ctx)
		if err != nil {
			return fail(err)
		}
		socket := c.proxySocket()
		if inside, err := filepath.Rel(c.RunDir, socket); err == nil && filepath.IsLocal(inside) {
			socket = inside
		}
		o.HAProxy = &haproxyOffer{socket, serving}
	}
	var err error
	if o.Pens, err = i.drivers.pen.Serving(ctx); err != nil {
		return fail(err)
	}
	for _, s := range i.loop.Snapshots() {
		o.Snapshots = append(o.Snapshots, snapshotToJSON(s))
	}
	return o
}

// leave ends the proxies of a run that was handed over, and removes what they leave. It gives the exit code.
func (r *runner) leave(last *instance, from place) int {
	code := r.finish(last, ended, true)
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
		old, err := i.config.in(p).drivers(neighbours{})
		if err != nil {
			i.log.Warn("proxies of a former run cannot be looked for", "place", p.dir(i.config.RunDir), "err", err)
			continue
		}
		r.group.Go(func() {
			ctx, cancel := context.WithTimeout(r.ctx, i.config.Drain+closeGrace)
			defer cancel()
			err := closeAll(ctx, old.all(), true)
			select { // one that was just being started by a process that is gone does not show who it is at once
			case <-ctx.Done():
			case <-time.After(startGrace):
			}
			err = errors.Join(err, closeAll(ctx, old.all(), true))
			if err == nil && r.ctx.Err() == nil {
				err = p.clear(i.config.RunDir)
			}
			if err != nil {
				i.log.Warn("proxies of a former run may be left", "place", p.dir(i.config.RunDir), "err", err)
			}
		})
	}
}
