package haproxy

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// blindPorts sees no thief, as if it came between the look and the reload.
type blindPorts struct{}

func (blindPorts) look([]netip.AddrPort, int, bool) (map[netip.AddrPort]string, error) {
	return nil, nil
}

func (blindPorts) bind(netip.AddrPort, binding) (io.Closer, error) { return io.NopCloser(nil), nil }

func TestRealFailedReloadPausesRemovedServicesAgain(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 3)
	a := backend(t, "a")
	both := []*catalog.Service{service(p[0], a), service(p[1], a)}
	h.apply(both)
	h.apply(both[:1])
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p[2]))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	waitLoad(h)
	h.driver.ports = blindPorts{}
	want := []*catalog.Service{both[0], service(p[2], a)}
	r, err := h.driver.Apply(t.Context(), want)
	if err == nil {
		t.Fatal("a reload with a taken port succeeded")
	}
	if len(r.Reloads) != 0 {
		t.Errorf("a failed reload counts: %q", r.Reloads)
	}
	mustAnswer(t, p[0], "a")
	if got, err := ask(p[1]); err == nil {
		t.Errorf("after a failed reload a removed service gives %q", got)
	}
	if h.driver.rechecks == 0 {
		t.Error("no further look soon after a failed reload, though HAProxy resumes its frontends late")
	}
	text, err := os.ReadFile(h.config.ConfigFile)
	if err != nil || strings.Contains(string(text), fmt.Sprintf(":%d\n", p[2])) {
		t.Errorf("the refused text is still in the file (or %v)", err)
	}
}

func TestRealRefusedConfigurationLeavesTheOldOneServing(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 2)
	a, b := backend(t, "a"), backend(t, "b")
	h.apply([]*catalog.Service{service(p[0], a)})
	pid := h.driver.last.pid
	h.config.TemplateFile = writeTemplate(t, "    no-such-keyword\n", "")
	h.restart()
	r, err := h.driver.Apply(t.Context(), []*catalog.Service{service(p[0], b), service(p[1], a)})
	if err == nil || !strings.Contains(err.Error(), "no-such-keyword") {
		t.Errorf("error %v, want HAProxy's words about no-such-keyword", err)
	}
	if got, askErr := ask(p[0]); got != "b" || len(r.Reloads) != 0 || h.driver.last.pid != pid {
		t.Errorf("service %q, %v, reloads %q: want the change of servers and no reload", got, askErr, r.Reloads)
	}
	h.config.TemplateFile = ""
	h.restart()
	want := []*catalog.Service{service(p[0], b), service(p[1], a)}
	if r := h.apply(want); len(r.Reloads) != 1 {
		t.Errorf("reloads %q", r.Reloads)
	}
	h.mustBeSettled(want)
}

// writeTemplate gives a copy of a usual template with lines added to each service, and options to each server.
func writeTemplate(t *testing.T, lines, options string) string {
	t.Helper()
	return writeText(t, `global
    stats socket {{.Socket}} mode 600 level admin expose-fd listeners
defaults
    timeout connect 3s
    timeout client 30s
    timeout server 30s
{{range .Services}}{{template "service" .}}{{end}}
{{define "service"}}
listen {{.Name}}
    bind {{.Bind}}
    mode {{.Mode}}
`+lines+`{{range .Servers}}
    {{.Line}}`+options+`{{end}}
{{end}}
`)
}

func writeText(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "haproxy.cfg.tpl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const twoBackends = `global
    stats socket {{.Socket}} mode 600 level admin expose-fd listeners
defaults
    timeout connect 3s
    timeout client 30s
    timeout server 30s
{{range .Services}}{{template "service" .}}{{end}}
{{define "service"}}
# the service {{.Name}}
frontend {{.Name}}-in
    bind {{.Bind}}
    use_backend {{.Name}}-internal if { src 127.0.0.0/8 }
    default_backend {{.Name}}-external
backend {{.Name}}-internal
    {{range .Servers}}{{.Line}}
    {{end}}
    server sorry 127.0.0.1:9 backup
backend {{.Name}}-external
    {{range .Servers}}{{.Line}} send-proxy
    {{end}}
{{end}}
`

func TestRealTemplatesConvergeWithTheReloadsThatPlanPromised(t *testing.T) {
	templates := map[string]struct {
		path    string
		reloads int // for the three changes of servers
	}{
		"two backends, send-proxy and a server of the template": {writeText(t, twoBackends), 0},
		"default-server":               {writeTemplate(t, "    default-server inter 5s\n", ""), 3},
		"balance source":               {writeTemplate(t, "    balance source\n", ""), 3},
		"a word for each server":       {writeTemplate(t, "", " on-marked-down shutdown-sessions"), 0},
		"text that counts the servers": {writeTemplate(t, "    # {{len .Servers}} servers\n    maxconn {{len .Servers}}0\n", ""), 1},
	}
	for name, template := range templates {
		t.Run(name, func(t *testing.T) {
			h := newRig(t, func(c *Config) { c.TemplateFile = template.path })
			p := freePorts(t, 1)[0]
			a, b, c := backend(t, "a"), backend(t, "b"), backend(t, "c")
			h.apply([]*catalog.Service{service(p, a)})
			heavy := service(p, b, c)
			heavy.Servers[0].Weight, heavy.Servers[0].MaxConn = 1000, 7
			reloads := 0
			var want []*catalog.Service
			for _, want = range [][]*catalog.Service{{service(p, a, b)}, {service(p, b, c)}, {heavy}} {
				waitLoad(h)
				planned, err := h.driver.Plan(t.Context(), want)
				if err != nil {
					t.Fatal(err)
				}
				h.driver.pace.notBefore = time.Time{}
				done := h.apply(want)
				reloads += len(done.Reloads)
				if len(planned.Reloads) != len(done.Reloads) {
					t.Errorf("plan promised %q, done %q", planned.Reloads, done.Reloads)
				}
				h.mustBeSettled(want)
				if got, err := ask(p); err != nil || got == "" {
					t.Errorf("answer %q, %v", got, err)
				}
			}
			if reloads != template.reloads {
				t.Errorf("%d reloads, want %d", reloads, template.reloads)
			}
			h.restart()
			h.mustBeSettled(want)
		})
	}
}

func TestRealServerWithConnectionsIsDeletedLater(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 1)[0]
	l, slow := silent(t)
	quick := backend(t, "quick")
	both := service(p, slow, quick)
	h.apply([]*catalog.Service{both})
	h.operate("disable server " + listenName(both) + "/" + quick.String()) // or else it may get the connection
	open := newSession(t, p, l)
	want := []*catalog.Service{service(p, quick)}
	h.apply(want)
	if len(h.driver.leaving) != 1 {
		t.Fatalf("leaving %v, want the server with a connection", h.driver.leaving)
	}
	open.mustCarry("ping")
	h.driver.config.Drain = 0
	left := 0
	if !dialectOf(h.driver.last.version).adds { // nor can it delete
		left = 1
	}
	ended := false
	for range 1000 { // its sessions end a moment after they are told to
		h.apply(want)
		if ended = ended || open.cut(); ended && len(h.driver.leaving) == left {
			break
		}
	}
	if !ended || len(h.driver.leaving) != left {
		t.Fatalf("after the drain time leaving %v, connection ended: %t", h.driver.leaving, ended)
	}
	h.mustBeSettled(want)
}

func TestRealFailedChecksAreCarriedOverAReload(t *testing.T) {
	// Checks that come once in a minute: what a server is after the reload, it was told, and did not find out.
	h := newRig(t, func(c *Config) { c.TemplateFile = writeTemplate(t, "", " inter 60s") })
	p := freePorts(t, 2)
	live, dead := backend(t, "one"), backend(t, "two")
	if dead.Compare(live) < 0 {
		live, dead = dead, live // a new process checks the first server at once, the second after half of its interval
	}
	s := service(p[0], live, dead)
	for i := range s.Servers {
		s.Servers[i].Check = true
	}
	h.apply([]*catalog.Service{s})
	name := dead.String() + ":c"
	if _, err := h.driver.cli.do(t.Context(), []string{"set server " + listenName(s) + "/" + name + " health down"}); err != nil {
		t.Fatal(err)
	}
	h.driver.Resync()
	waitLoad(h)
	if r := h.apply([]*catalog.Service{s, service(p[1], live)}); len(r.Reloads) != 1 {
		t.Fatalf("reloads %q", r.Reloads)
	}
	have, err := h.driver.observe(t.Context(), h.driver.looking(nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	servers := have.servers[listenName(s)]
	if servers[name].up || !servers[live.String()+":c"].up {
		t.Errorf("after a reload the servers are %+v, want only the live one up", servers)
	}
}

func TestRealStatsSocketThatIsGone(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 1)
	a, b := backend(t, "a"), backend(t, "b")
	h.apply([]*catalog.Service{service(p[0], a)})
	old := h.driver.last.pid
	if err := os.Remove(h.config.Socket); err != nil {
		t.Fatal(err)
	}
	load := startLoad(t, p[0])
	want := []*catalog.Service{service(p[0], b)}
	waitLoad(h)
	h.apply(want)
	if err := host.WaitExit(t.Context(), old); err != nil {
		t.Error(err)
	}
	mustNotFail(t, load)
	mustAnswer(t, p[0], "b")
	h.mustBeSettled(want)
}

func TestRealTakenPortOfTheTemplateStopsNoChangeOfServers(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 2)
	a := backend(t, "a")
	h.apply([]*catalog.Service{service(p[0], a)})
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p[1]))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h.config.TemplateFile = writeText(t, strings.Replace(twoBackends, "{{range .Services}}",
		fmt.Sprintf("listen stats\n    bind 127.0.0.1:%d\n    mode http\n{{range .Services}}", p[1]), 1))
	h.restart()
	_, err = h.driver.Apply(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(p[1])) {
		t.Errorf("error %v, want one that names port %d", err, p[1])
	}
	if got, err := ask(p[0]); err == nil {
		t.Errorf("the removed service answers %q", got)
	}
}

func TestRealRefusedWordsOfAServerStayRefused(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 1)
	a, b := backend(t, "a"), backend(t, "b")
	h.apply([]*catalog.Service{service(p[0], a)})
	h.config.TemplateFile = writeTemplate(t, "", " ssl verify required ca-file /no/such/file")
	h.restart()
	for range 3 {
		if _, err := h.driver.Apply(t.Context(), []*catalog.Service{service(p[0], b)}); err == nil || !strings.Contains(err.Error(), "/no/such/file") {
			t.Errorf("error %v, want HAProxy's words about the file", err)
		}
	}
	if err := h.driver.file.flush(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(h.config.ConfigFile); err != nil || strings.Contains(string(text), "/no/such/file") {
		t.Errorf("the refused words are in the file (or %v)", err)
	}
}

func TestRealShutDownFrontendIsLoadedAnew(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 1)
	want := []*catalog.Service{service(p[0], backend(t, "a"))}
	h.apply(want)
	if _, err := h.driver.cli.do(t.Context(), []string{"shutdown frontend " + listenName(want[0])}); err != nil {
		t.Fatal(err)
	}
	waitLoad(h)
	h.driver.Resync()
	if r := h.apply(want); len(r.Reloads) != 1 {
		t.Errorf("reloads %q", r.Reloads)
	}
	mustAnswer(t, p[0], "a")
	h.mustBeSettled(want)
}

func TestRealMasterSocketThatIsGone(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 2)
	a := backend(t, "a")
	h.apply([]*catalog.Service{service(p[0], a)})
	m := h.driver.process.(*managed)
	if _, err := m.showProc(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(m.socket.path); err != nil {
		t.Fatal(err)
	}
	load := startLoad(t, p[0])
	want := []*catalog.Service{service(p[0], a), service(p[1], a)}
	waitLoad(h)
	h.apply(want)
	mustNotFail(t, load)
	mustAnswer(t, p[1], "a")
	h.mustBeSettled(want)
}

func TestRealRefusedBalanceStopsNoChangeOfServers(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 1)
	a, b := backend(t, "a"), backend(t, "b")
	h.apply([]*catalog.Service{service(p[0], a)})
	h.config.TemplateFile = writeTemplate(t, "    balance leastcon\n", "")
	h.restart()
	if _, err := h.driver.Apply(t.Context(), []*catalog.Service{service(p[0], b)}); err == nil || !strings.Contains(err.Error(), "leastcon") {
		t.Errorf("error %v", err)
	}
	mustAnswer(t, p[0], "b")
}
