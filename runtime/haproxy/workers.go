package haproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	crowdedAgain  = 5 * time.Second        // how soon a reload that waits for old workers looks again, at the latest
	asksAfterLoad = 3                      // how often old workers are counted soon after a load
	countWithin   = 200 * time.Millisecond // for the master's answer: one that is stopped must not hold up servers' changes
	asksAgain     = 500 * time.Millisecond // how soon: the master cannot be reached for a tenth of a second
)

// crowd is what is known of old workers: those that a reload left to their open connections. Each has the memory of a whole HAProxy,
// 54 MB at 1,000 services, so that reloads under long connections would fill the host.
type crowd struct {
	since map[int]time.Time // since when each has been known to be old
	full  string            // why a reload waits; empty when none does
	again time.Time         // when that is looked at again
	asks  int               // how often the master may still be asked soon after a load, until it tells
}

// left notes that a load left a worker behind. It ends soon where it has no connections.
func (c *crowd) left(pid int, now time.Time) {
	if pid == 0 {
		return
	}
	if c.since == nil {
		c.since = map[int]time.Time{}
	}
	c.since[pid], c.asks = now, asksAfterLoad
}

// met takes the old workers of now.
func (c *crowd) met(pids []int, now time.Time) {
	since := make(map[int]time.Time, len(pids))
	for _, pid := range pids {
		was, known := c.since[pid]
		if !known {
			was = now
		}
		since[pid] = was
	}
	c.since = since
}

// oldest gives the one that has been old for longest.
func (c *crowd) oldest() (pid int, since time.Time) {
	for _, one := range slices.Sorted(maps.Keys(c.since)) {
		if at := c.since[one]; pid == 0 || at.Before(since) {
			pid, since = one, at
		}
	}
	return pid, since
}

// countWorkers finds out about old workers, where that is possible now.
func (d *Driver) countWorkers(ctx context.Context, pid int) error {
	pids, err := d.process.elders(ctx, pid)
	if err == nil {
		d.crowd.met(pids, d.now())
	}
	return err
}

// awaitCount finds out about old workers before a load. Where nobody tells, the load does not wait for it.
func (d *Driver) awaitCount(ctx context.Context, pid int) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for {
		err := d.countWorkers(ctx, pid)
		if err == nil || errors.Is(err, errDown) && !d.process.deaf() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// room reports whether there may be one more worker, or the oldest may be ended for it. Where there are as many old ones as there may be,
// the load waits until one ends by itself, or the oldest has had the drain time. A start leaves nobody behind.
func (d *Driver) room(ctx context.Context, v view) bool {
	limit := d.config.MaxOldWorkers
	if !v.have.alive || limit <= 0 {
		d.crowd.full = ""
		return true
	}
	d.awaitCount(ctx, v.have.pid)
	_, since := d.crowd.oldest()
	left := d.config.Drain - d.now().Sub(since)
	switch {
	case len(d.crowd.since) < limit || left <= 0 && !d.now().Before(d.crowd.again):
		d.crowd.full = ""
		return true
	case left > 0:
		d.crowd.wait("", limit, d.now().Add(min(left, crowdedAgain)))
	}
	return false // also while the oldest cannot be ended
}

// makeRoom ends the oldest worker where there are as many as there may be. It cuts connections: the load must be about to be made.
func (d *Driver) makeRoom(v view, r *catalog.Report) bool {
	limit := d.config.MaxOldWorkers
	for v.have.alive && limit > 0 && len(d.crowd.since) >= limit {
		pid, since := d.crowd.oldest()
		age := d.now().Sub(since)
		if left := d.config.Drain - age; left > 0 {
			d.crowd.wait("", limit, d.now().Add(min(left, crowdedAgain)))
			return false
		}
		if err := d.process.end(pid); err != nil {
			d.crowd.wait(fmt.Sprintf("; the oldest (pid %d) cannot be ended: %v", pid, err), limit, d.now().Add(crowdedAgain))
			return false
		}
		delete(d.crowd.since, pid)
		r.Changes = append(r.Changes, catalog.Change{Action: "end old worker", Detail: fmt.Sprintf(
			"pid %d, old for %s: there are as many as --max-old-workers allows, and a reload is due", pid, age.Round(time.Second))})
	}
	return true
}

// wait notes that a reload waits.
func (c *crowd) wait(why string, limit int, again time.Time) {
	c.again = again
	c.full = fmt.Sprintf("a reload waits until one of %d old workers ends, which still have connections%s: --max-old-workers is %d",
		len(c.since), why, limit)
}

// recount counts old workers at the end of a pass that looked at everything, or soon after a load.
func (d *Driver) recount(ctx context.Context, v view) {
	if v.keys != nil && d.crowd.asks == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, countWithin)
	defer cancel()
	switch err := d.countWorkers(ctx, v.have.pid); {
	case err == nil && len(d.crowd.since) == 0:
		d.crowd.asks = 0
	case d.crowd.asks > 0:
		d.crowd.asks--
	}
}

// problems tells that a reload waits, while it does.
func (c *crowd) problems() []catalog.Problem {
	if c.full == "" {
		return nil
	}
	return []catalog.Problem{{Source: "haproxy", Subject: "old workers", Reason: c.full +
		"; give it a higher value where there is memory for it, or end them"}}
}

// oldWorkers reads the old workers off the master's `show proc`. After a reload that failed, 2.2 lists the worker that serves among them.
func oldWorkers(text string, serves int) []int {
	var out []int
	_, list, _ := strings.Cut(text, "# old workers\n")
	for line := range strings.Lines(list) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] == "#" {
			break // what else the master has
		}
		if pid, err := strconv.Atoi(words[0]); err == nil && words[1] == "worker" && pid != serves {
			out = append(out, pid)
		}
	}
	return out
}
