package haproxy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// storySeed gives the first seed and the number of stories.
func storySeed(t *testing.T, runs int) (uint64, int) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	for name, to := range map[string]any{"PM_SEED": &seed, "PM_RUNS": &runs} {
		if text := os.Getenv(name); text != "" {
			if _, err := fmt.Sscan(text, to); err != nil {
				t.Fatalf("%s=%q: %v", name, text, err)
			}
		}
	}
	return seed, runs
}

func countsText(counts map[string]int) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, " %s %d,", name, counts[name])
	}
	return strings.TrimSuffix(b.String(), ",")
}

// dice draws what happens in a property test. The same seed gives the same story.
type dice struct {
	*rand.Rand
	ports   []uint16
	servers []netip.AddrPort
	next    map[catalog.Key]*catalog.Service
}

func newDice(seed uint64, ports []uint16, servers []netip.AddrPort) *dice {
	return &dice{Rand: rand.New(rand.NewPCG(seed, 0)), ports: ports, servers: servers, next: map[catalog.Key]*catalog.Service{}}
}

func addrs(texts ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, text := range texts {
		out = append(out, netip.MustParseAddrPort(text))
	}
	return out
}

// one reports true once in n times.
func (r *dice) one(n int) bool { return r.IntN(n) == 0 }

// pick draws one of some; they must not be empty.
func pick[T any](r *dice, from []T) T { return from[r.IntN(len(from))] }

// want gives the catalog as it is now.
func (r *dice) want() []*catalog.Service {
	out := make([]*catalog.Service, 0, len(r.next))
	for _, s := range r.next {
		out = append(out, s)
	}
	catalog.Sort(out)
	return out
}

// change makes one change of the catalog.
func (r *dice) change() {
	key := catalog.Key{Port: pick(r, r.ports), Proto: catalog.TCP}
	was, ok := r.next[key]
	if !ok {
		r.next[key] = r.service(key)
		return
	}
	s := *was
	switch {
	case r.one(8):
		delete(r.next, key)
		return
	case r.one(12):
		s.Name = pick(r, []string{"alpha", "beta", "gamma"})
	case r.one(12):
		s.Mode = pick(r, []catalog.Mode{catalog.ModeTCP, catalog.ModeHTTP})
	case r.one(12):
		s.Timeouts.Client = time.Duration(r.IntN(3)) * time.Second
	case r.one(12):
		s.Servers = nil
	default:
		r.changeServers(&s)
	}
	r.next[key] = s.Canonical()
}

func (r *dice) service(key catalog.Key) *catalog.Service {
	s := &catalog.Service{Key: key, Name: pick(r, []string{"alpha", "beta", "gamma"}), Source: "test", Mode: catalog.ModeTCP}
	for range r.IntN(4) {
		s.Servers = append(s.Servers, r.server())
	}
	return s.Canonical()
}

func (r *dice) server() catalog.Server {
	return catalog.Server{Addr: pick(r, r.servers), Weight: pick(r, []int{1, 250, 500, 500, 500, 1000}),
		MaxConn: pick(r, []int{0, 0, 5, 9}), Check: r.one(3)}
}

// changeServers adds, removes or changes a server.
func (r *dice) changeServers(s *catalog.Service) {
	s.Servers = slices.Clone(s.Servers)
	v := r.server()
	i := slices.IndexFunc(s.Servers, func(o catalog.Server) bool { return o.Addr == v.Addr })
	switch {
	case i < 0:
		s.Servers = append(s.Servers, v)
	case r.one(2):
		s.Servers[i] = v
	default:
		s.Servers = slices.Delete(s.Servers, i, i+1)
	}
}

// turn makes a few changes, and sometimes none or many.
func (r *dice) turn() {
	n := r.IntN(4)
	if r.one(15) {
		n = 8
	}
	for range n {
		r.change()
	}
}

// targets gives who may get traffic.
func targets(want []*catalog.Service) map[target]bool {
	out := map[target]bool{}
	for _, s := range want {
		for _, v := range s.Servers {
			out[target{s.Port, v.Addr}] = true
		}
	}
	return out
}

// each gives the proxies of a process that have servers, and the servers, in the order of the file.
func (w *simWorker) each(visit func(p *simProxy, v *simServer)) {
	if w == nil {
		return
	}
	for _, p := range w.proxies {
		for _, v := range slices.Clone(p.servers) {
			visit(p, v)
		}
	}
}

// dead gives the servers that are down by their own checks, by the part of their path that does not depend on titles.
func (w *simWorker) dead() map[string]bool {
	out := map[string]bool{}
	w.each(func(p *simProxy, v *simServer) {
		if v.checks && v.down && v.admin == 0 {
			out[p.name[strings.IndexByte(p.name, '-'):]+"/"+v.name] = true
		}
	})
	return out
}

// revived gives those of some dead servers that are held for alive.
func (w *simWorker) revived(dead map[string]bool) []string {
	var out []string
	w.each(func(p *simProxy, v *simServer) {
		if path := p.name[strings.IndexByte(p.name, '-'):] + "/" + v.name; v.checks && !v.down && v.admin == 0 && dead[path] {
			out = append(out, path)
		}
	})
	return out
}

// meddle lets an operator change something through the socket.
func (r *dice) meddle(s *sim) {
	var paths, fronts []string
	s.worker.each(func(p *simProxy, v *simServer) {
		if v.managed() {
			paths = append(paths, p.name+"/"+v.name)
		}
	})
	if len(paths) == 0 {
		return
	}
	for _, p := range s.worker.proxies {
		if p.front {
			fronts = append(fronts, p.name)
		}
	}
	path := pick(r, paths)
	for _, command := range pick(r, [][]string{
		{"set server " + path + " state maint"}, {"set server " + path + " state drain"}, {"set server " + path + " weight 3"},
		{"set server " + path + " weight 0"}, {"set maxconn server " + path + " 77"}, {"set server " + path + " addr 127.0.0.9 port 9"},
		{"disable server " + path, "del server " + path}, {"disable frontend " + pick(r, fronts)}, {"enable frontend " + pick(r, fronts)},
		{"add server " + pick(r, fronts) + "/10.9.9.9:9 10.9.9.9:9", "enable server " + pick(r, fronts) + "/10.9.9.9:9"},
	}) {
		s.worker.execute(command, &s.world, false)
	}
}

// clients come and go, which makes servers busy.
func (r *dice) clients(s *sim) (busy int) {
	s.worker.each(func(_ *simProxy, v *simServer) {
		switch {
		case v.admin == 0 && r.one(4):
			v.conns = 1 + r.IntN(2)
		case v.conns > 0 && r.one(2):
			v.conns--
		}
		if v.conns > 0 {
			busy++
		}
	})
	return busy
}

// checks let servers die and live, as HAProxy's own checks see it.
func (r *dice) checks(s *sim) {
	s.worker.each(func(_ *simProxy, v *simServer) {
		if v.checks {
			v.down = r.one(3)
		}
	})
}

// thieves take ports that nobody has, and leave them.
func (r *dice) thieves(s *sim) {
	for _, port := range slices.Sorted(maps.Keys(s.world.thieves)) {
		if r.one(3) {
			delete(s.world.thieves, port)
		}
	}
	if port := pick(r, r.ports); r.one(8) && !s.worker.listens(port) {
		s.world.thieves[port] = s.worker.binds(port) || r.one(2)
	}
}
