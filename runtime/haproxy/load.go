package haproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	firstDelay   = time.Second // after a load that failed; doubled each time
	longestDelay = 60 * time.Second
	crashWindow  = 10 * time.Second      // a process that ends sooner after its start is started with growing delay
	loadTimeout  = 60 * time.Second      // for a new worker to answer
	checkEvery   = 10 * time.Millisecond // whether a load has failed: removed services' ports are open until it is known
)

// pace spaces loads: a burst shares one, and one that failed is not repeated at once. A start waits for nothing but starts that failed,
// and processes that ended soon: until then nobody is served.
type pace struct {
	notBefore time.Time // a reload
	startAt   time.Time // no start before
	delay     time.Duration
	started   time.Time // the last start
	err       error     // of the last load; nil when it worked
	file      newFile   // that failed, until HAProxy was asked what is wrong with it
	hash      string    // what the failed load tried
	failedAt  time.Time
}

// next gives when a load may be made.
func (p *pace) next(v view) time.Time {
	if v.plan.start {
		return p.startAt
	}
	return p.notBefore
}

// due reports whether a load may be made now. Another text than the one that failed need not wait as long.
func (p *pace) due(now time.Time, v view) bool {
	if !now.Before(p.next(v)) {
		return true
	}
	return p.err != nil && now.Sub(p.failedAt) >= firstDelay && v.layout.structure().Hash != p.hash
}

// failure gives why a load that is still wanted has failed.
func (p *pace) failure(v view) error {
	if len(v.plan.reloads) == 0 {
		return nil
	}
	return p.err
}

func (p *pace) succeeded(now time.Time, gap time.Duration, start bool) {
	next := pace{notBefore: now.Add(gap), started: p.started}
	if start {
		if now.Sub(p.started) < crashWindow {
			next.delay = p.longer()
		}
		next.started, next.startAt = now, now.Add(next.delay)
	}
	*p = next
}

func (p *pace) failed(now time.Time, start bool, hash string, file newFile, err error) {
	p.file = file
	p.delay = p.longer()
	p.notBefore, p.failedAt, p.hash, p.err = now.Add(p.delay), now, hash, err
	if start {
		p.startAt = p.notBefore
	}
}

// longer gives the next pause.
func (p *pace) longer() time.Duration { return min(max(firstDelay, 2*p.delay), longestDelay) }

// load makes HAProxy build a process from the whole text: a reload, or a start when there is none. Every port that is new is
// proven free and held until the new worker listens on it. An error means that it was not tried; that it failed is told by
// pace, when the pass has put right what a failed load disturbs.
func (d *Driver) load(ctx context.Context, want []*catalog.Service, v view, r *catalog.Report) error {
	addrs := slices.Collect(maps.Keys(v.unproven()))
	how := try
	if uid, known := d.process.binder(); known && uid == os.Geteuid() {
		how = hold
	}
	taken, held, err := prove(d.ports, addrs, v.have.pid, how)
	if err != nil {
		return fmt.Errorf("prove ports free: %w", err)
	}
	defer held.release()
	if len(taken) > 0 {
		return d.quarantine(v, taken) // the caller plans again
	}
	l, err := d.layout(want, structure{})
	if err != nil {
		return err
	}
	st := l.structure()
	made := l.pieces(st.Hash)
	file := newFile{made.appendTo(nil), made}
	failed := func(err error) { d.pace.failed(d.now(), v.plan.start, v.layout.structure().Hash, file, err) }
	if err := d.tryAgain(ctx, l, file.text); err != nil {
		failed(err) // nothing was disturbed
		return nil
	}
	if !d.makeRoom(v, r) {
		return nil // the caller finds that it waits
	}
	if err := d.exchange(ctx, v, l, st, file); err != nil {
		failed(err)
		d.rechecks = 20
		d.Resync()
		return nil
	}
	r.Loaded = d.now()
	d.pace.succeeded(r.Loaded, d.config.ReloadInterval, v.plan.start)
	if !v.plan.start {
		d.crowd.left(v.have.pid, d.now())
	}
	d.verified = nil
	v.reportLoad(r)
	return nil
}

// newFile is a whole haproxy.cfg.
type newFile struct {
	text []byte
	made pieces
}

// exchange writes the text and brings up the process that is built from it. When that fails the old file comes back: it is
// what the old process, or a start by somebody else, needs.
func (d *Driver) exchange(ctx context.Context, v view, l layout, st structure, file newFile) error {
	if err := d.store.save(st, v.have.hash); err != nil {
		return err
	}
	old, err := d.file.replace(file.text, file.made)
	if err != nil {
		return err
	}
	if err := d.exchangeProcess(ctx, v, st.Hash); err != nil {
		if old != nil {
			if _, restoreErr := d.file.replace(old, nil); restoreErr != nil {
				err = errors.Join(err, restoreErr)
			}
		}
		return err
	}
	d.former = v.have.pid
	down := failedChecks(v.have)
	if v.plan.start {
		down = d.beside.Load().dead()
	}
	d.carryDown(ctx, l, down)
	d.carryHands(ctx, l, v.hands)
	return nil
}

func (d *Driver) exchangeProcess(ctx context.Context, v view, hash string) error {
	var err error
	timeout := loadTimeout
	if v.plan.start {
		err = d.process.start(ctx)
	} else {
		err = d.process.reload(ctx)
	}
	if err != nil { // a command may complain and still have worked
		timeout = time.Second
	}
	if waitErr := d.await(ctx, v.have.pid, hash, timeout); waitErr != nil {
		return cmp.Or(err, waitErr)
	}
	return nil
}

// await waits for a new worker that was built from our text. Only that is success: exit codes and the master's counters are
// heard when they tell of a failure.
func (d *Driver) await(ctx context.Context, oldPid int, hash string, timeout time.Duration) error {
	start := d.now()
	checked := start
	for {
		answers, err := d.cli.do(ctx, []string{"show info"})
		if err == nil {
			in, parseErr := parseInfo(plain(answers[0]))
			if parseErr == nil && in.pid != oldPid && !in.stopping && in.hash == hash {
				return nil
			}
		}
		now := d.now()
		if now.Sub(checked) >= checkEvery {
			checked = now
			if err := d.process.refused(ctx); err != nil {
				return err
			}
		}
		if now.Sub(start) >= timeout {
			return fmt.Errorf("no new worker that was built from %s answers on %s after %s", d.config.ConfigFile, d.config.Socket, timeout)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// failedChecks gives the servers that HAProxy's own checks hold for dead. A new process holds all for alive at first.
func failedChecks(have observed) map[catalog.Key]map[string]bool {
	out := map[catalog.Key]map[string]bool{}
	for key, b := range have.built.Services {
		for _, p := range b.Proxies {
			for name, s := range have.servers[p.Name] {
				if !s.up && s.admin == 0 {
					if out[key] == nil {
						out[key] = map[string]bool{}
					}
					out[key][name] = true
				}
			}
		}
	}
	return out
}

// carryDown tells the new process which servers were dead. Its own checks bring them back when they live.
func (d *Driver) carryDown(ctx context.Context, l layout, down map[catalog.Key]map[string]bool) {
	var commands []string
	for key, names := range down {
		s := l.sections.find(key)
		if s == nil {
			continue
		}
		for _, p := range s.proxies {
			for _, line := range p.servers {
				if names[line.name] && line.checked {
					commands = append(commands, "set server "+p.name+"/"+line.name+" health down")
				}
			}
		}
	}
	d.tell(ctx, commands) // where it fails, the checks find out again
}

// tell sends commands to the new process, again where the old one has taken them. It fails silently.
func (d *Driver) tell(ctx context.Context, commands []string) {
	for chunk := range slices.Chunk(commands, batchSize-1) {
		batch := slices.Concat([]string{"show info"}, chunk)
		for deadline := d.now().Add(stoppingFor); d.now().Before(deadline); time.Sleep(stoppingAgain) {
			answers, err := d.cli.do(ctx, batch)
			if err != nil {
				return
			}
			if in, err := parseInfo(plain(answers[0])); err != nil || d.serves(in) {
				break
			}
		}
	}
}
