package pen

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// Plan observes all pens and tells what Apply would do now, had it to look at everything.
func (d *Driver) Plan(ctx context.Context, want []*catalog.Service) (catalog.Report, error) {
	v, err := d.view(want, true)
	if err != nil {
		return catalog.Report{}, err
	}
	v.each(func(u *unit) { d.look(ctx, u) })
	if err := ctx.Err(); err != nil {
		return catalog.Report{}, fmt.Errorf("look at the running pens: %w", err)
	}
	r := catalog.Report{}
	for _, u := range v.units {
		if !d.waits(u) {
			r.Changes = append(r.Changes, u.plan.changes...)
		}
	}
	d.describe(v, &r)
	return r, v.refusal()
}

// Apply makes pens offer what is wanted: it observes, plans, acts, and reads back. What goes wrong with one service is a
// problem of that service; it is tried again by itself. An error is about all of them.
func (d *Driver) Apply(ctx context.Context, want []*catalog.Service) (catalog.Report, error) {
	v, err := d.view(want, d.resync.Swap(false)) // at once: a pen that ends meanwhile asks for it again
	if err != nil {
		d.Resync()
		return catalog.Report{}, err
	}
	hindrance := d.hindrance(v)
	v.each(func(u *unit) {
		d.look(ctx, u)
		d.bring(ctx, u)
	})
	r := catalog.Report{Drift: d.drift(v)}
	for _, u := range v.units {
		r.Changes = append(r.Changes, u.done...)
	}
	d.remember(v)
	if v.all && ctx.Err() == nil {
		d.files.clean(v)
	}
	d.describe(v, &r)
	return r, errors.Join(ctx.Err(), hindrance)
}

// refusal tells why no pen can be started, whatever the service.
func (v view) refusal() error {
	if len(v.want) > 0 && Installed() == "" {
		return errNotInstalled
	}
	return v.refused
}

// hindrance makes the directories for pens, and tells why none can be started.
func (d *Driver) hindrance(v view) error {
	err := v.refusal()
	if err == nil && len(v.want) > 0 {
		err = d.files.prepare(d.user)
	}
	return err
}

// drift gives the changes that repaired what somebody else had changed: the service is the same that was proven before.
func (d *Driver) drift(v view) []catalog.Change {
	var out []catalog.Change
	for _, u := range v.units {
		was, known := d.verified[u.key]
		if known && u.want != nil && was.service.Equal(u.want.service) && was.process == u.have.process && u.plan.action == update {
			out = append(out, u.done...)
		}
	}
	return out
}

// waits reports whether a pen is not started yet because that failed before.
func (d *Driver) waits(u unit) bool {
	return (u.plan.action == start || u.plan.action == replace) && d.now().Before(d.failure(u.key).until)
}

// bring brings one service to what is wanted, and proves it.
func (d *Driver) bring(ctx context.Context, u *unit) {
	if ctx.Err() != nil {
		return // what was observed may be wrong
	}
	d.count(u.have.process, u.have.deaf)
	var err error
	for _, stray := range u.have.strays {
		err = errors.Join(err, d.files.stop(ctx, stray))
	}
	if len(u.have.strays) > 0 && err == nil {
		d.files.removeOthers(u.have.process)
	}
	if err == nil && d.waits(*u) {
		return
	}
	serving, actErr := d.act(ctx, *u)
	if err = errors.Join(err, actErr); err != nil {
		if ctx.Err() == nil {
			d.fail(u.key, err.Error())
		}
		return
	}
	u.done = u.plan.changes
	if u.want != nil && u.want.refused == "" {
		u.serving, u.sharer = serving, sharer(u.want.command, append(d.neighbour(u.key), serving))
	}
	d.succeed(u.key, u.want == nil)
}

// act does what the plan says and gives the pen that serves then.
func (d *Driver) act(ctx context.Context, u unit) (process, error) {
	switch u.plan.action {
	case stop:
		err := d.files.stop(ctx, u.have.process)
		if err == nil {
			d.files.remove(u.key)
		}
		return process{}, err
	case start, replace:
		return d.begin(ctx, u)
	case update:
		if err := d.tell(ctx, u); err != nil {
			return process{}, err
		}
	case nothing:
		if u.have.deaf != nil {
			return process{}, u.have.deaf
		}
		if u.key.Proto == catalog.UDP && len(u.have.table.slots) < u.have.table.size-1 {
			return u.have.process, d.moveFlows(ctx, u.have.process, u.have.table)
		}
	}
	return u.have.process, nil
}

// begin starts a pen. One that is to be replaced goes on until the new one answers: both have the port then, which only two of the
// same user can.
func (d *Driver) begin(ctx context.Context, u unit) (process, error) {
	c, old := u.want.command, u.have
	others := append(d.neighbour(c.key), old.all()...)
	if err := checkPort(c, others); err != nil {
		return process{}, err
	}
	if err := d.files.prepare(d.user); err != nil { // it may have been removed since
		return process{}, err
	}
	text, err := d.render.text(u.want.service, c.options, u.plan.next)
	if err != nil {
		return process{}, err
	}
	if err := put(d.files.config(c.key, c.id()), text); err != nil {
		return process{}, err
	}
	if old.pid != 0 && old.uid != u.want.uid {
		if Installed() == "" {
			return process{}, errNotInstalled
		}
		if err := d.files.stop(ctx, old.process); err != nil {
			return process{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return process{}, err
	}
	started, err := d.start(c)
	if err != nil {
		return process{}, err
	}
	err = d.verify(ctx, started.process, u.plan.next)
	if err == nil { // another may have come at the same time
		err = checkPort(c, append(others, started.process))
	}
	if err != nil {
		return process{}, errors.Join(err, d.files.kill(ctx, started.process))
	}
	end := d.files.stop
	if old.deaf != nil {
		end = d.files.kill
	}
	if old.pid != 0 {
		if err := end(ctx, old.process); err != nil {
			return process{}, err
		}
	}
	d.files.removeOthers(started.process)
	return started.process, nil
}

// tell gives a running pen its servers.
func (d *Driver) tell(ctx context.Context, u unit) error {
	p := u.have.process
	text, err := d.render.text(u.want.service, u.want.command.options, u.plan.next)
	if err != nil {
		return err
	}
	if err := put(d.files.config(p.key, p.id), text); err != nil {
		return err
	}
	if err := d.command(ctx, p, tableLines(u.plan.next, u.have.table)); err != nil {
		return err
	}
	d.files.trimLog(p.key)
	return d.verify(ctx, p, u.plan.next)
}

// verify proves that a pen has these servers, and moves the UDP flows of those that it had.
func (d *Driver) verify(ctx context.Context, p process, want slots) error {
	t, err := d.servers(ctx, p)
	if err != nil {
		return err
	}
	if !maps.Equal(t.slots, want) {
		return fmt.Errorf("pen %d was told the servers %v, and has %v", p.pid, want, t.slots)
	}
	if p.key.Proto == catalog.UDP && len(t.slots) < t.size-1 {
		return d.moveFlows(ctx, p, t)
	}
	return nil
}

// remember keeps what was proven, has the pens watched, and sets when what failed is tried again.
func (d *Driver) remember(v view) {
	if v.all {
		d.verified = map[catalog.Key]proof{}
	}
	seen := map[int]bool{}
	for _, u := range v.units {
		seen[u.have.pid] = true
		delete(d.verified, u.key)
		if u.serving.pid != 0 {
			d.verified[u.key] = proof{u.want.service, u.serving, u.sharer}
		}
		if v.all {
			d.files.trimLog(u.key)
		}
	}
	var pens []process
	alive := map[int]bool{}
	for _, p := range d.verified {
		pens = append(pens, p.process)
		alive[p.process.pid] = true
	}
	latest(d.pens, pens)
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.ended, func(pid int, _ bool) bool { return !alive[pid] })
	maps.DeleteFunc(d.missed, func(pid, _ int) bool { return v.all && !seen[pid] })
	maps.DeleteFunc(d.children, func(pid int, c *child) bool {
		select {
		case <-c.done:
			return !alive[pid]
		default:
			return false
		}
	})
	var next time.Time
	for _, f := range d.failures {
		if f.reason != "" && (next.IsZero() || f.until.Before(next)) {
			next = f.until
		}
	}
	if !next.IsZero() {
		latest(d.alarm, max(0, next.Sub(d.now())))
	}
}

// latest puts a value into a channel of size 1, in the place of one that nobody took. One goroutine alone sends.
func latest[T any](ch chan T, v T) {
	select {
	case <-ch:
	default:
	}
	ch <- v
}

// describe adds the problems and what an operator wants to know.
func (d *Driver) describe(v view, r *catalog.Report) {
	d.mu.Lock()
	for key, f := range d.failures {
		title := key.String()
		if w := v.want[key]; w != nil {
			title = w.service.Title()
		}
		v.note(title, f.reason)
	}
	for key, p := range d.verified {
		w := v.want[key]
		if w != nil {
			v.note(w.service.Title(), p.sharer)
		}
		if w != nil && d.busy[p.process.pid] {
			v.note(w.service.Title(), fmt.Sprintf("its pen (pid %d) takes a whole core, with traffic or by a fault of pen (see the README); it is replaced when it has no connection",
				p.process.pid))
		}
	}
	d.mu.Unlock()
	slices.SortFunc(v.problems, func(a, b catalog.Problem) int {
		return slices.Compare([]string{a.Subject, a.Reason}, []string{b.Subject, b.Reason})
	})
	r.Problems = v.problems
	r.Facts = []catalog.Fact{{Name: "served", Value: strconv.Itoa(len(d.verified))}}
	if len(v.want) > 0 {
		r.Facts = append(r.Facts, catalog.Fact{Name: "user", Value: d.user.name})
	}
}
