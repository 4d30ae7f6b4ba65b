package pen

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	realRuns  = 60
	realSteps = 6
	tellers   = 8 // stories at a time: more than cores, since a pen that does not answer is waited for
)

// TestConvergeReal is the property that everything else follows from, with real pens: whatever happened before, one undisturbed
// pass ends in one pen for each service and none else, with the servers that are wanted, and no client stays with a server that is
// gone. PM_SEED replays one story, PM_RUNS sets how many are told.
func TestConvergeReal(t *testing.T) {
	if testing.Short() && os.Getenv("CI") == "" {
		t.Skip("takes half a minute")
	}
	needPen(t)
	first, runs := storySeed(t, realRuns)
	places := []place{newPlace(t, 2, "a"), newPlace(t, 3, "b"), newPlace(t, 4, "c"), newPlace(t, 5, "d"), newPlace(t, 6, "")}
	foreign := newPlace(t, 7, "x")
	var mu sync.Mutex
	total := map[string]int{}
	next := make(chan uint64)
	var group sync.WaitGroup
	for range tellers {
		group.Go(func() {
			for seed := range next {
				t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
					counts := tellRealStory(t, seed, places, foreign)
					mu.Lock()
					defer mu.Unlock()
					for name, n := range counts {
						total[name] += n
					}
				})
			}
		})
	}
	for i := range uint64(runs) {
		next <- first + i
	}
	close(next)
	group.Wait()
	t.Logf("%d runs from seed %d: %s", runs, first, countsText(total))
}

// realStory is one run.
type realStory struct {
	*dice
	*rig
	foreign place         // never wanted
	ahead   time.Duration // what the driver's clock is ahead of the real one: pauses are not slept through
	holders []*holder
	counts  map[string]int
	history []string
	cut     bool // a pass was interrupted since the last whole one: a pen that it told to end may still be about to
}

func tellRealStory(t *testing.T, seed uint64, places []place, foreign place) map[string]int {
	s := &realStory{counts: map[string]int{}, foreign: foreign}
	s.dice = &dice{Rand: rand.New(rand.NewPCG(seed, 0)), places: places, next: map[catalog.Key]*catalog.Service{}}
	for range 3 {
		s.keys = append(s.keys, catalog.Key{Port: port(t), Proto: catalog.UDP})
	}
	s.keys = append(s.keys, catalog.Key{Port: s.keys[0].Port, Proto: catalog.TCP}, catalog.Key{Port: port(t), Proto: catalog.TCP})
	s.rig = newRig(t, func(c *Config) { c.Servers = pick(s.dice, []int{2, 5, 32}) })
	s.forget()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.driver.serveSink(ctx, func() {}) }()
	t.Cleanup(func() {
		stop()
		<-ended
		for _, h := range s.holders {
			_ = h.Close()
		}
	})
	for step := range realSteps {
		s.note("step %d", step)
		if s.one(3) {
			s.struck("quiet steps", "")
		} else {
			s.happen()
			if s.one(3) {
				s.turn()
				s.disturbed()
			}
			s.driver.Resync()
		}
		s.turn()
		if err := s.settle(); err != nil {
			t.Fatalf("step %d: %v\nwanted:\n%shistory:\n%s\nreplay with PM_SEED=%d PM_RUNS=1", step, err, catalog.Format(s.want()), strings.Join(s.history, "\n"), seed)
		}
		s.come()
	}
	return s.counts
}

func (s *realStory) note(format string, args ...any) {
	s.history = append(s.history, fmt.Sprintf(format, args...))
}

// struck notes something that happened.
func (s *realStory) struck(kind string, detail any) {
	s.counts[kind]++
	s.note("%s %v", kind, detail)
}

// forget replaces the driver by one that remembers nothing.
func (s *realStory) forget() {
	s.restart()
	s.driver.now = func() time.Time { return time.Now().Add(s.ahead) }
}

// running gives the pens in an order that does not depend on their ids.
func (s *realStory) running() []process {
	found, err := s.driver.files.scan()
	if err != nil {
		s.t.Fatal(err)
	}
	slices.SortStableFunc(found, func(a, b process) int { return a.key.Compare(b.key) })
	return found
}

// settle makes an undisturbed pass: what waits after a failure is part of it.
func (s *realStory) settle() error {
	want := s.want()
	for range 30 {
		whole, waits := s.driver.resync.Load(), s.waits()
		promise, err := s.driver.Plan(s.t.Context(), want)
		if err != nil {
			return err
		}
		r, err := s.driver.Apply(s.t.Context(), want)
		s.note("pass: %s (%v)", text(r), err)
		if err != nil {
			return err
		}
		select {
		case wait := <-s.driver.alarm:
			s.ahead += wait + time.Second
			s.counts["passes put off"]++
			continue
		default:
		}
		if got, want := changesText(r), changesText(promise); got != want && !waits && !s.cut {
			return fmt.Errorf("planned were %q, made were %q", want, got)
		}
		s.counts["passes"]++
		s.cut = false
		return s.converged(want, whole)
	}
	return errors.New("it does not settle")
}

// waits reports whether any service is not tried yet: it may be when it is applied, though not yet when that was planned.
func (s *realStory) waits() bool {
	for _, f := range s.driver.failures {
		if f.until.After(s.driver.now()) {
			return true
		}
	}
	return false
}

func changesText(r catalog.Report) string { return text(catalog.Report{Changes: r.Changes}) }

// converged compares the world with what is wanted. Only a pass that looked at everything leaves no file of former pens.
func (s *realStory) converged(want []*catalog.Service, whole bool) error {
	was := s.driver.resync.Load()
	s.driver.Resync()
	again, err := s.driver.Plan(s.t.Context(), want)
	s.driver.resync.Store(was)
	if err == nil && len(again.Changes) > 0 {
		err = fmt.Errorf("a second plan has %+v", again.Changes)
	}
	newcomer, newErr := New(s.config)
	if err = errors.Join(err, newErr); err != nil {
		return err
	}
	if again, err = newcomer.Plan(s.t.Context(), want); err != nil || len(again.Changes) > 0 {
		return fmt.Errorf("a new driver finds %+v (%w)", again.Changes, err)
	}
	serves, err := s.tables(want, whole)
	if err != nil {
		return err
	}
	return errors.Join(s.heldFlows(serves), s.connections(want, serves))
}

// tables compares the processes, their tables and the files, and gives the names of each service's servers.
func (s *realStory) tables(want []*catalog.Service, whole bool) (map[catalog.Key][]string, error) {
	pens := s.running()
	if len(pens) != len(want) {
		return nil, fmt.Errorf("%d services have the pens %v", len(want), pens)
	}
	names, may := map[catalog.Key][]string{}, map[string]bool{"none.sock": true, "none.sock.new": true}
	for i, w := range want {
		p := pens[i]
		if p.key != w.Key || os.Getuid() == 0 && (p.uid == 0) != (s.config.User == "root") {
			return nil, fmt.Errorf("%s has the pen %v", w.Key, p)
		}
		t, err := s.driver.servers(s.t.Context(), p)
		if err != nil {
			return nil, err
		}
		shared := map[string]int{}
		for _, share := range shares(w.Servers, t.slots, s.config.Servers) {
			shared[share.addr.String()] = share.n
		}
		has := map[string]int{}
		names[w.Key] = []string{}
		for addr, n := range t.slots.counts() {
			has[addr.String()] = n
			names[w.Key] = append(names[w.Key], s.nameOf(addr.String()))
		}
		if !maps.Equal(has, shared) || t.slots[0].IsValid() {
			return nil, fmt.Errorf("%s: the table %v should be shared as %v", w.Key, has, shared)
		}
		for _, name := range []string{s.driver.files.log(p.key), s.driver.files.config(p.key, p.id), p.socket} {
			may[filepath.Base(name)] = true
		}
	}
	for _, name := range s.files() {
		if !may[name] && (whole || !may[keyOf(name)+".log"]) {
			return nil, fmt.Errorf("the file %s is left", name)
		}
	}
	return names, nil
}

// nameOf gives the name of who answers at an address; empty when nobody does.
func (s *realStory) nameOf(addr string) string {
	i := slices.IndexFunc(s.places, func(p place) bool { return p.addr.String() == addr })
	if i < 0 {
		return addr
	}
	return s.places[i].name
}

// heldFlows asks through every flow: servers that are there must answer, and nobody else may.
func (s *realStory) heldFlows(serves map[catalog.Key][]string) error {
	silent := map[*holder]int{}
	for _, h := range s.holders {
		if !lives(serves[h.key]) {
			silent[h] = h.sent + 1
			h.send()
			continue
		}
		if who := h.ask(); !slices.Contains(serves[h.key], who) {
			return fmt.Errorf("%s, flow %s: answered by %s, wanted is one of %q", h.key, h.name, who, serves[h.key])
		}
		s.counts["flows answered"]++
	}
	for h, from := range silent {
		if who := h.heard(from, time.Now().Add(time.Millisecond)); who != "" {
			return fmt.Errorf("%s, flow %s: answered by %s, though nobody of %q is there", h.key, h.name, who, serves[h.key])
		}
		s.counts["flows not answered"]++
	}
	return nil
}

// lives reports whether any of the servers is there.
func lives(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return name != "" })
}

func (s *realStory) connections(want []*catalog.Service, serves map[catalog.Key][]string) error {
	for _, w := range want {
		if w.Proto != catalog.TCP {
			continue
		}
		names, who := serves[w.Key], askTCP(w.Port)
		if lives(names) != slices.Contains(names, who) || !lives(names) && who != "nobody" {
			return fmt.Errorf("%s: answered by %s, wanted is one of %q", w.Key, who, names)
		}
		s.counts["connections"]++
	}
	return nil
}
