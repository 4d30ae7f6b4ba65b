package reconcile

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// resume starts a loop that continues one that has ended.
func resume(t *testing.T, cfg Config, old *Loop) *rig {
	return start(t, cfg, func(l *Loop) { l.Continue(old) })
}

func TestALoopThatContinuesMakesItsFirstPassAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, first := newSource("marathon"), newDriver("haproxy")
		old := start(t, Config{Sources: []Source{source}, Drivers: []Driver{first}})
		began := time.Now()
		source.say <- read(service("web", 80, 1))
		synctest.Wait()
		first.breaks("no socket")
		source.say <- failed("no route")
		synctest.Wait()
		old.stop()

		time.Sleep(time.Minute)
		second := newDriver("haproxy")
		r := resume(t, Config{Sources: []Source{source}, Drivers: []Driver{second}}, old.loop)
		second.applies(t, 0)
		second.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
		source.say <- failed("no route") // nothing that is known already is logged again
		synctest.Wait()
		r.logged(webReload, webAdd1, `level=INFO msg="driver recovered" driver=haproxy`)
		pass := r.loop.Pass()
		if s := pass.Sources[0]; !s.Succeeded.Equal(began) || s.Err != "no route" || len(s.Services) != 1 {
			t.Errorf("source %+v, want it as it was", s)
		}
		if d := pass.Drivers[0]; !pass.Applied || pass.Passes != 4 || d.Reloads != 2 || len(pass.Reloads) != 2 {
			t.Errorf("pass %+v, want that it counts on", pass)
		}
		r.stop()
	})
}

func TestWhatWasAppliedStaysSoWhenTheNewDriverFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		old := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		source.say <- read(service("web", 80, 1))
		synctest.Wait()
		old.stop()
		before := old.loop.Pass()
		driver = newDriver("haproxy")
		driver.breaks("refused")
		loop := New(Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		loop.Continue(old.loop)
		if p := loop.Pass(); !p.Applied || len(p.Want) != 1 || p.At != before.At {
			t.Errorf("before its first pass: %+v, want the last one of the old loop", p)
		}
		r := resume(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}}, old.loop)
		if p := r.loop.Pass(); !p.Applied || p.Drivers[0].Err != "refused" {
			t.Errorf("after it: %+v, want it applied, with the driver's error", p)
		}
		r.stop()
	})
}

// A source that is new keeps nobody waiting, and one that went away counts until then: the new one may have its services.
func TestANewSourceDoesNotStopWhatIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file, marathon, driver := newSource("file"), newSource("marathon"), newDriver("haproxy")
		old := start(t, Config{Sources: []Source{file}, Drivers: []Driver{driver}})
		file.say <- read(service("web", 80, 1))
		synctest.Wait()
		old.stop()
		driver = newDriver("haproxy")
		r := resume(t, Config{Sources: []Source{marathon}, Drivers: []Driver{driver}}, old.loop)
		marathon.say <- failed("no route")
		time.Sleep(time.Minute)
		driver.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
		if p := r.loop.Pass(); len(p.Sources) != 1 || p.Sources[0].Err != "no route" {
			t.Errorf("sources %+v, want the configured one", p.Sources)
		}
		if plan, err := r.loop.Plan(t.Context()); err != nil || len(plan.Want) != 1 {
			t.Errorf("plan %+v, %v", plan, err)
		}
		r.logged(webReload, webAdd1, `level=WARN msg="source cannot be read" source=marathon err="no route"`)
		marathon.say <- read(service("api", 81, 1))
		synctest.Wait()
		driver.serves(t, "map[api 81/tcp:[10.0.0.1:31000]]")
		r.stop()

		driver, file = newDriver("haproxy"), newSource("file")
		again := resume(t, Config{Sources: []Source{marathon, file}, Drivers: []Driver{driver}}, r.loop)
		driver.serves(t, "map[api 81/tcp:[10.0.0.1:31000]]") // and none of what file said long ago
		again.stop()
	})
}

func TestALoopThatNeverMadeAPassPassesItsWaitingOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file, marathon, driver := newSource("file"), newSource("marathon"), newDriver("haproxy")
		cfg := Config{Sources: []Source{file, marathon}, Drivers: []Driver{driver}}
		old := start(t, cfg)
		file.say <- read(service("web", 80, 1))
		synctest.Wait()
		old.stop()
		driver = newDriver("haproxy")
		r := resume(t, Config{Sources: cfg.Sources, Drivers: []Driver{driver}}, old.loop)
		driver.applies(t)
		marathon.say <- read()
		synctest.Wait()
		driver.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
		r.stop()
	})
}

func TestWhatCameDuringTheLastPassIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		old := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		driver.takes = time.Second
		source.say <- read(service("web", 80, 1))
		synctest.Wait()
		source.say <- read(service("web", 80, 2))
		synctest.Wait()
		old.stop()
		driver = newDriver("haproxy")
		r := resume(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}}, old.loop)
		driver.serves(t, "map[web 80/tcp:[10.0.0.1:31000 10.0.0.2:31000]]")
		r.stop()
	})
}

// The plan for a configuration to come is made from what is known, and what its new sources say.
func TestPlanOfTheNextLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		source.say <- read(service("web", 80, 1))
		synctest.Wait()
		for _, c := range []struct {
			sources []Source
			fresh   []catalog.Snapshot
			want    int
		}{
			{[]Source{source}, nil, 1},
			{[]Source{source, newSource("file")}, []catalog.Snapshot{{Source: "file", Succeeded: time.Now(), Services: []*catalog.Service{service("other", 81, 1)}}}, 2},
			{[]Source{newSource("marathon")}, []catalog.Snapshot{{Source: "marathon", Succeeded: time.Now()}}, 1}, // held: another source knows nothing of what is missing
			{[]Source{newSource("marathon")}, []catalog.Snapshot{{Source: "marathon", Certain: true, Succeeded: time.Now()}}, 0},
			{[]Source{source, newSource("file")}, nil, 1},
			{[]Source{newSource("file")}, nil, 1}, // nothing goes until all have spoken
			{[]Source{newSource("file")}, []catalog.Snapshot{{Source: "file", Succeeded: time.Now()}}, 0},
		} {
			next := New(Config{Sources: c.sources, Drivers: []Driver{newDriver("haproxy")}, Log: slog.New(slog.DiscardHandler)})
			pass, err := r.loop.PlanNext(t.Context(), next, c.fresh)
			if err != nil || len(pass.Want) != c.want {
				t.Errorf("%v: %+v, %v, want %d services", c, pass, err, c.want)
			}
		}
		if pass, err := r.loop.Plan(t.Context()); err != nil || len(pass.Want) != 1 {
			t.Errorf("our own plan is now %+v, %v", pass, err)
		}
		r.stop()
	})
}
