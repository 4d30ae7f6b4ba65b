package pen

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// Run watches the pens, takes the clients that no server takes, and asks for a pass when one has ended or a failed service is due. Pens go on when ctx ends.
func (d *Driver) Run(ctx context.Context, wake func()) error {
	var group sync.WaitGroup
	defer group.Wait() // last of all
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if d.config.TCP {
		group.Go(func() { d.serveSink(ctx, wake) })
	}
	watched := map[int]context.CancelFunc{}
	alarm := time.NewTimer(0)
	alarm.Stop()
	look := time.NewTicker(busyPause)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case pids := <-d.pids:
			d.watch(ctx, &group, watched, pids, wake)
		case <-look.C:
			if d.config.TCP && d.findBusy(slices.Collect(maps.Keys(watched))) {
				d.Resync()
				wake()
			}
		case t := <-d.alarm:
			alarm.Reset(t)
		case <-alarm.C:
			wake()
		}
	}
}

// watch calls wake when one of the processes ends, and lets go of those that are not among them any more.
func (d *Driver) watch(ctx context.Context, group *sync.WaitGroup, watched map[int]context.CancelFunc, pids []int, wake func()) {
	wanted := map[int]bool{}
	for _, pid := range pids {
		wanted[pid] = true
		if watched[pid] != nil {
			continue
		}
		one, stop := context.WithCancel(ctx)
		watched[pid] = stop
		group.Go(func() {
			if host.WaitExit(one, pid) == nil {
				d.Resync()
				wake()
			}
		})
	}
	for pid, stop := range watched {
		if !wanted[pid] {
			stop()
			delete(watched, pid)
		}
	}
}

// drainPause is how often Close looks whether the connections of a TCP service have ended.
const drainPause = 100 * time.Millisecond

// Close ends pen's part when proxymatic exits: with drain, pens end, those of TCP services when they have no connection any
// more, at the latest after the drain time; without, they go on serving. pen accepts connections until it ends. Nothing else
// may be called after.
func (d *Driver) Close(ctx context.Context, drain bool) error {
	if !drain {
		return nil
	}
	pens, err := d.files.scan()
	if err != nil {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, d.config.Drain)
	defer cancel()
	errs := make([]error, len(pens))
	var group sync.WaitGroup
	for i, p := range pens {
		group.Go(func() {
			if p.key.Proto == catalog.TCP {
				d.awaitIdle(patient, p)
			}
			errs[i] = d.files.stop(ctx, p)
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// awaitIdle returns when a pen has no connections, or does not tell.
func (d *Driver) awaitIdle(ctx context.Context, p process) {
	for {
		if t, err := d.servers(ctx, p); err != nil || t.idle() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(drainPause):
		}
	}
}
