package haproxy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	deleteAgain   = 250 * time.Millisecond // how soon a removed server with connections is tried again, at first
	deleteSlowest = time.Second            // and at last
	livesSlowest  = 30 * time.Second       // one whose connections may go on for hours
)

// leaving is a removed server whose connections have not ended. It stays in maintenance, where it gets no new ones, until they end or
// the drain time is over.
type leaving struct {
	key   catalog.Key
	addr  netip.AddrPort
	since time.Time // when it was removed, or when its address was last wanted
	tried time.Time // to delete it
	lives bool      // a wanted server has its address: its connections go on until they end
}

// again is when a pass is made to try once more to delete it: soon at first, then ever later, and when the drain time is over.
func (l leaving) again(drain time.Duration) time.Time {
	age, slowest := l.tried.Sub(l.since), deleteSlowest
	if l.lives && age > drain {
		slowest = livesSlowest
	}
	at, end := l.tried.Add(min(max(deleteAgain, age), slowest)), l.since.Add(drain)
	if l.tried.Before(end) && end.Before(at) {
		return end
	}
	return at
}

// mayTry reports whether a pass that is made anyway tries to delete it: not before half of the pause is over.
func (l leaving) mayTry(now time.Time, drain time.Duration) bool {
	return now.Sub(l.tried) >= l.again(drain).Sub(l.tried)/2
}

// dueToDelete gives the services that have a server for which a pass is to be made now.
func (d *Driver) dueToDelete() []catalog.Key {
	var keys []catalog.Key
	now := d.now()
	for _, l := range d.leaving {
		if !now.Before(l.again(d.config.Drain)) {
			keys = append(keys, l.key)
		}
	}
	return keys
}

// withDeletions gives a plan's steps, and the deletions that may be tried behind them.
func (d *Driver) withDeletions(v view) []step { return slices.Concat(v.plan.steps, d.deletions(v)) }

// deletions gives a plan's deletions of servers that may be tried now. Most servers have no connections when they are removed, and go
// at once; those that have some when the drain time is over lose them.
func (d *Driver) deletions(v view) []step {
	d.noteLives(v)
	now := d.now()
	var due []step
	for _, s := range v.plan.deletes {
		l, known := d.leaving[s.path]
		if !known {
			l.since = now
		} else if !l.mayTry(now, d.config.Drain) {
			continue
		}
		if !v.lives(s) && now.Sub(l.since) >= d.config.Drain {
			s = s.cutting()
			if known && l.tried.Sub(l.since) < d.config.Drain { // for the first time
				b, _ := v.have.built.service(s.key)
				s.change = newStep(s.key, b, s.path, "end drain", s.commands[0]).change
			}
		}
		due = append(due, s)
	}
	return due
}

// noteLives lets the drain time begin where the address of a server that is leaving is not wanted any more.
func (d *Driver) noteLives(v view) {
	for _, s := range v.plan.deletes {
		l, known := d.leaving[s.path]
		if !known {
			continue
		}
		lived := l.lives
		if l.lives = v.lives(s); lived && !l.lives {
			l.since = d.now()
		}
		d.leaving[s.path] = l
	}
}

// cutting gives a deletion that cuts the server's connections first.
func (s step) cutting() step {
	s.commands = slices.Concat([]string{"shutdown sessions server " + s.path}, s.commands)
	return s
}

// lives reports whether the server of a deletion has the address of one that is wanted in the same proxy: then it is the same task
// under another name, as when its check was switched on, and nothing that it does may be cut.
func (v view) lives(s step) bool {
	proxy, _, _ := strings.Cut(s.path, "/")
	return slices.ContainsFunc(v.layout.sections.find(s.key).lines(proxy), func(line serverLine) bool { return line.addr == s.addr })
}

// deleteServers tries to delete the removed servers.
func (d *Driver) deleteServers(ctx context.Context, v view, r *catalog.Report) error {
	maps.DeleteFunc(d.leaving, func(path string, l leaving) bool { // it has left, or is wanted again
		looked := v.keys == nil || slices.Contains(v.keys, l.key)
		return looked && !slices.ContainsFunc(v.plan.deletes, func(s step) bool { return s.path == path })
	})
	if _, _, err := d.act(ctx, d.deletions(v), d.looking(nil, nil), r); err != nil {
		d.Resync()
		return fmt.Errorf("delete servers: %w", err)
	}
	return nil
}

// noteDeletion keeps a server that could not be deleted yet. 2.6 answers "Server still has connections attached to it, cannot
// remove it."; one that others refer to stays in maintenance until the next reload.
func (d *Driver) noteDeletion(s step, refused string) {
	if refused == "" || refused == "No such server." {
		delete(d.leaving, s.path)
		return
	}
	l, known := d.leaving[s.path]
	if l.key, l.addr, l.tried = s.key, s.addr, d.now(); !known {
		l.since = l.tried
	}
	d.leaving[s.path] = l
}

// noteUnanswered keeps the servers that HAProxy may have put into maintenance before it fell silent: nobody else did.
func (d *Driver) noteUnanswered(steps []step) {
	for _, s := range steps {
		if _, known := d.leaving[s.path]; s.change.Action == removeServer && !known {
			d.leaving[s.path] = leaving{key: s.key, since: d.now(), tried: d.now()}
		}
	}
}
