package reconcile

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	webReload = `level=INFO msg=reload driver=haproxy reasons="new service web 80/tcp"`
	webAdd1   = `level=INFO msg="add server" driver=haproxy service="web 80/tcp" server=10.0.0.1:31000`
)

func TestFirstSnapshotAfterQuietIsAppliedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		time.Sleep(10 * time.Second)
		source.say <- read(service("web", 80, 1))
		synctest.Wait()
		driver.applies(t, 10*time.Second)
		driver.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
		r.logged(`level=INFO msg="source read" source=marathon services=1 servers=1`, webReload, webAdd1)

		source.say <- read(service("web", 80, 1))
		synctest.Wait()
		driver.applies(t, 10*time.Second)
		r.logged() // a pass in which nothing changes logs nothing
		r.stop()
	})
}

func TestSnapshotsDuringAPassShareTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		marathon, file, driver := newSource("marathon"), newSource("file"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{marathon, file}, Drivers: []Driver{driver}})
		file.say <- read()
		synctest.Wait()
		driver.takes = time.Second
		marathon.say <- read(service("web", 80, 1))
		synctest.Wait() // the first pass is under way, until 1 s
		marathon.say <- read(service("web", 80, 2))
		file.say <- read(service("db", 81, 1))
		(<-driver.wake)()
		r.loop.Wake()
		marathon.say <- read(service("web", 80, 3))
		time.Sleep(20 * time.Second)
		driver.applies(t, 0, time.Second)
		driver.serves(t, "map[db 81/tcp:[10.0.0.1:31000] web 80/tcp:[10.0.0.1:31000 10.0.0.2:31000 10.0.0.3:31000]]")
		r.stop()
	})
}

func TestNothingIsAppliedUntilEverySourceWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		marathon, file, driver := newSource("marathon"), newSource("file"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{marathon, file}, Drivers: []Driver{driver}})
		marathon.say <- failed("connection refused")
		synctest.Wait()
		r.logged(`level=WARN msg="source cannot be read" source=marathon err="connection refused"`)
		time.Sleep(31 * time.Second)
		r.logged(`level=WARN msg="nothing is applied until this source has answered" source=marathon err="connection refused"`,
			`level=WARN msg="nothing is applied until this source has answered" source=file err="no answer so far"`)
		file.say <- read(service("db", 81, 1))
		marathon.say <- failed("connection refused")
		synctest.Wait()
		marathon.say <- failed("no route")
		synctest.Wait()
		r.logged(`level=INFO msg="source read" source=file services=1 servers=1`,
			`level=WARN msg="source cannot be read" source=marathon err="no route"`)
		r.loop.Wake()
		time.Sleep(2 * time.Minute)
		driver.applies(t)
		if r.loop.Pass().Applied {
			t.Error("Applied before every source was read")
		}
		if _, err := r.loop.Plan(t.Context()); err == nil || err.Error() != "plan: source marathon was never read: no route" {
			t.Errorf("Plan: %v", err)
		}
		r.logged()

		marathon.say <- read()
		synctest.Wait()
		driver.serves(t, "map[db 81/tcp:[10.0.0.1:31000]]")
		if !r.loop.Pass().Applied {
			t.Error("not Applied after every source was read")
		}
		r.stop()
	})
}

func TestAFailingSourceKeepsItsServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		source.say <- read(service("web", 80, 1))
		synctest.Wait()
		r.log.take()
		source.say <- failed("no route") // started again, it has forgotten even its last answer
		synctest.Wait()
		driver.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
		state := r.loop.Pass().Sources[0]
		if len(state.Services) != 1 || state.Err != "no route" || state.Succeeded.IsZero() {
			t.Errorf("state %+v", state)
		}
		source.say <- read(service("web", 80, 1))
		synctest.Wait()
		r.logged(`level=WARN msg="source cannot be read, its last services stay" source=marathon err="no route"`,
			`level=INFO msg="source read" source=marathon services=1 servers=1`)
		r.stop()
	})
}

func TestAFailingDriverIsRetriedAndDoesNotStopTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, bad, good := newSource("marathon"), newDriver("haproxy"), newDriver("pen")
		bad.breaks("no socket")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{bad, good}, Resync: time.Hour})
		source.say <- read(service("web", 80, 1))
		synctest.Wait()
		good.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
		if pass := r.loop.Pass(); pass.Applied || pass.Drivers[0].Err != "no socket" || pass.Drivers[1].Err != "" {
			t.Errorf("pass %+v", pass)
		}
		r.log.take()
		time.Sleep(10 * time.Minute)
		r.logged() // the same error again is not logged again
		within(t, bad.times(), 250*time.Millisecond, 30*time.Second)
		if bad.resyncs < 10 {
			t.Errorf("%d resyncs: after an error everything is observed", bad.resyncs)
		}

		bad.breaks("no binary")
		time.Sleep(31 * time.Second)
		r.logged(`level=WARN msg="driver fails, is tried again" driver=haproxy err="no binary"`)

		bad.breaks("")
		time.Sleep(31 * time.Second)
		bad.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
		r.logged(webReload, webAdd1, `level=INFO msg="driver recovered" driver=haproxy`)
		if pass := r.loop.Pass(); !pass.Applied || pass.Drivers[0].Err != "" {
			t.Errorf("pass %+v", pass)
		}
		bad.times()
		time.Sleep(10 * time.Minute)
		bad.applies(t)
		r.stop()
	})
}

func TestASlowDriverDoesNotDelayTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, slow, quick := newSource("marathon"), newDriver("haproxy"), newDriver("pen")
		slow.takes = 10 * time.Second
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{slow, quick}})
		source.say <- read(service("web", 80, 1))
		synctest.Wait()
		quick.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
		time.Sleep(11 * time.Second)
		slow.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
		r.stop()
	})
}

// within checks that the pauses begin at least, double, and end at most.
func within(t *testing.T, at []time.Duration, least, most time.Duration) {
	t.Helper()
	if len(at) < 20 {
		t.Fatalf("tried at %v", at)
	}
	for i, floor := 1, least; i < len(at); i, floor = i+1, min(2*floor, 24*time.Second) {
		if pause := at[i] - at[i-1]; pause < floor || pause > min(floor*5/4, most) {
			t.Errorf("pause %d is %s, want %s to %s", i, pause, floor, min(floor*5/4, most))
		}
	}
}

func TestSnapshotsDoNotWaitForARetryNorDelayIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		driver.breaks("no socket")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}, Resync: time.Hour})
		for range 10 {
			source.say <- read(service("web", 80, 1))
			synctest.Wait()
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(driver.times()); n < 10 {
			t.Errorf("%d passes for 10 snapshots", n)
		}
		driver.breaks("")
		time.Sleep(3 * time.Second) // in that second two or three retries failed, which makes the pause 2 s at most
		driver.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
		r.stop()
	})
}

func TestResyncRepairsDrift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		source.say <- read(service("web", 80, 2))
		synctest.Wait()
		r.log.take()
		driver.lose("web 80/tcp")
		time.Sleep(67 * time.Second) // a minute and a tenth
		driver.serves(t, "map[web 80/tcp:[10.0.0.1:31000 10.0.0.2:31000]]")
		r.logged(`level=WARN msg="drift repaired" action="add server" driver=haproxy service="web 80/tcp" server=10.0.0.1:31000`,
			`level=WARN msg="drift repaired" action="add server" driver=haproxy service="web 80/tcp" server=10.0.0.2:31000`)

		driver.lose("web 80/tcp")
		r.loop.Wake()
		synctest.Wait()
		driver.serves(t, "map[web 80/tcp:[10.0.0.1:31000 10.0.0.2:31000]]")
		pass := r.loop.Pass()
		if pass.Drivers[0].Drift != 4 || !pass.Changes[len(pass.Changes)-1].Drift {
			t.Errorf("drift not counted: %+v", pass)
		}

		driver.times()
		time.Sleep(time.Hour)
		if n := len(driver.times()); n < 54 || n > 67 {
			t.Errorf("%d resyncs in an hour", n)
		}
		r.stop()
	})
}

func TestADriverAsksForAPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		source.say <- read()
		synctest.Wait()
		driver.times()
		wake := <-driver.wake
		wake()
		wake()
		synctest.Wait()
		driver.applies(t, 0)
		r.stop()
	})
}

func TestPlanIsNeverBesideApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		driver.takes = time.Second
		source.say <- read(service("web", 80, 1))
		synctest.Wait()
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				if _, err := r.loop.Plan(t.Context()); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
			r.loop.Wake()
			time.Sleep(1500 * time.Millisecond)
		}
		group.Wait()
		if driver.beside.Load() {
			t.Error("Plan and Apply ran at the same time")
		}
		r.stop()
	})
}

func TestPlanTellsWhatAPassWouldDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		source.say <- read(service("web", 80, 2))
		synctest.Wait()
		driver.lose("web 80/tcp")
		driver.Resync()
		r.log.take()
		driver.times()
		plan, err := r.loop.Plan(t.Context())
		if err != nil || len(plan.Drivers[0].Report.Changes) != 2 || len(plan.Want) != 1 {
			t.Errorf("plan %+v, %v", plan, err)
		}
		synctest.Wait()
		driver.applies(t)
		r.logged()
		if n := len(r.loop.Pass().Drivers[0].Report.Reloads); n != 1 {
			t.Errorf("a plan changed the published pass: %d reloads", n)
		}

		driver.breaks("no socket")
		plan, err = r.loop.Plan(t.Context())
		if plan == nil || err == nil || err.Error() != "plan of driver haproxy: no socket" || plan.Drivers[0].Err != "no socket" {
			t.Errorf("plan %+v, %v", plan, err)
		}
		r.stop()
		if _, err := r.loop.Plan(context.Background()); err == nil {
			t.Error("a plan after the end")
		}
	})
}

func TestPlanGivesUpWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		driver.takes = time.Minute
		source.say <- read()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.loop.Plan(ctx); err == nil || err.Error() != "wait for the running pass: context deadline exceeded" {
			t.Errorf("Plan: %v", err)
		}
		r.stop()
	})
}

func TestDriversEndAfterTheLastPass(t *testing.T) {
	for name, c := range map[string]struct {
		takes time.Duration
		log   []string
	}{
		"a pass that has begun is finished": {time.Second, []string{
			`level=INFO msg=reload driver=haproxy reasons="new service web 80/tcp"`,
			`level=INFO msg="add server" driver=haproxy service="web 80/tcp" server=10.0.0.1:31000`}},
		"one that takes too long is interrupted, which is no failure": {time.Minute, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, driver := newSource("marathon"), newDriver("haproxy")
				r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
				driver.takes = c.takes
				source.say <- read(service("web", 80, 1))
				synctest.Wait()
				r.log.take()
				r.stop() // in the middle of the pass
				if driver.late.Load() || !driver.ended.Load() {
					t.Errorf("late %t, ended %t", driver.late.Load(), driver.ended.Load())
				}
				r.logged(c.log...)
			})
		})
	}
}

// brittle is a source whose first Run ends by itself.
type brittle struct {
	*fakeSource
	runs int
}

func (s *brittle) Run(ctx context.Context, out chan<- catalog.Snapshot) error {
	if s.runs++; s.runs == 1 {
		return errors.New("bug")
	}
	return s.fakeSource.Run(ctx, out)
}

func TestASourceThatEndsIsStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := &brittle{fakeSource: newSource("marathon")}, newDriver("haproxy")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		r.logged(`level=ERROR msg="ended by itself, is started again" source=marathon err=bug`)
		source.say <- read(service("web", 80, 1))
		synctest.Wait()
		driver.serves(t, "map[web 80/tcp:[10.0.0.1:31000]]")
		r.stop()
	})
}

// unwritten is a driver that cannot leave everything written.
type unwritten struct{ *fakeDriver }

func (d unwritten) Run(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return errors.New("disk full")
}

func TestRunTellsWhatWentWrongAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Config{Drivers: []Driver{unwritten{newDriver("haproxy")}}})
		r.cancel()
		if err := <-r.ended; err == nil || err.Error() != "stop driver haproxy: disk full" {
			t.Errorf("Run: %v", err)
		}
	})
}
