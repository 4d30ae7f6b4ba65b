package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// sim is a HAProxy 2.6 that behaves: it answers the commands that a driver sends in the words of the real one, loads a file, and
// forgets at a reload what the real one forgets. TestSimAnswersLikeHAProxy compares the two. What happens around it (time,
// ports of others, faults) is its world's.
type sim struct {
	world
	file   string
	worker *simWorker // nil while it does not run
	before *simWorker // answers a few times more after a reload
	lag    int        // how often
	loads  int        // processes that the driver brought up, or tried to
}

// simWorker is one process.
type simWorker struct {
	pid         int
	description string
	proxies     []*simProxy
}

// simProxy is one listen, frontend or backend.
type simProxy struct {
	name        string
	front, back bool
	paused      bool
	static      bool     // its balancing takes no servers at run time
	rest        []string // the lines that only a reload can change
	binds       []netip.AddrPort
	backs       []string // the backends that it uses
	servers     []*simServer
}

// simServer is one server.
type simServer struct {
	name            string
	addr            netip.AddrPort
	weight, maxconn int
	words           string // other words of its line
	admin           int
	down            bool
	check, checks   bool // whether its line says `check`, and whether it is checked
	pinned          bool // others refer to it
	conns           int
	ending          bool // its sessions were shut down, which takes effect later
}

func (s *sim) do(_ context.Context, commands []string) ([]string, error) {
	s.pass(time.Millisecond)
	if len(commands) == 1 { // somebody waits for something
		s.pass(checkEvery)
	}
	if s.worker == nil {
		return nil, fmt.Errorf("%w (simulated)", errDown)
	}
	if len(commands) == 0 || len(commands) > batchSize {
		s.blame("a batch of %d commands", len(commands))
	}
	w := s.worker
	if s.lag > 0 {
		s.lag--
		w = s.before
	}
	answers := make([]string, 0, len(commands))
	for _, command := range commands {
		if kind := s.strike(onCommand); kind != "" {
			return nil, s.breakBatch(kind)
		}
		if s.worker == nil {
			return nil, errUnanswered
		}
		answers = append(answers, strings.TrimSpace(w.execute(command, &s.world, w != s.worker)))
		if !strings.HasPrefix(command, "show ") {
			s.judge(s.worker)
		}
	}
	s.worker.endSessions()
	return answers, nil
}

// breakBatch lets a batch go wrong after some of its commands were executed.
func (s *sim) breakBatch(kind fault) error {
	switch kind {
	case driverDies:
		panic(driverDies)
	case haproxyDies:
		s.worker = nil
	case hangs:
		s.pass(batchTimeout)
	}
	return fmt.Errorf("%w (simulated: %s)", errUnanswered, kind)
}

// The sim's process: what starts it.

func (s *sim) start(context.Context) error {
	s.loads++
	if s.worker != nil {
		s.blame("a start beside a running process")
	}
	kind := s.strike(onLoad)
	err := s.startFile(kind)
	return s.afterLoad(kind, err)
}

// startFile builds a process without another that it could take ports from.
func (s *sim) startFile(kind fault) error {
	w, err := s.read(kind)
	if err != nil {
		return err
	}
	if taken := s.takenBy(w, nil); taken != "" {
		return fmt.Errorf("cannot bind %s", taken)
	}
	s.worker = w
	return nil
}

// restart is what somebody else does: HAProxy ends and is started from the file as it is.
func (s *sim) restart() {
	s.worker, s.lag = nil, 0
	_ = s.startFile("") // when the file is of no use, nothing runs
}

func (s *sim) reload(context.Context) error {
	s.loads++
	kind := s.strike(onLoad)
	old := s.worker
	if old == nil {
		return errors.New("nothing to reload")
	}
	w, err := s.read(kind)
	if err != nil {
		return s.afterLoad(kind, err)
	}
	if kind == portIsTaken {
		s.steal(w, old)
	}
	if taken := s.takenBy(w, old); taken != "" {
		for _, p := range old.proxies { // all are paused for two seconds, then resumed where that can be
			p.paused = p.paused && s.busy(p)
		}
		s.forgive(old)
		return s.afterLoad(kind, fmt.Errorf("cannot bind %s", taken))
	}
	s.before, s.worker = old, w
	if kind == lingers {
		s.lag = 2
	}
	return s.afterLoad(kind, nil)
}

// afterLoad ends a start or reload. Whether it reports an error is not what counts: 2.6 finds out later, and commands complain
// and have worked.
func (s *sim) afterLoad(kind fault, err error) error {
	s.why = err
	if s.worker != nil && err == nil {
		s.judge(s.worker)
	}
	switch kind {
	case driverDies:
		panic(driverDies)
	case complains:
		return errors.New("simulated complaint of a command that worked")
	case haproxyDies:
		s.worker, s.lag = nil, 0
		s.why = errors.New("it died")
	}
	return nil
}

func (s *sim) refused(context.Context) error {
	if s.why == nil && s.worker == nil {
		return errors.New("haproxy ended")
	}
	return s.why
}

func (s *sim) binder() (int, bool) { return os.Geteuid() + toInt(s.otherUser), true }

func (s *sim) elders(context.Context, int) ([]int, error) { return s.aged, nil }

func (s *sim) end(worker int) error {
	s.aged = slices.DeleteFunc(slices.Clone(s.aged), func(pid int) bool { return pid == worker })
	return nil
}

func (s *sim) dismiss(int, []netip.AddrPort) error { return nil }

func (s *sim) deaf() bool { return false }

func (s *sim) stop(context.Context) error { s.worker = nil; return nil }

// read builds a process from the file, or fails as it was told to.
func (s *sim) read(kind fault) (*simWorker, error) {
	raw, err := os.ReadFile(s.file)
	if err != nil {
		return nil, err
	}
	if kind == badConfig {
		return nil, errors.New("simulated refusal of a configuration")
	}
	w, err := parseSim(string(raw))
	if err != nil {
		s.blame("%v in\n%s", err, raw)
		return nil, err
	}
	w.pid = s.nextPid()
	return w, nil
}
