package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	inheritLimit = time.Second      // for the kernel to give back the lock of a holder that has died

	lockPause      = 5 * time.Millisecond
	lockPauseLimit = 250 * time.Millisecond
)

// errGone says that the holder has ended or goes on without us.
var errGone = errors.New("the proxymatic that holds the run directory has broken off")

// takeOver starts the run beside the one that holds the run directory: our proxies take over its sockets and ports, and when they serve
// all that it serves it closes its own. Until that was committed, any failure leaves it as it was.
func (r *runner) takeOver(c Config) (ending, error) {
	fail := func(err error) (ending, error) { return nil, fmt.Errorf("--take-over: %w", err) }
	if _, err := newInstance(c, io.Discard, &instance{}, neighbours{}); err != nil {
		return fail(err) // before anybody waits for us
	}
	l, o, err := askLease(c.controlSocket(), askLimit)
	if err != nil {
		return fail(err)
	}
	next, err := r.successor(c.in(o.Place), o)
	if err != nil {
		l.end()
		return fail(err)
	}
	next.log.Info("taking over: the holder of the run directory waits", "services", len(o.serving()), "place", next.config.proxyDir())
	end := next.start()
	inherited, err := r.bringUp(next, o, l)
	if err == nil && !inherited {
		if err = commit(l); errors.Is(err, errGone) && r.inherit(c) {
			inherited, err = true, nil
		}
	}
	if err != nil {
		return fail(r.giveUp(next, end, l, err))
	}
	next.hello()
	r.current.Store(next)
	r.group.Go(func() { r.claim(next.config, l, inherited) })
	return end, nil
}

// giveUp ends an instance that cannot take over. The holder goes on at once, while our proxies finish what they have accepted.
func (r *runner) giveUp(next *instance, end ending, l *lease, why error) error {
	defer l.end()
	next.log.Error("not taken over", "err", why)
	err := end(false, nothing) // first, since the holder needs the status endpoint
	_ = l.say(wordGiveUp)      // it may be gone
	_, asked := errors.AsType[signalled](why)
	return errors.Join(why, err, r.patiently(asked, func() error {
		return errors.Join(next.close(true), next.config.Place.clear(next.config.RunDir))
	}))
}

// inherit takes the run directory of a holder that has ended. One that was killed gives back what it had bit by bit, so that the lock
// may come after the end of the lease; one that lives keeps it.
func (r *runner) inherit(c Config) bool {
	for began := time.Now(); time.Since(began) < inheritLimit; time.Sleep(lockPause) {
		if held, err := lock(c.RunDir); err == nil {
			r.hold(held)
			return true
		}
	}
	return false
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
	if o.HAProxy != nil && len(o.HAProxy.Serving.Listens) > 0 { // or else it does not run
		beside.haproxy = &haproxy.Beside{Socket: o.HAProxy.Socket, Listens: o.HAProxy.Serving.Listens, Down: o.HAProxy.Serving.Down}
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

// bringUp waits until our proxies serve all that the holder's do and that is still wanted. If the holder dies meanwhile, its proxies may
// serve on, so that ours must be as good as for one that lives: then it has left us the run directory, which inherited tells.
func (r *runner) bringUp(next *instance, o offer, l *lease) (inherited bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), bringUpLimit)
	defer cancel()
	var applied time.Time
	lines := l.lines
	lacking := errors.New("no pass was made: " + silence(next.loop.Pass()))
	for {
		select {
		case <-ctx.Done():
			return inherited, fmt.Errorf("not ready after %s: %w", bringUpLimit, lacking)
		case sig := <-r.signals:
			if number, ok := sig.(syscall.Signal); ok && sig != syscall.SIGHUP {
				return inherited, signalled(number)
			}
			r.waiting = append(r.waiting, sig)
			continue
		case _, open := <-lines:
			if open {
				continue
			}
			if lines, inherited = nil, r.inherit(next.config); !inherited {
				return false, errGone
			}
			next.log.Warn("the holder of the run directory has ended before it could hand over")
		case <-time.After(lockPause):
		}
		pass := next.loop.Pass()
		if pass.Passes == 0 {
			lacking = errors.New("no pass was made: " + silence(pass))
			continue
		}
		if err := failed(pass); err != nil {
			return inherited, err
		}
		if lacking = next.lacks(ctx, o.serving(), pass.Want); lacking == nil {
			return inherited, nil
		}
		if applied.IsZero() {
			applied = time.Now()
		}
		if time.Since(applied) > lackingLimit {
			return inherited, lacking
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
func commit(l *lease) error {
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
	if l.say(wordCommit) != nil {
		return errGone
	}
	return nil
}

// claim takes the run directory when the former holder lets go of it, unless it was inherited, and follows that until it has ended. Then it
// ends what former runs have left.
func (r *runner) claim(c Config, l *lease, inherited bool) {
	defer context.AfterFunc(r.ctx, func() { _ = l.conn.Close() })()
	defer l.end()
	log := r.current.Load().log
	if !inherited && !r.waitForLock(c, log) {
		return
	}
	left := append(places(c.RunDir), 0) // before a successor of our own can have one
	if err := errors.Join(c.Place.settle(c.RunDir), r.own(c)); err != nil {
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
	r.sweep(current, left...)
}

// waitForLock takes the lock when the former holder lets go of it. It is false when our own run ends before.
func (r *runner) waitForLock(c Config, log *slog.Logger) bool {
	began, named := time.Now(), false
	for pause := lockPause; ; pause = min(2*pause, lockPauseLimit) {
		held, err := lock(c.RunDir)
		if err == nil {
			r.hold(held)
			return true
		}
		if !named && time.Since(began) > releaseLimit {
			log.Error("the former holder has not let go of the run directory, and may take a part of the clients still; end it", "err", err)
			named = true
		}
		select {
		case <-r.ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}
