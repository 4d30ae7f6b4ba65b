package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/meltwater/proxymatic/runtime/policy"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// standInAfter is how long a source may keep silent at the start until what was known of it before stands in for it.
const standInAfter = time.Second

// Continue takes over what old knew: the sources' snapshots, how the drivers of the same names fare, and the history. The
// first pass then comes with the start of Run, and what is served waits for no source again. Run of old must have
// returned, that of l not have begun.
func (l *Loop) Continue(old *Loop) {
	l.inherit(old)
	for i := range l.drivers {
		for _, d := range old.drivers {
			if d.state.Name == l.drivers[i].state.Name {
				l.drivers[i].state = d.state
			}
		}
	}
	l.latest.Store(l.newPass(old.Pass().At))
	l.Wake()
}

// inherit takes over what old knows of its sources. Nothing of old is changed.
func (l *Loop) inherit(old *Loop) {
	l.snaps, l.known = maps.Clone(old.snaps), maps.Clone(old.known)
	maps.DeleteFunc(l.known, func(name string, _ catalog.Snapshot) bool { // what has spoken, or is not configured, is known no longer
		return old.source(name) == nil || !old.snaps[name].Succeeded.IsZero()
	})
	for name, w := range old.weighed {
		kept := w.kept
		if l.source(name) != old.source(name) { // which knows nothing of what is missing
			kept = l.cfg.Guard.Adopt(kept.Services, old.snaps[name].Succeeded, time.Now())
		}
		l.weigh(name, kept, w.damper.With(l.cfg.Flaps))
	}
	l.decision, l.history = old.decision, old.history
}

// Snapshots gives the latest snapshot of each source with the services that count, in the order of their names. Run must have
// returned.
func (l *Loop) Snapshots() []catalog.Snapshot { return l.snapshots() }

// Adopt takes over the snapshots of another process' loop, those of sources that the configuration has. The first pass then comes with
// the start of Run, unless there is a source that has none. Run must not have begun.
func (l *Loop) Adopt(snaps []catalog.Snapshot) {
	for _, s := range snaps {
		l.adopt(s)
	}
	l.latest.Store(l.newPass(l.Pass().At))
	l.Wake()
}

// Recall tells what was known of the sources before the start. It counts for those that cannot be read, or
// are silent for a second, until they have spoken, and what they then lack is doubted. Run must not have begun.
func (l *Loop) Recall(snaps []catalog.Snapshot) {
	l.known = map[string]catalog.Snapshot{}
	for _, s := range snaps {
		l.known[s.Source] = s
	}
}

func (l *Loop) adopt(s catalog.Snapshot) {
	for _, source := range l.cfg.Sources {
		if source.Name() == s.Source {
			l.snaps[s.Source] = s
			l.weigh(s.Source, l.adopted(s), l.weighedOf(s.Source).damper)
		}
	}
}

// adopted gives what counts of a source until it has spoken.
func (l *Loop) adopted(s catalog.Snapshot) policy.Kept {
	at := s.Succeeded
	if s.Heard.After(at) {
		at = s.Heard
	}
	return l.cfg.Guard.Adopt(s.Services, at, time.Now())
}

// Known gives what Recall told, or a loop before.
func (l *Loop) Known() map[string]catalog.Snapshot { return maps.Clone(l.known) }

// mayStandIn reports whether what was known of a source before the start may count, since it has not spoken.
func (l *Loop) mayStandIn(s Source) bool {
	_, known := l.known[s.Name()]
	return known && l.snaps[s.Name()].Succeeded.IsZero()
}

// standIn lets what was known of a source before the start count, if it may, and says so.
func (l *Loop) standIn(source Source) {
	if !l.mayStandIn(source) {
		return
	}
	name := source.Name()
	s := l.known[name]
	s.Err = cmp.Or(l.snaps[name].Err, "no answer so far")
	l.adopt(s)
	l.cfg.Log.Warn("the source cannot be read yet: what was known of it before the start counts until then", "source", name,
		"err", s.Err, "read", s.Succeeded, "services", len(s.Services))
}

// Acknowledge lets go what is held of sources that do not tell of it any more, and tells what that is. It needs Run beside it.
func (l *Loop) Acknowledge(ctx context.Context) ([]catalog.Problem, error) {
	reply := make(chan []catalog.Problem, 1)
	select {
	case l.acks <- reply:
		return <-reply, nil
	case <-l.done:
		return nil, errors.New("the configuration is read again, or the run ends or hands over: try again")
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the running pass: %w", ctx.Err())
	}
}

// release lets go what is held.
func (l *Loop) release() []catalog.Problem {
	l.takeInbox()
	var out []catalog.Problem
	for _, name := range slices.Sorted(maps.Keys(l.weighed)) {
		w := l.weighed[name]
		if len(w.kept.Held) > 0 {
			out = append(out, catalog.Problem{Source: name, Subject: "guard", Reason: w.kept.HeldTitle()})
		}
		l.weigh(name, w.kept.Release(), w.damper)
	}
	return out
}

// source gives the source of a name, nil when there is none.
func (l *Loop) source(name string) Source {
	for _, s := range l.cfg.Sources {
		if s.Name() == name {
			return s
		}
	}
	return nil
}
