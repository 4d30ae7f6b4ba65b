package pen

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// unit is one service, or pens of one that is gone: what is wanted, what runs, and the difference.
type unit struct {
	key  catalog.Key
	want *wanted
	pens []process
	have observed
	plan plan
}

// view is what a pass is about.
type view struct {
	all      bool // every service, not only those that changed
	want     map[catalog.Key]*wanted
	units    []unit
	problems []catalog.Problem
}

// view finds out what has changed, or takes everything, and finds its pens.
func (d *Driver) view(services []catalog.Service, all bool) (view, error) {
	v := view{all: all || d.verified == nil}
	d.wanted(d.mine(services), &v)
	keys := d.touched(v.want, v.all)
	running, err := d.running(keys, v.all)
	if err != nil {
		return v, err
	}
	if v.all {
		for key := range running {
			keys[key] = true
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(keys), catalog.Key.Compare) {
		v.units = append(v.units, unit{key: key, want: v.want[key], pens: running[key]})
	}
	return v, nil
}

// look observes the service and plans.
func (d *Driver) look(ctx context.Context, u *unit) {
	u.have = d.observe(ctx, u.key, u.pens, u.want)
	u.plan = makePlan(d.files, u.key, u.want, u.have)
}

// each does something with each service, some at a time, so that one whose pen hangs costs the others nothing.
func (v view) each(do func(i int, u *unit)) {
	var group errgroup.Group
	group.SetLimit(parallel)
	for i := range v.units {
		group.Go(func() error {
			do(i, &v.units[i])
			return nil
		})
	}
	_ = group.Wait() // of which nobody fails
}

// touched gives the services that differ from what was proven.
func (d *Driver) touched(want map[catalog.Key]*wanted, all bool) map[catalog.Key]bool {
	keys := map[catalog.Key]bool{}
	for key, w := range want {
		if was, ok := d.verified[key]; all || !ok || !was.service.Equal(w.service) {
			keys[key] = true
		}
	}
	for key := range d.verified {
		if want[key] == nil {
			keys[key] = true
		}
	}
	return keys
}

// running gives the pens of the services, from memory where it has them; or all pens.
func (d *Driver) running(keys map[catalog.Key]bool, all bool) (map[catalog.Key][]process, error) {
	if all {
		return d.scan()
	}
	out := map[catalog.Key][]process{}
	for key := range keys {
		was, known := d.verified[key]
		if !known {
			return d.scan()
		}
		out[key] = []process{was.process}
	}
	return out, nil
}

func (d *Driver) scan() (map[catalog.Key][]process, error) {
	found, err := d.files.scan()
	if err != nil {
		return nil, err
	}
	out := map[catalog.Key][]process{}
	for _, p := range found {
		out[p.key] = append(out[p.key], p)
	}
	return out, nil
}

// observe looks at the pens of a service. Of several the one counts that was started as is wanted, or else one that answers.
func (d *Driver) observe(ctx context.Context, key catalog.Key, pens []process, want *wanted) observed {
	have, best := observed{}, -1
	for _, p := range pens {
		is := observed{process: p}
		is.table, is.deaf = d.servers(ctx, p)
		if now, lives := d.files.inspect(p.pid); is.deaf != nil && (!lives || now != p) {
			continue
		}
		score := 0
		if want != nil && p.id == want.command.id() && p.uid == want.uid {
			score++
		}
		if is.deaf == nil {
			score += 2
		}
		if score > best {
			best, is.strays = score, have.all()
			have = is
		} else {
			have.strays = append(have.strays, p)
		}
	}
	if was, ok := d.verified[key]; ok && !slices.Contains(have.all(), was.process) {
		d.noteDeath(was.process)
	}
	have.busy = d.isBusy(have.pid)
	if have.pid == 0 {
		have.died = d.failure(key).died
	}
	return have
}

// servers reads the table of a process, and from no other.
func (d *Driver) servers(ctx context.Context, p process) (table, error) {
	t, pid, err := control{d.files.socket(p.key, p.id)}.servers(ctx)
	if err == nil && pid != p.pid {
		err = fmt.Errorf("%w: process %d has it", errAnswer, pid)
	}
	return t, err
}

// all gives the process and its strays.
func (o observed) all() []process {
	if o.pid == 0 {
		return nil
	}
	return append([]process{o.process}, o.strays...)
}
