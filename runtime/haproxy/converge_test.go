package haproxy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// TestConverge is the property that everything else follows from: whatever happened before, one whole undisturbed pass ends in
// the state of a fresh start, and a second plan is empty. PM_SEED replays one story, PM_RUNS sets how many are told.
func TestConverge(t *testing.T) {
	first, runs := storySeed(t, storyRuns)
	var mu sync.Mutex
	total := map[string]int{}
	var group sync.WaitGroup
	next := make(chan uint64)
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // stories are short and make much garbage
	for range runtime.NumCPU() {
		group.Go(func() {
			for seed := range next {
				counts, err := tellStory(t.Context(), seed)
				mu.Lock()
				for name, n := range counts {
					total[name] += n
				}
				mu.Unlock()
				if err != nil {
					t.Errorf("%v\nreplay with PM_SEED=%d PM_RUNS=1", err, seed)
				}
			}
		})
	}
	for i := range uint64(runs) {
		if t.Failed() {
			break
		}
		next <- first + i
	}
	close(next)
	group.Wait()
	t.Logf("%d runs from seed %d:%s", runs, first, countsText(total))
}

// story is one run.
type story struct {
	*dice
	config  Config
	sim     *sim
	driver  *Driver
	fresh   *Driver // another, which remembers nothing of the sim; it tells what a fresh start would be
	counts  map[string]int
	history []string
}

// storySteps is how many steps a story has.
const storySteps = 20

func tellStory(ctx context.Context, seed uint64) (counts map[string]int, err error) {
	dir, err := memoryDir()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	s := &story{counts: map[string]int{}}
	s.dice = newDice(seed, []uint16{10001, 10002, 10003, 10004}, addrs("10.0.0.1:31000", "10.0.0.1:31001", "10.0.0.2:31000", "10.0.0.3:31000", "[2001:db8::1]:31000"))
	s.config = Config{ConfigFile: filepath.Join(dir, "haproxy.cfg"), TemplateFile: pick(s.dice, []string{"", "", "testdata/split.cfg.tpl", "testdata/static.cfg.tpl"}),
		Start: Managed, Reload: Managed, Socket: filepath.Join(dir, "s"), RunDir: dir, BindAddress: netip.MustParseAddr("127.0.0.1"),
		MaxConnections: 100, Drain: time.Minute, ReloadInterval: testGap, ReleaseAfter: 10 * time.Minute}
	if s.sim, s.driver, err = newSim(s.config); err != nil {
		return nil, err
	}
	s.sim.otherUser, s.sim.old = s.one(3), s.one(4)
	if s.fresh, err = New(s.config); err != nil {
		return nil, err
	}
	for step := range storySteps {
		s.note("step %d", step)
		err := s.step(ctx)
		if err == nil && len(s.sim.wrongs) > 0 {
			err = fmt.Errorf("%s", strings.Join(s.sim.wrongs, "\n"))
		}
		if err != nil {
			return s.counts, fmt.Errorf("template %q, HAProxy 2.2 %t, step %d: %w\n%s", s.config.TemplateFile, s.sim.old, step, err, s.tail())
		}
	}
	for kind, n := range s.sim.struck {
		s.counts[string(kind)] += n
	}
	s.counts["loads"] = s.sim.loads
	if s.sim.old {
		s.counts["stories of 2.2"]++
	}
	return s.counts, s.startsAlike(ctx)
}

func (s *story) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if len(s.history) == 0 || s.history[len(s.history)-1] != line {
		s.history = append(s.history, line)
	}
}

// tail tells the last part of the story.
func (s *story) tail() string {
	return strings.Join(s.history[max(0, len(s.history)-20):], "\n")
}

// step lets things happen, perhaps a disturbed pass among them, and then the undisturbed one that must put all right.
func (s *story) step(ctx context.Context) error {
	s.sim.pass(lookAgain + time.Second)
	if s.one(20) {
		s.sim.pass(20 * time.Minute) // time for ports to be released and sessions to be shut down
	}
	s.happen()
	if s.one(2) {
		s.turn()
		if err := s.disturbed(ctx); err != nil {
			return err
		}
	}
	s.turn()
	if err := s.settle(ctx); err != nil {
		return err
	}
	return s.fileFollows(ctx)
}

// happen lets others than the driver do something, unseen.
func (s *story) happen() {
	s.counts["busy servers"] += s.clients(s.sim)
	s.checks(s.sim)
	switch s.IntN(12) {
	case 0:
		s.note("HAProxy is restarted by somebody else")
		s.counts["restarts by others"]++
		s.sim.restart()
	case 1:
		s.note("HAProxy dies")
		s.counts["deaths"]++
		s.sim.worker = nil
	case 2, 3:
		s.note("an operator meddles")
		s.counts["operators"]++
		s.meddle(s.sim)
		s.driver.Resync()
	case 4:
		s.crash()
	}
	s.thieves(s.sim)
	s.note("thieves %v", s.sim.thieves)
}

// crash replaces the driver by one that remembers nothing. What was not in the file yet is lost.
func (s *story) crash() {
	s.note("the driver dies")
	s.counts["driver crashes"]++
	d, err := s.sim.driver(s.config)
	if err != nil {
		panic(err)
	}
	s.driver = d
	clear(s.sim.held) // the kernel closes what a process held
}

// disturbed makes a pass in which something goes wrong.
func (s *story) disturbed(ctx context.Context) error {
	s.sim.armed, s.sim.left = pick(s.dice, slices.Concat(onCommand, onCommand, onLoad)), s.IntN(12)
	if slices.Contains(onLoad, s.sim.armed) && s.one(2) {
		s.sim.left = 0
	}
	s.note("disturbed pass with %s after %d:\n%s", s.sim.armed, s.sim.left, catalog.Format(s.want()))
	s.counts["disturbed passes"]++
	s.watch(s.want())
	s.sim.keep = nil
	matched := s.fileMatches()
	crashed, _, err := s.apply(ctx)
	s.note("  gave %v", err)
	s.sim.armed, s.sim.allowed = "", nil
	if crashed {
		s.crash()
	} else if matched && s.sim.worker != nil && !s.fileMatches() {
		return fmt.Errorf("after the disturbed pass the file has another structure than the running process")
	}
	if s.one(2) {
		return s.driver.file.flush()
	}
	return nil
}

// fileMatches reports whether the file has the structure that the process runs.
func (s *story) fileMatches() bool {
	raw, err := os.ReadFile(s.config.ConfigFile)
	return err == nil && s.sim.worker != nil && strings.Contains(string(raw), s.sim.worker.description)
}

// apply makes a pass and reports whether the driver died in it.
func (s *story) apply(ctx context.Context) (crashed bool, r catalog.Report, err error) {
	defer func() {
		if what := recover(); what == driverDies {
			crashed = true
		} else if what != nil {
			panic(what)
		}
	}()
	r, err = s.driver.Apply(ctx, s.want())
	return false, r, err
}

// watch tells the judge what may get traffic during a pass, and which ports must be served throughout.
func (s *story) watch(want []*catalog.Service) {
	s.sim.allowed, s.sim.keep = targets(want), map[uint16]bool{}
	wanted := map[uint16]bool{}
	for _, w := range want {
		wanted[w.Port] = len(w.Servers) > 0
	}
	for _, t := range s.sim.worker.traffic() {
		s.sim.allowed[t] = true
		if wanted[t.port] {
			s.sim.keep[t.port] = true
		}
	}
	for _, port := range s.ports {
		s.sim.allowed[target{port, netip.MustParseAddrPort("127.0.0.1:1")}] = true // the split template's own server
	}
}

// mostDelay is how long a load may be put off by the driver's own pace.
const mostDelay = 3 * time.Minute

// settle makes one undisturbed pass: what is put off by the driver's pace is part of it, as are passes that tell why.
func (s *story) settle(ctx context.Context) error {
	s.note("undisturbed pass:\n%s", catalog.Format(s.want()))
	s.counts["undisturbed passes"]++
	for begin := s.sim.clock; s.sim.clock.Sub(begin) < mostDelay; {
		promise, err := s.driver.Plan(ctx, s.want())
		if err != nil {
			return fmt.Errorf("plan: %w", err)
		}
		loads, dead := s.sim.loads, s.sim.worker.dead()
		s.watch(s.want())
		_, r, applyErr := s.apply(ctx)
		s.sim.allowed = nil
		s.note("  changes %v reloads %q: %v", r.Changes, r.Reloads, applyErr)
		if !loadsIn(promise) && s.sim.loads > loads {
			return fmt.Errorf("a load that the plan did not promise: %q, promised %+v", r.Reloads, promise)
		}
		if forgot := s.sim.worker.revived(dead); len(forgot) > 0 {
			return fmt.Errorf("dead servers get traffic again: %q", forgot)
		}
		var wait time.Duration
		select {
		case wait = <-s.driver.alarm:
		default:
		}
		rest, err := s.planAll(ctx)
		switch {
		case err != nil:
			return err
		case len(rest.Changes)+len(rest.Reloads) == 0 && applyErr == nil:
			return s.converged(ctx)
		case !loadsIn(rest):
			return fmt.Errorf("after a whole pass (%v) is left: %+v", applyErr, rest.Changes)
		case slices.Contains(slices.Collect(maps.Values(s.sim.thieves)), false): // a connection: no plan can see it
		case wait == 0 || s.sim.loads > loads && applyErr == nil:
			return fmt.Errorf("after a whole pass with a load is left: %v", rest.Changes)
		}
		s.counts["passes put off"]++
		s.sim.pass(wait)
	}
	return fmt.Errorf("it does not settle")
}

// loadsIn reports whether a plan has a reload or a start in it.
func loadsIn(r catalog.Report) bool {
	return len(r.Reloads) > 0 || slices.ContainsFunc(r.Changes, func(c catalog.Change) bool { return c.Action == "start HAProxy" })
}

// planAll plans after looking at everything, and leaves the driver's memory as it was.
func (s *story) planAll(ctx context.Context) (catalog.Report, error) {
	was := s.driver.resync.Load()
	s.driver.Resync()
	r, err := s.driver.Plan(ctx, s.want())
	s.driver.resync.Store(was)
	return r, err
}

// converged compares the running process with a fresh start.
func (s *story) converged(ctx context.Context) error {
	want, err := s.freshStart(ctx)
	if err != nil {
		return err
	}
	if err := differ(simText(s.sim.worker.live()), simText(want.live())); err != nil {
		return fmt.Errorf("against a fresh start, the running process\n%w", err)
	}
	if left := s.sim.worker.leftovers(s.driver.leaving); len(left) > 0 {
		return fmt.Errorf("left over: %q", left)
	}
	return nil
}

// freshStart gives the process that a driver without a past would start, for the services whose ports are free.
func (s *story) freshStart(ctx context.Context) (*simWorker, error) {
	free := slices.DeleteFunc(s.want(), func(w *catalog.Service) bool { _, taken := s.sim.thieves[w.Port]; return taken })
	text, err := s.fresh.Render(ctx, free)
	if err != nil {
		return nil, err
	}
	return parseSim(string(text))
}

// fileFollows flushes the file now and then, as Run does, and compares it with a fresh one.
func (s *story) fileFollows(ctx context.Context) error {
	if s.one(2) {
		return nil
	}
	if err := s.driver.file.flush(); err != nil {
		return err
	}
	raw, err := os.ReadFile(s.config.ConfigFile)
	if err != nil {
		return err
	}
	got, err := parseSim(string(raw))
	if err != nil {
		return err
	}
	want, err := s.freshStart(ctx)
	if err != nil {
		return err
	}
	if err := differ(simText(got.proxies), simText(want.proxies)); err != nil {
		return fmt.Errorf("against a fresh one, the file\n%w", err)
	}
	return s.newcomer(ctx)
}

// newcomer lets another driver look at what this one left: it must find nothing to do. Only an Apply finds out that a port is
// taken by a connection.
func (s *story) newcomer(ctx context.Context) error {
	if s.one(2) || len(s.sim.thieves) > 0 {
		return nil
	}
	d, err := s.sim.driver(s.config)
	if err != nil {
		return err
	}
	r, err := d.Plan(ctx, s.want())
	if err == nil && len(r.Changes)+len(r.Reloads) > 0 {
		err = fmt.Errorf("a new driver finds %+v %q", r.Changes, r.Reloads)
	}
	return err
}

// startsAlike lets a real fresh start confirm what a fresh text was taken for.
func (s *story) startsAlike(ctx context.Context) error {
	config := s.config
	config.RunDir += "/fresh"
	config.ConfigFile = filepath.Join(config.RunDir, "haproxy.cfg")
	if err := os.Mkdir(config.RunDir, 0o700); err != nil {
		return err
	}
	fresh, driver, err := newSim(config)
	if err != nil {
		return err
	}
	fresh.thieves = s.sim.thieves
	if _, err := driver.Apply(ctx, s.want()); err != nil {
		return fmt.Errorf("fresh start: %w", err)
	}
	if err := differ(simText(s.sim.worker.live()), simText(fresh.worker.live())); err != nil {
		return fmt.Errorf("against a real fresh start, the running process\n%w", err)
	}
	return nil
}
