package reconcile

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/meltwater/proxymatic/runtime/policy"
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

// A source that was taken out of the configuration and comes back weeks later is not stood in for by what was known at the start.
func TestWhatWasKnownBeforeTheStartEndsWithTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file, gone, driver := newSource("file"), newSource("registrator"), newDriver("haproxy")
		saved := []catalog.Snapshot{{Source: "registrator", Services: []*catalog.Service{service("old", 81, 1)}, Succeeded: time.Unix(1, 0)}}
		r := start(t, Config{Sources: []Source{file, gone}, Drivers: []Driver{driver}}, func(l *Loop) { l.Recall(saved) })
		file.say <- read(service("web", 80, 1))
		gone.say <- read()
		synctest.Wait()
		r.stop()
		for _, sources := range [][]Source{{file}, {file, gone}} {
			driver = newDriver("haproxy")
			r = resume(t, Config{Sources: sources, Drivers: []Driver{driver}}, r.loop)
			synctest.Wait()
			if len(sources) == 2 {
				gone.say <- failed("no route")
				time.Sleep(2 * standInAfter)
			}
			synctest.Wait()
			driver.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
			r.stop()
		}
	})
}

// What was saved counts for those who cannot be read, and no longer than that; nobody waits for it.
func TestWhatWasKnownBeforeTheStartStandsIn(t *testing.T) {
	saved := []catalog.Snapshot{{Source: "marathon", Services: []*catalog.Service{service("web", 80, 2)}, Succeeded: time.Unix(1, 0)}}
	standIn := func(l *Loop) { l.Recall(saved) }
	for name, c := range map[string]struct {
		says  *catalog.Snapshot
		after time.Duration // the first pass
		want  string
	}{
		"one that fails":     {says: &catalog.Snapshot{Err: "no route"}, want: "map[web 80/tcp:[10.0.0.1:31000 10.0.0.2:31000]]"},
		"one that is silent": {after: standInAfter, want: "map[web 80/tcp:[10.0.0.1:31000 10.0.0.2:31000]]"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, driver := newSource("marathon"), newDriver("haproxy")
				r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}}, standIn)
				defer r.stop()
				if c.says != nil {
					source.say <- *c.says
				}
				time.Sleep(2 * standInAfter)
				synctest.Wait()
				driver.applies(t, c.after)
				driver.serves(t, c.want)
				if s := r.loop.Pass().Sources[0]; s.Err == "" || !s.Succeeded.Equal(saved[0].Succeeded) {
					t.Errorf("source %+v, want that it fails, and its age", s)
				}
				source.say <- failed("still no route")
				source.say <- read(service("web", 80, 1))
				synctest.Wait()
				driver.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
			})
		})
	}
	t.Run("one that answers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			source, driver := newSource("marathon"), newDriver("haproxy")
			r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}}, standIn)
			defer r.stop()
			source.say <- read(service("other", 81, 1))
			time.Sleep(2 * standInAfter)
			synctest.Wait()
			driver.serves(t, "map[other 81/tcp:[10.0.0.1:31000] web 80/tcp:[10.0.0.2:31000]]") // doubted, but for the address that is other's
		})
	})
}

// Acknowledged, what is held is held no more.
func TestAcknowledge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}, Guard: policy.Guard{Percent: 50, Min: 5, Hold: time.Hour}})
		defer r.stop()
		web := service("web", 80, 1)
		source.say <- read(web)
		synctest.Wait()
		forgotten := read()
		forgotten.Missing = catalog.Places{}
		forgotten.Missing.Add(web.Key, web.Servers[0].Addr)
		source.say <- forgotten
		synctest.Wait()
		driver.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
		if p := r.loop.Pass(); p.Sources[0].Held != 1 || len(p.Problems) != 1 {
			t.Errorf("%d servers held, problems %v", p.Sources[0].Held, p.Problems)
		}
		if released, err := r.loop.Acknowledge(t.Context()); err != nil || len(released) != 1 {
			t.Errorf("released: %v, %v", released, err)
		}
		synctest.Wait()
		driver.serves(t, "map[]")
	})
}

func TestAServerThatFlapsIsLetInAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}, Flaps: 1})
		defer r.stop()
		for range 3 {
			source.say <- read(service("web", 80, 1))
			synctest.Wait()
			source.say <- read(service("web", 80, 2))
			synctest.Wait()
		}
		driver.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		driver.serves(t, "map[web 80/tcp:[10.0.0.1:31000 10.0.0.2:31000]]")
	})
}

func TestPassedTellsOfEachPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource("marathon")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{newDriver("haproxy")}})
		defer r.stop()
		for n := range 3 {
			source.say <- read(service("web", 80, n+1))
			synctest.Wait()
			if !received(r.loop.Passed()) || received(r.loop.Passed()) {
				t.Fatalf("pass %d was not told once", n+1)
			}
		}
	})
}
