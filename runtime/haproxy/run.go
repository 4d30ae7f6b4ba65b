package haproxy

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
)

const (
	flushDelay = 200 * time.Millisecond // haproxy.cfg is this much behind the running process, where a write takes a moment
	flushShare = 200                    // a large file is written for one in so many parts of the time
	flushLimit = 2 * time.Second        // and is at most this much behind
	flushRetry = 5 * time.Second        // after a write that failed
	closeLeast = 100 * time.Millisecond // to find HAProxy's master and tell it to end
)

// Run watches the worker, keeps haproxy.cfg up to date, and asks for passes when one is due. When ctx ends the file is
// written; HAProxy goes on. It may be called again then.
func (d *Driver) Run(ctx context.Context, wake func()) error {
	var group sync.WaitGroup
	defer group.Wait()
	ended := func() { // nothing that was proven is true of the next one
		d.Resync()
		wake()
	}
	unwatch := func() {}
	defer func() { unwatch() }()
	if d.watched != 0 {
		unwatch = watch(ctx, &group, d.watched, ended)
	}
	flush, alarm := time.NewTimer(0), time.NewTimer(0)
	flush.Stop()
	alarm.Stop()
	due := false       // whether flush is set
	var rest time.Time // no write before
	for {
		select {
		case <-ctx.Done():
			return errors.Join(d.lastNotice(ctx), d.file.flush())
		case d.watched = <-d.worker:
			unwatch()
			unwatch = watch(ctx, &group, d.watched, ended)
		case <-d.file.changed:
			if !due { // changes that go on must not put it off
				due = true
				flush.Reset(max(flushDelay, time.Until(rest)))
			}
		case <-flush.C:
			began := time.Now()
			due = d.flush(flush, wake)
			rest = time.Now().Add(min(flushShare*time.Since(began), flushLimit))
		case t := <-d.alarm:
			alarm.Reset(t)
		case <-alarm.C:
			wake()
		}
	}
}

// watch calls wake when a process ends, until the function that it gives is called.
func watch(ctx context.Context, group *sync.WaitGroup, pid int, wake func()) context.CancelFunc {
	ctx, cancel := context.WithCancel(ctx)
	group.Go(func() {
		if host.WaitExit(ctx, pid) == nil {
			wake()
		}
	})
	return cancel
}

// flush writes the file and reports whether it must be tried again. Its failure, and the end of it, are told by the next pass.
func (d *Driver) flush(again *time.Timer, wake func()) bool {
	err := d.file.flush()
	if err != nil {
		again.Reset(flushRetry)
		if d.fileErr.Swap(&err) == nil {
			wake()
		}
		return true
	}
	if d.fileErr.Swap(nil) != nil {
		wake()
	}
	return false
}

// Close ends HAProxy's part when proxymatic exits: with drain, the services' ports close and HAProxy ends when their
// connections have, at the latest after the drain time; without, HAProxy goes on serving. Nothing else may be called after.
func (d *Driver) Close(ctx context.Context, drain bool) error {
	if !drain {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, max(d.config.Drain, closeLeast))
	defer cancel()
	return d.process.stop(ctx)
}
