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

// Plan observes the pens and tells what Apply would do now.
func (d *Driver) Plan(ctx context.Context, want []catalog.Service) (catalog.Report, error) {
	v, err := d.view(want, d.resync.Load())
	if err != nil {
		return catalog.Report{}, err
	}
	v.each(func(_ int, u *unit) { d.look(ctx, u) })
	r := catalog.Report{}
	for _, u := range v.units {
		if !d.waits(u) {
			r.Changes = append(r.Changes, u.plan.changes...)
		}
	}
	d.describe(v, &r)
	return r, nil
}

// Apply makes pens offer what is wanted: it observes, plans, acts, and reads back. What goes wrong with one service is a
// problem of that service; it is tried again by itself.
func (d *Driver) Apply(ctx context.Context, want []catalog.Service) (catalog.Report, error) {
	v, err := d.view(want, d.resync.Swap(false)) // at once: a pen that ends meanwhile asks for it again
	if err != nil {
		d.Resync()
		return catalog.Report{}, err
	}
	results := make([]result, len(v.units))
	v.each(func(i int, u *unit) {
		d.look(ctx, u)
		results[i] = d.bring(ctx, *u)
	})
	r := catalog.Report{}
	for _, res := range results {
		r.Changes = append(r.Changes, res.changes...)
	}
	r.Drift = d.drift(v, results)
	d.remember(v, results)
	if v.all {
		d.files.clean(v, results)
	}
	d.describe(v, &r)
	return r, ctx.Err()
}

// result is what came of a service.
type result struct {
	process process // that serves it as is wanted; its pid is 0 when none does
	changes []catalog.Change
}

// drift gives the changes that repair what somebody else has changed: the service is the same that was proven before.
func (d *Driver) drift(v view, results []result) []catalog.Change {
	var out []catalog.Change
	for i, u := range v.units {
		was, known := d.verified[u.key]
		if known && u.want != nil && was.service.Equal(u.want.service) && was.process == u.have.process && u.plan.action == update {
			out = append(out, results[i].changes...)
		}
	}
	return out
}

// waits reports whether a service that failed is not tried yet.
func (d *Driver) waits(u unit) bool {
	return u.plan.action != nothing && u.plan.action != stop && d.now().Before(d.failure(u.key).until)
}

// bring brings one service to what is wanted, and proves it.
func (d *Driver) bring(ctx context.Context, u unit) result {
	if d.waits(u) {
		return result{}
	}
	serving, err := d.act(ctx, u)
	for _, stray := range u.have.strays {
		err = errors.Join(err, d.files.stop(ctx, stray))
	}
	switch {
	case err != nil:
		d.fail(u.key, err.Error())
		return result{}
	case u.want == nil || u.want.refused != "":
		return result{changes: u.plan.changes}
	}
	d.succeed(u.key)
	return result{serving, u.plan.changes}
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
		if u.key.Proto == catalog.UDP && u.have.pid != 0 {
			return u.have.process, d.moveFlows(ctx, u.have.process, u.have.table)
		}
	}
	return u.have.process, nil
}

// begin starts a pen. One that is to be replaced goes on until the new one answers: both have the port then, which only two of the
// same user can.
func (d *Driver) begin(ctx context.Context, u unit) (process, error) {
	c, old := u.want.command, u.have
	if err := checkPort(c, old.all()); err != nil {
		return process{}, err
	}
	if old.pid != 0 && old.uid != u.want.uid {
		if err := d.files.stop(ctx, old.process); err != nil {
			return process{}, err
		}
		old = observed{}
	}
	if err := d.files.prepare(d.user); err != nil {
		return process{}, err
	}
	text, err := d.render.text(u.want.service, c.options, u.plan.next, table{})
	if err != nil {
		return process{}, err
	}
	if err := put(d.files.config(c.key, c.id()), text); err != nil {
		return process{}, err
	}
	started, err := d.start(ctx, c)
	if err != nil {
		return process{}, err
	}
	d.mu.Lock()
	d.children[started.pid] = started
	d.mu.Unlock()
	if err := d.verify(ctx, started.process, u.plan.next); err != nil {
		return process{}, err
	}
	if old.pid != 0 {
		end := d.files.stop
		if old.deaf != nil {
			end = d.files.kill
		}
		if err := end(ctx, old.process); err != nil {
			return process{}, err
		}
		d.files.removeOld(old.process, started.process)
	}
	return started.process, nil
}

// tell gives a running pen its servers.
func (d *Driver) tell(ctx context.Context, u unit) error {
	p := u.have.process
	text, err := d.render.text(u.want.service, u.want.command.options, u.plan.next, u.have.table)
	if err != nil {
		return err
	}
	path := d.files.config(p.key, p.id)
	if err := put(path, text); err != nil {
		return err
	}
	if err := (control{d.files.socket(p.key, p.id)}).include(ctx, path); err != nil {
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
	if p.key.Proto == catalog.UDP {
		return d.moveFlows(ctx, p, t)
	}
	return nil
}

// remember keeps what was proven, has the pens watched, and sets when what failed is tried again.
func (d *Driver) remember(v view, results []result) {
	if v.all {
		d.verified = map[catalog.Key]proof{}
	}
	for i, u := range v.units {
		delete(d.verified, u.key)
		if results[i].process.pid != 0 {
			d.verified[u.key] = proof{u.want.service, results[i].process}
		}
	}
	var pids []int
	for _, p := range d.verified {
		pids = append(pids, p.process.pid)
	}
	latest(d.pids, pids)
	d.mu.Lock()
	defer d.mu.Unlock()
	var next time.Time
	for key, f := range d.failures {
		if _, served := d.verified[key]; served || v.want[key] == nil || v.want[key].refused != "" {
			if v.want[key] == nil {
				delete(d.failures, key)
			}
			continue
		}
		if next.IsZero() || f.until.Before(next) {
			next = f.until
		}
	}
	if !next.IsZero() {
		latest(d.alarm, max(0, next.Sub(d.now())))
	}
}

// latest puts a value into a channel of size 1, in the place of one that nobody took.
func latest[T any](ch chan T, v T) {
	select {
	case <-ch:
	default:
	}
	ch <- v
}

// describe adds the problems and what an operator wants to know.
func (d *Driver) describe(v view, r *catalog.Report) {
	for key, w := range v.want {
		v.note(w.service.Title(), d.failure(key).reason)
	}
	for key, p := range d.verified {
		if w := v.want[key]; w != nil && d.isBusy(p.process.pid) {
			v.note(w.service.Title(), fmt.Sprintf("its pen (pid %d) takes a whole core, with traffic or by a fault of pen (see the README); it is replaced when it has no connection",
				p.process.pid))
		}
	}
	slices.SortFunc(v.problems, func(a, b catalog.Problem) int {
		return slices.Compare([]string{a.Subject, a.Reason}, []string{b.Subject, b.Reason})
	})
	r.Problems = v.problems
	r.Facts = []catalog.Fact{{Name: "pens", Value: strconv.Itoa(len(d.verified))}}
	if len(v.want) > 0 {
		r.Facts = append(r.Facts, catalog.Fact{Name: "user", Value: d.user.name})
	}
}
