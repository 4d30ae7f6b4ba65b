package haproxy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meltwater/proxymatic/sources/catalog"
)

func TestDialectOf(t *testing.T) {
	modern := dialect{adds: true, pauses: true, pools: true}
	for version, want := range map[string]dialect{
		"2.2.9-2+deb11u7":    {},
		"2.4.22-0ubuntu0.22": {},
		"2.5-dev3":           {},
		"2.6.12-1+deb12u4":   {adds: true, pauses: true},
		"2.10.1":             {adds: true, pauses: true},
		"3.0.11-1+deb13u3":   modern,
		"3.2.26-1":           modern,
		"":                   modern,
		"unknown":            modern,
	} {
		got := dialectOf(version)
		if got != want {
			t.Errorf("dialect of %q is %+v, want %+v", version, got, want)
		}
		if told := len(got.problems(version)) > 0; told == got.adds {
			t.Errorf("%q: a problem tells that servers cannot be added: %t", version, told)
		}
	}
}

// 2.2 can take servers away at run time, and cannot add any.
func TestPlanWithoutAddServer(t *testing.T) {
	at := func(n string) netip.AddrPort { return netip.MustParseAddrPort("10.0.0." + n + ":31000") }
	const reload = "reload: server 10.0.0.X:31000 is new in s80.test-80 80/tcp, and HAProxy 2.2.9 cannot add it at run time"
	isNew := func(n string) string { return strings.ReplaceAll(reload, "X", n) }
	base := service(80, at("1"), at("2"))
	cases := map[string]struct {
		want    []*catalog.Service
		disturb func(*observed)
		plan    []string
	}{
		"a new server needs a reload": {want: []*catalog.Service{service(80, at("1"), at("2"), at("3"))}, plan: []string{isNew("3")}},
		"an old one leaves at once, and stays in maintenance": {want: []*catalog.Service{service(80, at("1"))},
			plan: []string{"disable server s80.test-80/10.0.0.2:31000", "later del server s80.test-80/10.0.0.2:31000"}},
		"it does not wait for a new one, while another serves": {want: []*catalog.Service{service(80, at("1"), at("3"))},
			plan: []string{"disable server s80.test-80/10.0.0.2:31000", "later del server s80.test-80/10.0.0.2:31000", isNew("3")}},
		"it comes back without a reload": {want: []*catalog.Service{base},
			disturb: func(o *observed) { o.set("10.0.0.2:31000", func(s *server) { s.admin = adminMaint }) },
			plan:    []string{"set server s80.test-80/10.0.0.2:31000 state ready"}},
		"where nobody else serves, an old one stands in for each new one": {want: []*catalog.Service{service(80, at("3"))},
			plan: []string{"set server s80.test-80/10.0.0.1:31000 addr 10.0.0.3 port 31000", "disable server s80.test-80/10.0.0.2:31000",
				"later del server s80.test-80/10.0.0.2:31000", isNew("3")}},
		"and goes on until the reload": {want: []*catalog.Service{service(80, at("3"), at("4"))},
			disturb: func(o *observed) { o.set("10.0.0.2:31000", func(s *server) { s.addr = at("3") }) },
			plan:    []string{"set server s80.test-80/10.0.0.1:31000 addr 10.0.0.4 port 31000", isNew("3"), isNew("4")}},
		"also for another that is wanted meanwhile": {want: []*catalog.Service{service(80, at("5"))},
			disturb: func(o *observed) {
				o.set("10.0.0.1:31000", func(s *server) { s.admin = adminMaint })
				o.set("10.0.0.2:31000", func(s *server) { s.addr = at("3") })
			},
			plan: []string{"set server s80.test-80/10.0.0.2:31000 addr 10.0.0.5 port 31000", "later del server s80.test-80/10.0.0.1:31000", isNew("5")}},
		"rather one that takes traffic": {want: []*catalog.Service{service(80, at("3"))},
			disturb: func(o *observed) { o.set("10.0.0.1:31000", func(s *server) { s.admin = adminDrain }) },
			plan: []string{"disable server s80.test-80/10.0.0.1:31000", "set server s80.test-80/10.0.0.2:31000 addr 10.0.0.3 port 31000",
				"later del server s80.test-80/10.0.0.1:31000", isNew("3")}},
		"a service that comes back with others is refused until the reload": {want: []*catalog.Service{service(80, at("3"))},
			disturb: func(o *observed) {
				o.open["s80.test-80"] = false
				clear(o.servers["s80.test-80"])
			}, plan: []string{isNew("3")}},
		"a removed service leaves at once": {plan: []string{"disable frontend s80.test-80", "disable server s80.test-80/10.0.0.1:31000",
			"disable server s80.test-80/10.0.0.2:31000", "later del server s80.test-80/10.0.0.1:31000", "later del server s80.test-80/10.0.0.2:31000"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			d := newTestDriver(t)
			have := runs(t, d, []*catalog.Service{base})
			have.version = "2.2.9"
			if c.disturb != nil {
				c.disturb(&have)
			}
			l, err := d.layout(c.want, have.built)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := commandsOf(makePlan(l.sections, l.outer, have, nil, nil)), strings.Join(c.plan, "\n"); got != want {
				t.Errorf("plan\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestPausedFrontendsOfOldVersions(t *testing.T) {
	for version, known := range map[string]bool{"2.2.9": true, "2.6.12": false} {
		h := nothing()
		h.version = version
		if err := h.parseStat("# pxname,svname,status,slim,\nweb,FRONTEND,STOP,100,\n"); err != nil {
			t.Fatal(err)
		}
		if _, ok := h.open["web"]; ok != known {
			t.Errorf("%s: a frontend that is said to be stopped can be opened again: %t, want %t", version, ok, known)
		}
	}
}

func TestWorkerless(t *testing.T) {
	const head = "#<PID>          <type>          <relative PID>  <reloads>       <uptime>        <version>\n9               master          0               1               0d00h00m01s     2.2.9\n"
	for text, want := range map[string]bool{
		head + "# workers\n12              worker          1               0               0d00h00m01s     2.2.9\n# programs\n":                  false,
		head + "# workers\n# old workers\n12              worker          [was: 1]        1               0d00h00m01s     2.2.9\n# programs\n\n": true,
		head + "# workers\n": true,
		"":                   false,
	} {
		if got := workerless(text); got != want {
			t.Errorf("%q is workerless: %t, want %t", text, got, want)
		}
	}
}
