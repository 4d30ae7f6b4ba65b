package haproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"
)

// world is what surrounds a simulated HAProxy: time, the ports of others, the fault that is to strike, and a judge of what must
// never happen.
type world struct {
	clock     time.Time
	lastPid   int
	thieves   map[uint16]bool // ports that somebody else has: whether he listens, or is a mere connection
	held      map[uint16]int  // ports that the driver holds
	otherUser bool            // HAProxy binds as another user than the driver
	old       bool            // HAProxy is 2.2
	why       error           // why the last load failed
	aged      []int           // old workers

	armed  fault
	left   int // commands or loads until it strikes
	struck map[fault]int

	allowed map[target]bool // who may get traffic; nil allows everything
	keep    map[uint16]bool // ports that must be served without a pause
	wrongs  []string        // what must never happen, and did
}

// target is a server as seen through a port.
type target struct {
	port uint16
	addr netip.AddrPort
}

// fault is what can go wrong once in a pass.
type fault string

const (
	cutOff          fault = "connection cut"       // after some commands of a batch
	hangs           fault = "hang"                 // the same, noticed later
	haproxyDies     fault = "HAProxy dies"         // in a batch, or just after a load
	driverDies      fault = "driver dies"          // in a batch, or just after a load
	driverDiesEarly fault = "driver dies early"    // between writing the file and the load
	badConfig       fault = "refused config"       // a load that is refused
	portIsTaken     fault = "port taken meanwhile" // after it was proven free
	complains       fault = "complaint"            // a load that works and says otherwise
	lingers         fault = "old worker lingers"   // it answers a few times after the load
)

// The moments at which faults strike.
var onCommand, onLoad = []fault{cutOff, hangs, haproxyDies, driverDies},
	[]fault{badConfig, portIsTaken, complains, lingers, haproxyDies, driverDies, driverDiesEarly}

// strike gives the armed fault when its moment has come.
func (w *world) strike(moment []fault) fault {
	if w.armed == "" || !slices.Contains(moment, w.armed) {
		return ""
	}
	if w.left--; w.left >= 0 {
		return ""
	}
	kind := w.armed
	w.armed = ""
	w.struck[kind]++
	if kind == driverDiesEarly {
		panic(driverDies)
	}
	return kind
}

func (w *world) pass(t time.Duration) { w.clock = w.clock.Add(t) }

func (w *world) now() time.Time { return w.clock }

func (w *world) nextPid() int { w.lastPid++; return w.lastPid }

func (w *world) blame(format string, args ...any) {
	w.wrongs = append(w.wrongs, fmt.Sprintf(format, args...))
}

// judge looks at who gets traffic, after each step of the driver's.
func (w *world) judge(is *simWorker) {
	if w.allowed == nil {
		return
	}
	served := map[uint16]bool{}
	for _, t := range is.traffic() {
		served[t.port] = true
		if !w.allowed[t] {
			w.blame("%s gets traffic on port %d and is not wanted", t.addr, t.port)
		}
	}
	for port := range w.keep {
		if !served[port] {
			w.blame("port %d is not served for a while", port)
		}
	}
}

// forgive allows what a failed reload did by itself.
func (w *world) forgive(is *simWorker) {
	if w.allowed != nil {
		for _, t := range is.traffic() {
			w.allowed[t] = true
		}
	}
}

// steal lets somebody else have a port just before a load that needs it.
func (w *world) steal(is, old *simWorker) {
	for _, p := range is.proxies {
		for _, a := range p.binds {
			if w.held[a.Port()] == 0 && !old.binds(a.Port()) {
				w.thieves[a.Port()] = true
				return
			}
		}
	}
}

// takenBy gives an address that a new process cannot bind, given the one that it takes listeners from.
func (s *sim) takenBy(w, old *simWorker) string {
	for _, p := range w.proxies {
		for _, a := range p.binds {
			if _, taken := s.thieves[a.Port()]; taken && !old.listens(a.Port()) {
				return a.String()
			}
		}
	}
	return ""
}

// busy reports whether somebody else listens on a port of a paused proxy. A connection cannot use it: the paused socket stays
// bound.
func (w *world) busy(p *simProxy) bool {
	return slices.ContainsFunc(p.binds, func(a netip.AddrPort) bool { return w.thieves[a.Port()] })
}

// binds reports whether a process has a port bound, paused or not.
func (w *simWorker) binds(port uint16) bool {
	return w != nil && slices.ContainsFunc(w.proxies, func(p *simProxy) bool {
		return slices.ContainsFunc(p.binds, func(a netip.AddrPort) bool { return a.Port() == port })
	})
}

func (w *simWorker) listens(port uint16) bool {
	return w != nil && slices.ContainsFunc(w.proxies, func(p *simProxy) bool {
		return !p.paused && slices.ContainsFunc(p.binds, func(a netip.AddrPort) bool { return a.Port() == port })
	})
}

// simPorts are the ports of a world.
type simPorts struct{ w *world }

func (p simPorts) look(addrs []netip.AddrPort, _ int, connections bool) (map[netip.AddrPort]string, error) {
	found := map[netip.AddrPort]string{}
	for _, a := range addrs {
		if listens, taken := p.w.thieves[a.Port()]; taken && (listens || connections) {
			found[a] = "a thief"
		}
	}
	return found, nil
}

func (p simPorts) bind(a netip.AddrPort, how binding) (io.Closer, error) {
	if _, taken := p.w.thieves[a.Port()]; taken {
		return nil, fmt.Errorf("bind %s: %w", a, syscall.EADDRINUSE)
	}
	if how == hold && p.w.otherUser {
		p.w.blame("port %d is held against HAProxy of another user", a.Port())
	}
	p.w.held[a.Port()]++
	return closer(func() { p.w.held[a.Port()]-- }), nil
}

type closer func()

func (c closer) Close() error { c(); return nil }

// traffic gives who gets traffic.
func (w *simWorker) traffic() []target {
	var out []target
	if w == nil {
		return out
	}
	for _, p := range w.proxies {
		if !p.front || p.paused {
			continue
		}
		for _, back := range w.behind(p) {
			for _, v := range back.servers {
				if v.admin&(adminMaint|adminDrain) != 0 || v.weight == 0 {
					continue
				}
				for _, a := range p.binds {
					out = append(out, target{a.Port(), v.addr})
				}
			}
		}
	}
	return out
}

// behind gives the backends of a frontend.
func (w *simWorker) behind(front *simProxy) []*simProxy {
	var out []*simProxy
	if front.back {
		out = append(out, front)
	}
	for _, name := range front.backs {
		if p := w.backend(name); p != nil {
			out = append(out, p)
		}
	}
	return out
}

func (w *simWorker) endSessions() {
	if w == nil {
		return
	}
	for _, p := range w.proxies {
		for _, v := range p.servers {
			if v.ending {
				v.ending, v.conns = false, 0
			}
		}
	}
}

// newSim gives a HAProxy that does not run, and a driver of it.
func newSim(config Config) (*sim, *Driver, error) {
	s := &sim{file: config.ConfigFile, world: world{clock: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), lastPid: 100, thieves: map[uint16]bool{},
		held: map[uint16]int{}, struck: map[fault]int{}}}
	d, err := s.driver(config)
	return s, d, err
}

// driver gives a driver that remembers nothing.
func (s *sim) driver(config Config) (*Driver, error) {
	d, err := New(config)
	if err != nil {
		return nil, err
	}
	d.cli, d.process, d.ports, d.now = s, s, simPorts{&s.world}, s.world.now
	d.check = func(context.Context, string) error { return nil }
	return d, nil
}

// memoryDir gives a folder that costs no disk, where there is one: a durable write to a disk takes milliseconds.
func memoryDir() (string, error) {
	dir, err := os.MkdirTemp("/dev/shm", "pm")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return os.MkdirTemp("", "pm")
	}
	return dir, err
}
