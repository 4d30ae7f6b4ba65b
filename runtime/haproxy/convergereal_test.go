package haproxy

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	realRuns  = 100
	realSteps = 7
)

// TestConvergeReal is TestConverge against the real HAProxy, with the faults that can be made real. PM_SEED and PM_RUNS work as
// there.
func TestConvergeReal(t *testing.T) {
	if testing.Short() && os.Getenv("CI") == "" {
		t.Skip("takes a minute")
	}
	needHAProxy(t)
	first, runs := storySeed(t, realRuns)
	var mu sync.Mutex
	total := map[string]int{}
	t.Run("stories", func(t *testing.T) {
		for i := range uint64(runs) {
			t.Run(fmt.Sprint("seed ", first+i), func(t *testing.T) {
				t.Parallel()
				counts := tellRealStory(t, first+i)
				mu.Lock()
				defer mu.Unlock()
				for name, n := range counts {
					total[name] += n
				}
			})
		}
	})
	t.Logf("%d runs from seed %d:%s", runs, first, countsText(total))
}

// realStory is one run.
type realStory struct {
	*dice
	*rig
	ahead   time.Duration // what the driver's clock is ahead of the real one: pauses are not slept through
	fresh   *Driver
	clients []net.Conn
	counts  map[string]int
}

func tellRealStory(t *testing.T, seed uint64) map[string]int {
	s := &realStory{rig: newRig(t, nil), counts: map[string]int{}}
	s.dice = newDice(seed, freePorts(t, 4), addrs(holding(t), holding(t), holding(t), "127.0.0.1:1"))
	t.Cleanup(s.leave)
	s.forget()
	var err error
	if s.fresh, err = New(s.config); err != nil {
		t.Fatal(err)
	}
	for step := range realSteps {
		s.happen()
		s.turn()
		if err := s.settle(); err != nil {
			t.Fatalf("step %d: %v\n%s", step, err, catalog.Format(s.want()))
		}
	}
	if out, err := exec.Command("haproxy", "-c", "-f", s.config.ConfigFile).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return s.counts
}

// forget replaces the driver by one that remembers nothing, and loses what was not in the file yet.
func (s *realStory) forget() {
	d, err := New(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	d.now = func() time.Time { return time.Now().Add(s.ahead) }
	d.former = s.driver.former // a new run does not come as soon
	s.driver = d
}

// happen lets others than the driver do something, unseen.
func (s *realStory) happen() {
	switch s.IntN(10) {
	case 0:
		s.counts["HAProxy killed"]++
		s.kill()
	case 1, 2:
		s.counts["driver crashes"]++
		s.forget()
	case 3, 4:
		s.counts["operators"]++
		s.meddle()
	case 5, 6:
		s.come()
	case 7:
		s.leave()
	case 8:
		s.counts["hours"]++ // ports are released, sessions shut down
		s.ahead += 2 * time.Hour
	}
}

// come lets a client of each service arrive and stay.
func (s *realStory) come() {
	for _, port := range s.ports {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		s.clients = append(s.clients, c)
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if n, _ := io.ReadFull(c, make([]byte, 1)); n == 1 {
			s.counts["busy servers"]++
		}
	}
}

func (s *realStory) leave() {
	for _, c := range s.clients {
		_ = c.Close()
	}
	s.clients = nil
}

// meddle lets an operator change something through the socket.
func (s *realStory) meddle() {
	w, err := s.running()
	if err != nil || w == nil {
		return
	}
	var paths []string
	w.each(func(p *simProxy, v *simServer) { paths = append(paths, p.name+"/"+v.name) })
	if len(paths) == 0 {
		return
	}
	path := pick(s.dice, paths)
	front, _, _ := strings.Cut(path, "/")
	_, _ = s.driver.cli.do(s.t.Context(), pick(s.dice, [][]string{
		{"set server " + path + " state maint"}, {"set server " + path + " state drain"}, {"set server " + path + " weight 0"},
		{"set maxconn server " + path + " 77"}, {"set server " + path + " addr 127.0.0.9 port 9"}, {"disable health " + path},
		{"disable server " + path, "del server " + path}, {"disable frontend " + front}, {"enable frontend " + front},
		{"add server " + front + "/10.9.9.9:9 10.9.9.9:9", "enable server " + front + "/10.9.9.9:9"},
	}))
	s.driver.Resync()
}

// running reads what the real process does into the shape of a simulated one; nil when there is none.
func (s *realStory) running() (*simWorker, error) {
	have, err := s.driver.observe(s.t.Context(), looking{load: func(string) (structure, bool) { return structure{}, false }})
	if err != nil || !have.alive {
		return nil, err
	}
	w := &simWorker{pid: have.pid}
	for name, open := range have.open {
		p := &simProxy{name: name, front: true, back: true, paused: !open}
		for server, is := range have.servers[name] {
			p.servers = append(p.servers, &simServer{name: server, addr: is.addr, weight: is.weight, maxconn: is.maxconn, admin: is.admin,
				checks: is.checked})
		}
		w.proxies = append(w.proxies, p)
	}
	return w, nil
}

// settle makes one undisturbed pass, as in story.settle, and compares.
func (s *realStory) settle() error {
	for range 60 {
		promise, err := s.driver.Plan(s.t.Context(), s.want())
		if err != nil {
			return err
		}
		r, applyErr := s.driver.Apply(s.t.Context(), s.want())
		s.counts["reloads"] += min(1, len(r.Reloads))
		if !loadsIn(promise) && loadsIn(r) {
			return fmt.Errorf("a load that the plan did not promise: %q", r.Reloads)
		}
		select {
		case wait := <-s.driver.alarm:
			s.ahead += wait
		default:
		}
		s.driver.Resync()
		rest, err := s.driver.Plan(s.t.Context(), s.want())
		if err != nil {
			return err
		}
		if len(rest.Changes)+len(rest.Reloads) == 0 && applyErr == nil {
			s.counts["passes"]++
			return s.converged()
		}
		if !loadsIn(rest) {
			return fmt.Errorf("after a whole pass (%v) is left: %+v", applyErr, rest.Changes)
		}
	}
	return fmt.Errorf("it does not settle")
}

// converged compares the running process, the file and the ports with a fresh start.
func (s *realStory) converged() error {
	text, err := s.fresh.Render(s.t.Context(), s.want())
	if err != nil {
		return err
	}
	want, err := parseSim(string(text))
	if err != nil {
		return err
	}
	if err := s.driver.file.flush(); err != nil {
		return err
	}
	raw, err := os.ReadFile(s.config.ConfigFile)
	if err != nil {
		return err
	}
	file, err := parseSim(string(raw))
	if err != nil {
		return err
	}
	if err := differ(simText(file.proxies), simText(want.proxies)); err != nil {
		return fmt.Errorf("against a fresh one, the file\n%w", err)
	}
	is, err := s.running()
	if err != nil {
		return err
	}
	for _, p := range want.proxies { // what the socket does not tell
		p.rest = nil
	}
	if err := differ(simText(is.live()), simText(want.live())); err != nil {
		return fmt.Errorf("against a fresh start, the running process\n%w", err)
	}
	if left := is.leftovers(s.driver.leaving); len(left) > 0 {
		return fmt.Errorf("left over: %q", left)
	}
	return s.reachable(want)
}

// reachable compares which ports accept connections.
func (s *realStory) reachable(want *simWorker) error {
	for _, port := range s.ports {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = c.Close()
		}
		if got := err == nil; got != want.listens(port) {
			return fmt.Errorf("port %d accepts connections: %t, want %t", port, got, want.listens(port))
		}
	}
	return nil
}
