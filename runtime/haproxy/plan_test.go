package haproxy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// runs gives what a driver would observe right after a load of these services: the state that plans start from.
func runs(t *testing.T, d *Driver, services []*catalog.Service) observed {
	t.Helper()
	l, err := d.layout(services, structure{})
	if err != nil {
		t.Fatal(err)
	}
	have := observed{info: info{pid: 7, version: "2.6.12", hash: l.structure().Hash}, alive: true, known: true, built: l.structure(),
		open: map[string]bool{}, backs: map[string]bool{}, servers: map[string]map[string]server{}}
	for _, s := range l.sections {
		have.suppose(s)
	}
	return have
}

// commandsOf gives a plan's commands, and its reasons to reload, a line each.
func commandsOf(p plan) string {
	var out []string
	for _, s := range p.steps {
		out = append(out, s.commands...)
	}
	for _, s := range p.deletes {
		out = append(out, "later "+s.commands[0])
	}
	for _, r := range p.reloads {
		out = append(out, "reload: "+r)
	}
	return strings.Join(out, "\n")
}

func TestPlan(t *testing.T) {
	at := func(addr string) netip.AddrPort { return netip.MustParseAddrPort(addr) }
	a, b := at("10.0.0.1:31000"), at("10.0.0.2:31000")
	with := func(s *catalog.Service, change func(*catalog.Server)) *catalog.Service {
		other := *s
		other.Servers = append([]catalog.Server(nil), s.Servers...)
		change(&other.Servers[0])
		return &other
	}
	base := service(80, a)
	cases := map[string]struct {
		want    []*catalog.Service
		disturb func(*observed)
		plan    string
	}{
		"nothing to do": {want: []*catalog.Service{base}},
		"the new server comes before the old one leaves": {want: []*catalog.Service{service(80, b)}, plan: `
add server s80.test-80/10.0.0.2:31000 10.0.0.2:31000 weight 128 pool-max-conn -1 pool-purge-delay 5s
enable server s80.test-80/10.0.0.2:31000
disable server s80.test-80/10.0.0.1:31000
later del server s80.test-80/10.0.0.1:31000`},
		"weight and maxconn change in place": {want: []*catalog.Service{with(base, func(s *catalog.Server) { s.Weight, s.MaxConn = 1000, 9 })}, plan: `
set server s80.test-80/10.0.0.1:31000 weight 256
set maxconn server s80.test-80/10.0.0.1:31000 9`},
		"a checked server is another server": {want: []*catalog.Service{with(base, func(s *catalog.Server) { s.Check = true })}, plan: `
add server s80.test-80/10.0.0.1:31000:c 10.0.0.1:31000 weight 128 check pool-max-conn -1 pool-purge-delay 5s
enable server s80.test-80/10.0.0.1:31000:c
enable health s80.test-80/10.0.0.1:31000:c
disable server s80.test-80/10.0.0.1:31000
later del server s80.test-80/10.0.0.1:31000`},
		"IPv6 has brackets in the address and none in the name": {want: []*catalog.Service{service(80, a, at("[2001:db8::1]:31000"))}, plan: `
add server s80.test-80/2001:db8::1:31000 [2001:db8::1]:31000 weight 128 pool-max-conn -1 pool-purge-delay 5s
enable server s80.test-80/2001:db8::1:31000`},
		"a removed service is paused first": {want: nil, plan: `
disable frontend s80.test-80
disable server s80.test-80/10.0.0.1:31000
later del server s80.test-80/10.0.0.1:31000`},
		"a service without servers is like a removed one": {want: []*catalog.Service{service(80)}, plan: `
disable frontend s80.test-80
disable server s80.test-80/10.0.0.1:31000
later del server s80.test-80/10.0.0.1:31000`},
		"a service that came back listens when it has servers": {want: []*catalog.Service{service(80, b)},
			disturb: func(o *observed) { o.open["s80.test-80"] = false; clear(o.servers["s80.test-80"]) }, plan: `
add server s80.test-80/10.0.0.2:31000 10.0.0.2:31000 weight 128 pool-max-conn -1 pool-purge-delay 5s
enable server s80.test-80/10.0.0.2:31000
enable frontend s80.test-80`},
		"a server in maintenance that is wanted again is enabled, not added": {want: []*catalog.Service{base},
			disturb: func(o *observed) { o.set("10.0.0.1:31000", func(s *server) { s.admin = adminMaint }) }, plan: `
set server s80.test-80/10.0.0.1:31000 state ready`},
		"drain is drift": {want: []*catalog.Service{base},
			disturb: func(o *observed) { o.set("10.0.0.1:31000", func(s *server) { s.admin = adminDrain }) }, plan: `
set server s80.test-80/10.0.0.1:31000 state ready`},
		"dead by somebody's word, without a check, is drift": {want: []*catalog.Service{base},
			disturb: func(o *observed) { o.set("10.0.0.1:31000", func(s *server) { s.up = false }) }, plan: `
set server s80.test-80/10.0.0.1:31000 health up`},
		"an address that was set by hand is corrected": {want: []*catalog.Service{base},
			disturb: func(o *observed) { o.set("10.0.0.1:31000", func(s *server) { s.addr = b }) }, plan: `
set server s80.test-80/10.0.0.1:31000 addr 10.0.0.1 port 31000`},
		"a new service needs a reload": {want: []*catalog.Service{base, service(81, b)}, plan: `
reload: new service s81.test-81 81/tcp`},
		"a section that the process lacks needs a reload, whatever its structure says": {want: []*catalog.Service{base},
			disturb: func(o *observed) { delete(o.open, "s80.test-80") }, plan: `
reload: service s80.test-80 80/tcp was shut down, or is not in the running HAProxy`},
		"another name alone changes nothing": {want: []*catalog.Service{func() *catalog.Service { s := *base; s.Name = "renamed"; return &s }()}},
		"another mode needs a reload, and the servers do not wait for it": {
			want: []*catalog.Service{func() *catalog.Service { s := service(80, b); s.Mode = catalog.ModeHTTP; return s }()}, plan: `
add server s80.test-80/10.0.0.2:31000 10.0.0.2:31000 weight 128 pool-max-conn -1 pool-purge-delay 5s
enable server s80.test-80/10.0.0.2:31000
disable server s80.test-80/10.0.0.1:31000
later del server s80.test-80/10.0.0.1:31000
reload: service s80.test-80 80/tcp changed in what only a reload can change`},
		"no process": {want: []*catalog.Service{base}, disturb: func(o *observed) { *o = observed{} }, plan: `
reload: HAProxy does not run`},
		"a process of unknown structure": {want: []*catalog.Service{base}, disturb: func(o *observed) { o.known = false }, plan: `
reload: the running HAProxy (pid 7) was not built from a configuration that proxymatic knows`},
		"3.0 knows the pool's defaults": {want: []*catalog.Service{service(80, a, b)}, disturb: func(o *observed) { o.version = "3.0.11" }, plan: `
add server s80.test-80/10.0.0.2:31000 10.0.0.2:31000 weight 128
enable server s80.test-80/10.0.0.2:31000`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			d := newTestDriver(t)
			have := runs(t, d, []*catalog.Service{base})
			if c.disturb != nil {
				c.disturb(&have)
			}
			l, err := d.layout(c.want, have.built)
			if err != nil {
				t.Fatal(err)
			}
			got := commandsOf(makePlan(l.sections, l.outer, have, nil, nil))
			if want := strings.TrimSpace(c.plan); got != want {
				t.Errorf("plan\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// set changes a server of the only backend.
func (h *observed) set(name string, change func(*server)) {
	for _, servers := range h.servers {
		s := servers[name]
		change(&s)
		servers[name] = s
	}
}

func TestDownByItsOwnCheckIsNoDrift(t *testing.T) {
	d := newTestDriver(t)
	s := service(80, netip.MustParseAddrPort("10.0.0.1:31000"))
	s.Servers[0].Check = true
	have := runs(t, d, []*catalog.Service{s})
	have.set("10.0.0.1:31000:c", func(s *server) { s.up = false })
	l := sectionsOf(t, d, s)
	if got := commandsOf(makePlan(l.sections, l.outer, have, nil, nil)); got != "" {
		t.Errorf("plan\n%s\nwant none", got)
	}
}

func TestReleaseOfAPortAsksForAReload(t *testing.T) {
	d := newTestDriver(t)
	a := netip.MustParseAddrPort("10.0.0.1:31000")
	have := runs(t, d, []*catalog.Service{service(80, a), service(81, a)})
	have.open["s81.test-81"] = false
	clear(have.servers["s81.test-81"])
	release := []catalog.Key{{Port: 81, Proto: catalog.TCP}}
	for _, c := range []struct {
		want []*catalog.Service
		plan string
	}{
		{[]*catalog.Service{service(80, a)}, "reload: release the port of s81.test-81 81/tcp, removed a while ago"},
		{[]*catalog.Service{service(80, a), service(81, a)}, "add server s81.test-81/10.0.0.1:31000 10.0.0.1:31000 weight 128 " +
			"pool-max-conn -1 pool-purge-delay 5s\nenable server s81.test-81/10.0.0.1:31000\nenable frontend s81.test-81"},
	} {
		l, err := d.layout(c.want, have.built)
		if err != nil {
			t.Fatal(err)
		}
		if got := commandsOf(makePlan(l.sections, l.outer, have, nil, release)); got != c.plan {
			t.Errorf("plan\n%s\nwant\n%s", got, c.plan)
		}
	}
}
