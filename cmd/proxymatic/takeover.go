package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/meltwater/proxymatic/runtime/haproxy"
	"github.com/meltwater/proxymatic/runtime/reconcile"
	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	askLimit     = 15 * time.Second // for the holder to freeze, which must end the pass that it makes
	bringUpLimit = 20 * time.Second // for our proxies to serve; the holder waits longer
	lackingLimit = 3 * time.Second  // for single services, once the first pass was made
	readyLimit   = 3 * time.Second  // for the holder to say that it is there
	releaseLimit = 10 * time.Second // for the holder to let go of the lock, until its hanging is worth a line
	lockPause    = 5 * time.Millisecond
)

// errGone says that the holder has ended or goes on without us.
var errGone = errors.New("the proxymatic that holds the run directory has broken off")

// takeOver starts the run beside the one that holds the run directory: our proxies take over its sockets and ports, and when they serve
// all that it serves it closes its own. Until that was committed, any failure leaves it as it was.
func (r *runner) takeOver(c Config) (ending, error) {
	l, o, err := askLease(c.controlSocket(), askLimit)
	if err != nil {
		return nil, fmt.Errorf("--take-over: %w", err)
	}
	next, err := r.successor(c.in(o.Place), o)
	if err != nil {
		l.end()
		return nil, fmt.Errorf("--take-over: %w", err)
	}
	next.log.Info("taking over: the holder of the run directory waits", "services", len(o.serving()), "place", next.config.proxyDir())
	end := next.start()
	err = r.bringUp(next, o, l)
	if err == nil {
		err = commit(next.config, l)
	}
	if errors.Is(err, errGone) {
		if r.held, _ = lock(c.RunDir); r.held != nil { // it has ended
			err = next.config.Place.settle(c.RunDir)
		}
	}
	if err != nil {
		defer l.end()
		_ = l.say(wordGiveUp) // it may be gone
		return nil, fmt.Errorf("--take-over: %w", errors.Join(err, end(true, func() error { return next.close(true) }), o.Place.clear(c.RunDir)))
	}
	next.hello()
	r.current.Store(next)
	r.group.Go(func() { r.claim(next.config, o, l) })
	return end, nil
}

// successor prepares an instance beside the holder's. Nothing happens until it is started.
func (r *runner) successor(c Config, o offer) (*instance, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.HAProxy != (o.HAProxy != nil) {
		return nil, errors.New("the proxymatic that holds the run directory has another --haproxy: end it first, their proxies cannot have the same ports")
	}
	beside := neighbours{pens: o.Pens}
	if o.HAProxy != nil {
		beside.haproxy = &haproxy.Beside{Socket: o.HAProxy.Socket, Listens: o.HAProxy.Serving.Listens}
		if filepath.IsLocal(beside.haproxy.Socket) {
			beside.haproxy.Socket = filepath.Join(c.RunDir, beside.haproxy.Socket)
		}
		conn, err := net.DialTimeout("unix", beside.haproxy.Socket, time.Second)
		if err != nil {
			return nil, fmt.Errorf("the stats socket of its HAProxy cannot be reached from here: %w; let --haproxy-socket lie in the run directory", err)
		}
		_ = conn.Close() // nothing was said
	}
	var snaps []catalog.Snapshot
	for _, j := range o.Snapshots {
		s, err := j.snapshot()
		if err != nil {
			return nil, fmt.Errorf("read what it knows: %w", err)
		}
		snaps = append(snaps, s)
	}
	if err := os.MkdirAll(c.proxyDir(), 0o755); err != nil {
		return nil, err
	}
	next, err := newInstance(c, r.stderr, &instance{}, beside)
	if err != nil {
		return nil, err
	}
	next.loop.Adopt(snaps)
	return next, os.Chmod(c.proxyDir(), 0o755) // whatever the umask: pen is another user
}

// serving gives all services that the holder serves.
func (o offer) serving() []catalog.Key {
	keys := slices.Clone(o.Pens)
	if o.HAProxy != nil {
		keys = append(keys, o.HAProxy.Serving.Services...)
	}
	return keys
}

// bringUp waits until our proxies serve all that the holder's do and that is still wanted.
func (r *runner) bringUp(next *instance, o offer, l *lease) error {
	ctx, cancel := context.WithTimeout(context.Background(), bringUpLimit)
	defer cancel()
	var applied time.Time
	lacking := errors.New("no pass was made: " + silence(next.loop.Pass()))
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready after %s: %w", bringUpLimit, lacking)
		case sig := <-r.signals:
			if sig == syscall.SIGHUP {
				r.waiting = append(r.waiting, sig)
				continue
			}
			return fmt.Errorf("ended by a signal: %s", sig)
		case _, open := <-l.lines:
			if !open {
				return errGone
			}
		case <-time.After(lockPause):
		}
		pass := next.loop.Pass()
		if pass.Passes == 0 {
			lacking = errors.New("no pass was made: " + silence(pass))
			continue
		}
		if err := failed(pass); err != nil {
			return err
		}
		if lacking = next.lacks(ctx, o.serving(), pass.Want); lacking == nil {
			return nil
		}
		if applied.IsZero() {
			applied = time.Now()
		}
		if time.Since(applied) > lackingLimit {
			return lacking
		}
	}
}

// silence names the sources that keep the first pass waiting.
func silence(pass *reconcile.Pass) string {
	var out []string
	for _, s := range pass.Sources {
		if s.Succeeded.IsZero() {
			out = append(out, strings.TrimSpace("source "+s.Name+" has not answered "+s.Err))
		}
	}
	return strings.Join(out, "; ")
}

func failed(pass *reconcile.Pass) error {
	for _, d := range pass.Drivers {
		if d.Err != "" {
			return fmt.Errorf("driver %s: %s", d.Name, d.Err)
		}
	}
	return nil
}

// lacks names services that the holder serves, that are wanted, and that our proxies do not serve.
func (i *instance) lacks(ctx context.Context, theirs []catalog.Key, want []*catalog.Service) error {
	ours, err := i.drivers.pen.Serving(ctx)
	if err != nil {
		return err
	}
	if i.drivers.haproxy != nil {
		serving, err := i.drivers.haproxy.Serving(ctx)
		if err != nil {
			return err
		}
		ours = append(ours, serving.Services...)
	}
	served := map[catalog.Key]bool{}
	for _, key := range ours {
		served[key] = true
	}
	var names []string
	for _, s := range want {
		if slices.Contains(theirs, s.Key) && !served[s.Key] {
			names = append(names, s.Title())
		}
	}
	if len(names) == 0 {
		return nil
	}
	var why []string
	for _, p := range i.loop.Pass().Problems {
		why = append(why, p.Subject+": "+p.Reason)
	}
	return fmt.Errorf("%d services are not served, %s for one; problems: %s", len(names), names[0], strings.Join(why, "; "))
}

// commit passes the point of no return: from then on our proxies are those that serve. It fails before that point only.
func commit(c Config, l *lease) error {
	if l.say(wordReady) != nil {
		return errGone
	}
	switch word, ok := l.hear(readyLimit); {
	case word == wordReady:
	case ok:
		return fmt.Errorf("the proxymatic that holds the run directory says %q", word)
	case l.say(wordReady) != nil:
		return errGone
	default:
		return fmt.Errorf("the proxymatic that holds the run directory has not answered within %s: it hangs", readyLimit)
	}
	if err := c.Place.settle(c.RunDir); err != nil {
		return err
	}
	if l.say(wordCommit) != nil {
		return errGone
	}
	return nil
}

// claim takes the run directory when the former holder lets go of it, and follows that until it has ended.
func (r *runner) claim(c Config, o offer, l *lease) {
	defer context.AfterFunc(r.ctx, func() { _ = l.conn.Close() })()
	defer l.end()
	log := r.current.Load().log
	late := time.Now().Add(releaseLimit)
	for err := error(nil); r.held == nil; {
		if r.held, err = lock(c.RunDir); err == nil {
			break
		}
		if !late.IsZero() && time.Now().After(late) {
			log.Error("the former holder has not let go of the run directory, and may take a part of the clients still; end it", "err", err)
			late = time.Time{}
		}
		select {
		case <-r.ctx.Done():
			return
		case <-time.After(lockPause):
		}
	}
	if err := r.own(c); err != nil {
		log.Error("the run directory cannot be used fully", "err", err)
	}
	log.Info("taken over; the former proxies drain")
	for range l.lines { // until the former holder has ended
	}
	if r.ctx.Err() != nil {
		return
	}
	current := r.current.Load()
	for _, d := range current.drivers.all() {
		d.Alone()
	}
	current.loop.Wake()
	current.log.Info("the former holder has ended")
	r.sweep(current, o.From)
}
