package reconcile

import (
	"testing"
	"testing/synctest"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// A source that is down just then holds nothing up when its snapshot came from elsewhere; one that nobody knew is waited for.
func TestAdoptedSnapshotsAreAppliedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, first := newSource("marathon"), newDriver("haproxy")
		old := start(t, Config{Sources: []Source{source}, Drivers: []Driver{first}})
		source.say <- read(service("web", 80, 1))
		synctest.Wait()
		old.stop()
		snaps := append(old.loop.Snapshots(), catalog.Snapshot{Source: "file", Services: []*catalog.Service{service("other", 81, 1)}})

		down, second := newSource("marathon"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{down}, Drivers: []Driver{second}}, func(l *Loop) { l.Adopt(snaps) })
		second.applies(t, 0)
		second.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
		r.stop()

		third, late := newDriver("haproxy"), newSource("registrator")
		r = start(t, Config{Sources: []Source{newSource("marathon"), late}, Drivers: []Driver{third}}, func(l *Loop) { l.Adopt(snaps) })
		synctest.Wait()
		if p := r.loop.Pass(); p.Passes != 0 {
			t.Errorf("%d passes without a word of registrator, want none", p.Passes)
		}
		r.stop()
	})
}
