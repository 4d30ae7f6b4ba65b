package pen

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
	watched, serving := map[int]context.CancelFunc{}, []process{}
	alarm := time.NewTimer(0)
	alarm.Stop()
	look := time.NewTicker(busyPause)
	defer look.Stop()
	pulses := map[int]host.Pulse{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case serving = <-d.pens:
			d.watch(ctx, &group, watched, serving, wake)
		case <-look.C:
			if pulses = d.findBusy(serving, pulses); d.anyBusy() {
				wake()
			}
		case t := <-d.alarm:
			alarm.Reset(t)
		case <-alarm.C:
			wake()
		}
	}
}

// watch calls wake when one of the pens ends, and lets go of those that do not serve any more.
func (d *Driver) watch(ctx context.Context, group *sync.WaitGroup, watched map[int]context.CancelFunc, pens []process, wake func()) {
	serving := map[int]bool{}
	for _, p := range pens {
		serving[p.pid] = true
		if watched[p.pid] != nil {
			continue
		}
		one, stop := context.WithCancel(ctx)
		watched[p.pid] = stop
		group.Go(func() { d.await(one, p.pid, wake) })
	}
	for pid, stop := range watched {
		if !serving[pid] {
			stop()
			delete(watched, pid)
		}
	}
}

// watchRetry is when a pen that could not be watched is tried again.
const watchRetry = 5 * time.Second

// await calls wake when a process has ended.
func (d *Driver) await(ctx context.Context, pid int, wake func()) {
	for host.WaitExit(ctx, pid) != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchRetry):
		}
	}
	d.mu.Lock()
	d.ended[pid] = true
	d.mu.Unlock()
	wake()
}

// drainPause is how often Close looks whether the connections of a TCP service have ended.
const drainPause = 250 * time.Millisecond

// Close ends pen's part when proxymatic exits: with drain, pens close their ports at once, and end: those of UDP services as soon as
// their flows are closed, those of TCP services when they have no connection any more, at the latest after the drain time or at
// ctx's deadline; a ctx that is cancelled leaves them their connections. Without drain they go on serving. Nothing else may be
// called after.
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
	for _, p := range pens { // one after another: what comes in between pen's last look at its port and its end is lost
		d.deafen(patient, p)
	}
	errs := make([]error, len(pens))
	var group sync.WaitGroup
	for i, p := range pens {
		group.Go(func() {
			if p.key.Proto == catalog.TCP {
				d.awaitIdle(patient, p)
			} else {
				d.closeFlows(patient, p)
			}
			if errors.Is(ctx.Err(), context.Canceled) {
				errs[i] = ctx.Err()
			} else if errs[i] = d.files.stop(ctx, p); errs[i] == nil {
				d.files.remove(p.key)
			}
		})
	}
	group.Wait()
	return errors.Join(append(errs, d.files.removeSink())...)
}

// deafen closes a pen's port and leaves it its connections and flows: it listens on a socket instead that nobody knows. A pen that does
// not hear accepts clients until it ends.
func (d *Driver) deafen(ctx context.Context, p process) {
	_, _, _ = control{p.socket}.ask(ctx, "listen "+d.files.newSocket(p.key, p.id))
}

// flowPause lets a pen read what came while it listed its flows: what it has not read of a flow that is closed is lost.
const flowPause = 50 * time.Millisecond

// closeFlows closes the UDP flows of a pen, which have no end, so that their next datagrams find who listens on the port now. It is best
// effort: they are closed at the latest with the pen.
func (d *Driver) closeFlows(ctx context.Context, p process) {
	flows, err := d.flows(ctx, p)
	if err != nil {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(flowPause):
	}
	var b strings.Builder
	for _, f := range flows {
		fmt.Fprintf(&b, "close %d\n", f.number)
	}
	_ = d.command(ctx, p, b.String())
}

// awaitIdle returns when a pen has no connections, or does not tell.
func (d *Driver) awaitIdle(ctx context.Context, p process) {
	for {
		if flows, err := d.flows(ctx, p); err != nil || len(flows) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(drainPause):
		}
	}
}
