package pen

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// unit is one service, or pens of one that is gone: what is wanted, what runs, the difference, and what came of it.
type unit struct {
	key  catalog.Key
	want *wanted
	pens []process
	have observed
	plan plan

	sharer  string           // who else has its port
	serving process          // that serves it as is wanted; its pid is 0 when none does
	done    []catalog.Change // what was changed
}

// view is what a pass is about.
type view struct {
	all      bool // every service, not only those that changed
	want     map[catalog.Key]*wanted
	refused  error // why none of them can be served
	units    []unit
	problems []catalog.Problem
}

// view finds out what has changed, or takes everything, and finds its pens.
func (d *Driver) view(services []*catalog.Service, all bool) (view, error) {
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
	u.plan = makePlan(u.key, u.want, u.have)
}

// each does something with each service, some at a time: one whose pen hangs delays the end of the pass, not the others.
func (v view) each(do func(u *unit)) {
	var group errgroup.Group
	group.SetLimit(parallel)
	for i := range v.units {
		group.Go(func() error {
			do(&v.units[i])
			return nil
		})
	}
	_ = group.Wait() // of which nobody fails
}

// touched gives the services that differ from what was proven, or whose pens do.
func (d *Driver) touched(want map[catalog.Key]*wanted, all bool) map[catalog.Key]bool {
	keys := map[catalog.Key]bool{}
	for key, w := range want {
		if was, ok := d.verified[key]; all || !ok || !was.service.Equal(w.service) {
			keys[key] = true
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, was := range d.verified {
		if want[key] == nil || d.ended[was.process.pid] || d.busy[was.process.pid] {
			keys[key] = true
		}
	}
	for key, f := range d.failures {
		if f.reason != "" {
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
	if was, ok := d.verified[key]; ok && d.gone(was.process) {
		d.noteDeath(was.process)
	} else if ok && !slices.Contains(pens, was.process) {
		pens = append(slices.Clone(pens), was.process) // overlooked
	}
	have, best := observed{}, -1
	for _, p := range pens {
		if d.gone(p) {
			continue
		}
		is := observed{process: p}
		is.table, is.deaf = d.servers(ctx, p)
		is.lost = d.lost(p, is.deaf)
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
	if have.pid == 0 {
		have.died = d.failure(key).died
	} else if have.deaf == nil && d.isBusy(have.pid) {
		flows, err := d.flows(ctx, have.process)
		have.spins = err == nil && len(flows) == 0
	}
	return have
}

// misses is how often in a row a pen must not answer until it is given up: each time it has a second for what it does in
// microseconds, but a whole host can stand still for one.
const misses = 2

// lost reports whether a pen that does not answer now never will.
func (d *Driver) lost(p process, deaf error) bool {
	if errors.Is(deaf, syscall.ECONNREFUSED) || errors.Is(deaf, fs.ErrNotExist) || errors.Is(deaf, errOther) {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return deaf != nil && !ourFault(deaf) && d.missed[p.pid]+1 >= misses
}

// ourFault reports whether an error tells nothing of the other side: we have no files left.
func ourFault(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// count counts how often in a row a pen did not answer.
func (d *Driver) count(p process, deaf error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if deaf == nil {
		delete(d.missed, p.pid)
	} else if !ourFault(deaf) {
		d.missed[p.pid]++
	}
}

// errOther says that another process has the control socket.
var errOther = errors.New("its control socket is another's")

// servers reads the table of a process, and from no other.
func (d *Driver) servers(ctx context.Context, p process) (table, error) {
	t, pid, err := control{p.socket}.servers(ctx)
	if err == nil && pid != p.pid {
		err = errOther
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
