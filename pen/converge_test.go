package pen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
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
}

func tellRealStory(t *testing.T, seed uint64, places []place, foreign place) map[string]int {
	s := &realStory{counts: map[string]int{}, foreign: foreign}
	s.dice = &dice{Rand: rand.New(rand.NewPCG(seed, 0)), places: places, next: map[catalog.Key]catalog.Service{}}
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

// happen lets others than the driver do something, unseen.
func (s *realStory) happen() {
	for range 1 + s.IntN(2) {
		pens := s.running()
		switch n := s.IntN(16); {
		case n < 3 && len(pens) > 0:
			s.kill(pick(s.dice, pens), pick(s.dice, []syscall.Signal{syscall.SIGKILL, syscall.SIGKILL, syscall.SIGTERM}))
		case n == 3 && len(pens) > 0 && s.one(4):
			p := pick(s.dice, pens)
			s.struck("stopped", p)
			_ = syscall.Kill(p.pid, syscall.SIGSTOP)
		case n < 6:
			s.struck("driver forgotten", "")
			s.forget()
		case n < 9 && len(pens) > 0:
			s.meddle(pick(s.dice, pens))
		case n < 11:
			s.loseFiles()
		case n == 11:
			s.reconfigure()
		case n == 12:
			s.stray()
		case n == 13:
			s.struck("hours", "")
			s.ahead += time.Hour
		}
	}
}

func (s *realStory) kill(p process, signal syscall.Signal) {
	s.struck("killed", p)
	_ = syscall.Kill(p.pid, signal)
	_ = syscall.Kill(p.pid, syscall.SIGCONT) // it may be stopped
	if err := host.WaitExit(s.t.Context(), p.pid); err != nil {
		s.t.Fatal(err)
	}
	if c := s.driver.children[p.pid]; c != nil {
		<-c.done // so that the driver knows
	}
}

// meddle changes a pen's table through its socket.
func (s *realStory) meddle(p process) {
	address := fmt.Sprintf("address %s port %d", s.foreign.addr.Addr(), s.foreign.addr.Port())
	command := pick(s.dice, []string{"server 1 " + address, "server 2 " + address, "server 0 " + address, "server 9 " + address,
		"server 1 address 0.0.0.0 port 0", "server 2 address 0.0.0.0 port 0", "server 40 address 0.0.0.0 port 0"})
	s.struck("meddled", fmt.Sprint(p, " ", command))
	_, _, _ = control{p.socket}.ask(s.t.Context(), command)
}

func (s *realStory) loseFiles() {
	for _, pattern := range []string{s.driver.files.dir() + "/*-*", s.driver.files.own() + "/*-*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, path := range found {
			if s.one(3) {
				s.struck("files lost", filepath.Base(path))
				_ = os.Remove(path)
			}
		}
	}
}

// reconfigure restarts the driver with other parameters.
func (s *realStory) reconfigure() {
	if os.Getuid() == 0 && s.one(2) {
		s.config.User = pick(s.dice, []string{"nobody", "root"})
	} else {
		s.config.Clients = pick(s.dice, []int{256, 300})
	}
	s.struck("reconfigured", fmt.Sprint(s.config.User, " ", s.config.Clients))
	s.forget()
}

// stray starts a pen that nobody has asked for.
func (s *realStory) stray() {
	other, err := New(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	if other.user, err = findIdentity(s.config.User); err != nil {
		s.t.Fatal(err)
	}
	if err := other.files.prepare(other.user); err != nil {
		s.t.Fatal(err)
	}
	c := command{key: pick(s.dice, s.keys), bind: s.config.BindAddress, flows: 99, asRoot: other.user.uid == 0}
	_, err = other.start(c) // which a pen of another user on the port prevents
	s.struck("strays", fmt.Sprint(c.key, " ", err))
}

// disturbed makes a pass in which something goes wrong.
func (s *realStory) disturbed() {
	s.driver.Resync()
	if s.one(2) {
		s.robbed()
		return
	}
	ctx, end := context.WithCancel(s.t.Context())
	defer end()
	c := &interrupted{Context: ctx, end: end}
	c.left.Store(int64(1 + s.IntN(40)))
	r, err := s.driver.Apply(c, s.want())
	s.struck("interrupted", fmt.Sprint(text(r), " ", err))
	if s.one(2) {
		s.forget()
	}
}

// robbed makes a pass while another process has the port of a service.
func (s *realStory) robbed() {
	key := pick(s.dice, s.keys)
	for _, p := range s.running() {
		if p.key == key {
			s.kill(p, syscall.SIGKILL)
		}
	}
	address := fmt.Sprintf("127.0.0.1:%d", key.Port)
	thief, err := listen(key.Proto, address)
	if err != nil {
		s.t.Fatal(err)
	}
	defer thief.Close()
	r, err := s.driver.Apply(s.t.Context(), s.want())
	s.struck("robbed", fmt.Sprint(key, " ", text(r), " ", err))
	w, wanted := s.next[key]
	named := slices.ContainsFunc(r.Problems, func(p catalog.Problem) bool {
		return p.Subject == w.Title() && strings.Contains(p.Reason, "is taken by pen.test")
	})
	waits := s.driver.failure(key).count > 1 // it failed before, so it was not tried
	if wanted && !named && !waits || len(s.running()) > len(s.next) {
		s.t.Errorf("port %s was taken: %+v\n%s", key, r, strings.Join(s.history, "\n"))
	}
}

func listen(proto catalog.Proto, address string) (io.Closer, error) {
	if proto == catalog.UDP {
		return net.ListenPacket("udp4", address)
	}
	return net.Listen("tcp4", address)
}

// settle makes an undisturbed pass: what waits after a failure is part of it.
func (s *realStory) settle() error {
	want := s.want()
	for range 30 {
		whole := s.driver.resync.Load()
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
		if got, want := changesText(r), changesText(promise); got != want {
			return fmt.Errorf("planned were %q, made were %q", want, got)
		}
		s.counts["passes"]++
		return s.converged(want, whole)
	}
	return errors.New("it does not settle")
}

func changesText(r catalog.Report) string { return text(catalog.Report{Changes: r.Changes}) }

// converged compares the world with what is wanted. Only a pass that looked at everything leaves no file of former pens.
func (s *realStory) converged(want []catalog.Service, whole bool) error {
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
func (s *realStory) tables(want []catalog.Service, whole bool) (map[catalog.Key][]string, error) {
	pens := s.running()
	if len(pens) != len(want) {
		return nil, fmt.Errorf("%d services have the pens %v", len(want), pens)
	}
	names, may := map[catalog.Key][]string{}, map[string]bool{"none.sock": true}
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

func (s *realStory) connections(want []catalog.Service, serves map[catalog.Key][]string) error {
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

// come lets clients of UDP services arrive and stay, and old ones leave.
func (s *realStory) come() {
	for _, w := range s.want() {
		if w.Proto != catalog.UDP || len(w.Servers) == 0 || s.one(3) {
			continue
		}
		c, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", w.Port))
		if err != nil {
			s.t.Fatal(err)
		}
		h := &holder{Conn: c, key: w.Key, name: c.LocalAddr().String()}
		h.send()
		h.heard(1, time.Now().Add(20*time.Millisecond))
		s.holders = append(s.holders, h)
	}
	for len(s.holders) > 10 {
		_ = s.holders[0].Close()
		s.holders = s.holders[1:]
	}
}
