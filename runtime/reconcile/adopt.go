package reconcile

import (
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// standInAfter is how long a source may keep silent at the start until what was known of it before stands in for it.
const standInAfter = time.Second

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

// StandIn has the snapshots of an earlier run count for sources that cannot be read, or are silent for a second, until they have
// spoken. Run must not have begun.
func (l *Loop) StandIn(snaps []catalog.Snapshot) {
	l.standIns = map[string]catalog.Snapshot{}
	for _, s := range snaps {
		l.standIns[s.Source] = s
	}
}

func (l *Loop) adopt(s catalog.Snapshot) {
	for _, source := range l.cfg.Sources {
		if source.Name() == s.Source {
			l.snaps[s.Source] = s
			l.weigh(s.Source, l.cfg.Guard.Adopt(s.Services, s.Succeeded, time.Now()), l.weighedOf(s.Source).damper)
		}
	}
}

// standIn lets what was known of a source before the start count, if anything was, and says so.
func (l *Loop) standIn(name string) {
	s, ok := l.standIns[name]
	if !ok {
		return
	}
	delete(l.standIns, name)
	s.Err, s.Heard, s.Event = l.snaps[name].Err, time.Time{}, time.Time{}
	if s.Err == "" {
		s.Err = "no answer so far"
	}
	l.adopt(s)
	l.cfg.Log.Warn("the source cannot be read yet: what was known of it before the start counts until then", "source", name,
		"err", s.Err, "read", s.Succeeded, "services", len(s.Services))
}

// Acknowledge lets go what is held of sources that do not tell of it any more, and tells what that is. It needs Run beside it.
func (l *Loop) Acknowledge() []catalog.Problem {
	reply := make(chan []catalog.Problem, 1)
	select {
	case l.acks <- reply:
		return <-reply
	case <-l.done:
		return nil
	}
}

// release lets go what is held.
func (l *Loop) release() []catalog.Problem {
	l.takeInbox()
	var out []catalog.Problem
	for name, w := range l.weighed {
		out = append(out, l.cfg.Guard.Problems(w.kept, name)...)
		l.weigh(name, w.kept.Release(), w.damper)
	}
	return out
}
