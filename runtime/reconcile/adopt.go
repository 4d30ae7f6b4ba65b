package reconcile

import "github.com/meltwater/proxymatic/sources/catalog"

// Snapshots gives the latest snapshot of each source, in the order of their names. Run must have returned.
func (l *Loop) Snapshots() []catalog.Snapshot { return l.snapshots() }

// Adopt takes over the snapshots of another process' loop, those of sources that the configuration has. The first pass then comes with
// the start of Run, unless there is a source that has none. Run must not have begun.
func (l *Loop) Adopt(snaps []catalog.Snapshot) {
	for _, s := range snaps {
		for _, source := range l.cfg.Sources {
			if source.Name() == s.Source {
				l.snaps[s.Source] = s
			}
		}
	}
	l.latest.Store(l.newPass(l.Pass().At))
	l.Wake()
}
