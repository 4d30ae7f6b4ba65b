package status

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meltwater/proxymatic/runtime/reconcile"
	"github.com/meltwater/proxymatic/sources/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func at(second int) time.Time { return time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC) }

// fresh is a pass before anything was read.
func fresh() *reconcile.Pass {
	return &reconcile.Pass{Sources: []reconcile.SourceState{{Name: "marathon"}}, Drivers: []reconcile.DriverState{{Name: "haproxy"}}}
}

// good is a pass after which all is well.
func good() *reconcile.Pass {
	add := catalog.Change{Service: "web 80/tcp", Server: "10.0.0.1:31000", Action: "add server"}
	services := []*catalog.Service{{Key: catalog.Key{Port: 80, Proto: catalog.TCP}, Name: "web", Source: "marathon", Mode: catalog.ModeTCP,
		Servers: []catalog.Server{{Addr: netip.MustParseAddrPort("10.0.0.1:31000"), Weight: 500}}}}
	return &reconcile.Pass{
		At: at(5), Applied: true, Passes: 7, Took: 1500 * time.Microsecond, Want: services,
		Problems: []catalog.Problem{{Source: "policy", Subject: "81/tcp", Reason: "<b>taken</b>"}},
		Sources:  []reconcile.SourceState{{Name: "marathon", Succeeded: at(4), Heard: at(5), Event: at(3), Services: services, Held: 2}},
		Drivers: []reconcile.DriverState{{Name: "haproxy", Applied: true, Succeeded: at(5), Reloads: 1, Drift: 2,
			Changes: map[string]int{"add server": 3},
			Report:  catalog.Report{Changes: []catalog.Change{add}, Facts: []catalog.Fact{{Name: "version", Value: "2.6.12"}}}}},
		Changes: []reconcile.AppliedChange{{At: at(5), Driver: "haproxy", Drift: true, Change: add}},
		Reloads: []reconcile.Reload{{At: at(3), Driver: "haproxy", Reasons: []string{"new service web 80/tcp"}}},
	}
}

// failing is a pass of which the driver and the source fail after they had worked.
func failing() *reconcile.Pass {
	p := good()
	p.Drivers[0].Err, p.Sources[0].Err = "no socket", "no route"
	return p
}

func server(pass *reconcile.Pass) *Server {
	return New(Config{Pass: func() *reconcile.Pass { return pass }, Version: "1.2.0", Commit: "abc"})
}

func ask(s *Server, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

func TestTextAnswers(t *testing.T) {
	unread := fresh()
	unread.Sources[0].Err = "connection refused"
	for _, test := range []struct {
		name, path string
		pass       *reconcile.Pass
		code       int
		body       string
	}{
		{"status before the first pass", "/status", fresh(), 503, "INITIALIZING\n"},
		{"status after it", "/status", good(), 200, "OK\n"},
		{"a driver that fails later does not change status", "/status", failing(), 200, "OK\n"},
		{"alive while initializing", "/healthz", fresh(), 200, "OK\n"},
		{"alive while a driver fails", "/healthz", failing(), 200, "OK\n"},
		{"not ready before the first pass", "/readyz", fresh(), 503, "INITIALIZING\nsource marathon was not read yet\n"},
		{"not ready, with the source's reason", "/readyz", unread, 503, "INITIALIZING\nsource marathon was not read yet: connection refused\n"},
		{"not ready while a driver fails; a failing source has its last services", "/readyz", failing(), 503, "driver haproxy: no socket\n"},
		{"ready", "/readyz", good(), 200, "OK\nsource marathon was read N s ago; its last event came N s ago\n"},
		{"no other pages", "/debug/pprof/", good(), 404, "404 page not found\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := ask(server(test.pass), "GET", test.path)
			body := regexp.MustCompile(`\d+ s ago`).ReplaceAllString(w.Body.String(), "N s ago")
			if w.Code != test.code || body != test.body {
				t.Errorf("%s: %d %q, want %d %q", test.path, w.Code, body, test.code, test.body)
			}
		})
	}
}

func TestTerminating(t *testing.T) {
	s := server(good())
	s.SetTerminating()
	for path, code := range map[string]int{"/status": 503, "/readyz": 503, "/healthz": 200} {
		if w := ask(s, "GET", path); w.Code != code || (code == 503) != (w.Body.String() == "TERMINATING\n") {
			t.Errorf("%s: %d %q, want %d", path, w.Code, w.Body, code)
		}
	}
}

func TestOnlyGetAndHead(t *testing.T) {
	s := server(good())
	for _, path := range []string{"/status", "/healthz", "/readyz", "/metrics", "/api/v1/services", "/api/v1/status", "/api/v1/changes"} {
		for method, code := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405, "PUT": 405, "DELETE": 405} {
			if w := ask(s, method, path); w.Code != code {
				t.Errorf("%s %s: %d, want %d", method, path, w.Code, code)
			}
		}
	}
}

func TestJSONAnswers(t *testing.T) {
	for _, test := range []struct {
		path string
		pass *reconcile.Pass
		want string
	}{
		{"/api/v1/services", good(), `{"services":[{"name":"web","port":80,"protocol":"tcp","mode":"tcp","source":"marathon",
			"servers":[{"ip":"10.0.0.1","port":31000,"weight":500,"maxconn":0}]}],
			"problems":[{"source":"policy","subject":"81/tcp","reason":"<b>taken</b>"}]}`},
		{"/api/v1/services", fresh(), `{"services":[],"problems":[]}`},
		{"/api/v1/changes", good(), `{"changes":[{"at":"2026-01-02T03:04:05Z","driver":"haproxy","drift":true,
			"service":"web 80/tcp","server":"10.0.0.1:31000","action":"add server"}]}`},
		{"/api/v1/changes", fresh(), `{"changes":[]}`},
		{"/api/v1/status", failing(), `{"state":"OK","not_ready":["driver haproxy: no socket"],"version":"1.2.0","commit":"abc",
			"pass":{"at":"2026-01-02T03:04:05Z","duration_seconds":0.0015,"count":7},"wanted":{"services":1,"servers":1},
			"sources":[{"name":"marathon","up":false,"last_success":"2026-01-02T03:04:04Z","last_heard":"2026-01-02T03:04:05Z","last_event":"2026-01-02T03:04:03Z",
				"age_seconds":N,"error":"no route","services":1,"servers":1,"held":2}],
			"drivers":[{"name":"haproxy","up":false,"applied":true,"last_success":"2026-01-02T03:04:05Z","error":"no socket",
				"reloads":1,"drift_repaired":2,"changes":{"add server":3},
				"last_changes":[{"service":"web 80/tcp","server":"10.0.0.1:31000","action":"add server"}],"problems":[],
				"facts":[{"name":"version","value":"2.6.12"}]}],
			"reloads":[{"at":"2026-01-02T03:04:03Z","driver":"haproxy","reasons":["new service web 80/tcp"]}],
			"problems":[{"source":"policy","subject":"81/tcp","reason":"<b>taken</b>"}]}`},
		{"/api/v1/status", fresh(), `{"state":"INITIALIZING","not_ready":["INITIALIZING","source marathon was not read yet"],
			"version":"1.2.0","commit":"abc","pass":{"at":null,"duration_seconds":0,"count":0},"wanted":{"services":0,"servers":0},
			"sources":[{"name":"marathon","up":false,"last_success":null,"last_heard":null,"last_event":null,"age_seconds":null,"services":0,"servers":0,"held":0}],
			"drivers":[{"name":"haproxy","up":false,"applied":false,"last_success":null,"reloads":0,"drift_repaired":0,"changes":{},
				"last_changes":[],"problems":[],"facts":[]}],"reloads":[],"problems":[]}`},
	} {
		w := ask(server(test.pass), "GET", test.path)
		if got, want := plain(w.Body.String()), plain(test.want); w.Code != 200 || got != want || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d\n%s\nwant\n%s", test.path, w.Code, got, want)
		}
	}
}

// plain drops the layout of JSON, and the age, which depends on the clock.
func plain(text string) string {
	text = regexp.MustCompile(`\n\s*`).ReplaceAllString(strings.TrimSpace(text), "")
	text = regexp.MustCompile(`": `).ReplaceAllString(text, `":`)
	return regexp.MustCompile(`"age_seconds":[0-9.e+]+`).ReplaceAllString(text, `"age_seconds":N`)
}

func TestMetrics(t *testing.T) {
	s := server(failing())
	want := `proxymatic_build_info{commit="abc",goversion="GO",version="1.2.0"} 1
proxymatic_changes_total{action="add server",driver="haproxy"} 3
proxymatic_drift_repaired_total{driver="haproxy"} 2
proxymatic_driver_up{driver="haproxy"} 0
proxymatic_pass_duration_seconds 0.0015
proxymatic_passes_total 7
proxymatic_problems{source="policy"} 1
proxymatic_reloads_total{driver="haproxy"} 1
proxymatic_servers 1
proxymatic_services 1
proxymatic_source_held_servers{source="marathon"} 2
proxymatic_source_last_event_timestamp_seconds{source="marathon"} 1.767323043e+09
proxymatic_source_last_heard_timestamp_seconds{source="marathon"} 1.767323045e+09
proxymatic_source_last_success_timestamp_seconds{source="marathon"} 1.767323044e+09
proxymatic_source_up{source="marathon"} 0
`
	body := ask(s, "GET", "/metrics").Body.String()
	if got := ours(body); got != want {
		t.Errorf("metrics\n%s\nwant\n%s", got, want)
	}
	for _, name := range []string{"go_goroutines ", "process_resident_memory_bytes "} {
		if !strings.Contains(body, "\n"+name) {
			t.Errorf("no %s", name)
		}
	}
}

func TestNoSeriesForWhatIsGone(t *testing.T) {
	pass := good()
	s := New(Config{Pass: func() *reconcile.Pass { return pass }})
	ask(s, "GET", "/metrics")
	pass = fresh()
	if got := ours(ask(s, "GET", "/metrics").Body.String()); strings.Contains(got, "problems") || strings.Contains(got, "changes") {
		t.Errorf("metrics of an empty pass\n%s", got)
	}
}

func TestABadLabelCostsOnlyItself(t *testing.T) {
	pass := good()
	pass.Problems = append(pass.Problems, catalog.Problem{Source: "\xff"})
	w := ask(server(pass), "GET", "/metrics")
	if w.Code != 200 || !strings.Contains(w.Body.String(), `proxymatic_problems{source="policy"} 1`) {
		t.Errorf("%d %s", w.Code, ours(w.Body.String()))
	}
}

// ours are the samples of proxymatic itself.
func ours(body string) string {
	var b strings.Builder
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "proxymatic_") {
			b.WriteString(regexp.MustCompile(`goversion="[^"]*"`).ReplaceAllString(line, `goversion="GO"`))
		}
	}
	return b.String()
}

func TestRunRetriesATakenAddressAndServesUntilItsEnd(t *testing.T) {
	holder, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := holder.Addr().String()
	warned := make(chan error, 10)
	s := New(Config{Addr: addr, Pass: good, Warn: func(err error) { warned <- err }})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if err := <-warned; !strings.Contains(err.Error(), addr) {
		t.Errorf("warning %q does not name %s", err, addr)
	}
	holder.Close()
	for Healthcheck(t.Context(), addr) != nil { // until the next try; the test's own limit ends it otherwise
	}
	s.SetTerminating()
	if err := Healthcheck(t.Context(), addr); err == nil || !strings.Contains(err.Error(), "503 Service Unavailable: TERMINATING") {
		t.Errorf("Healthcheck: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := Healthcheck(t.Context(), addr); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("Healthcheck after the end: %v", err)
	}
}

func TestTheSameReasonIsWarnedOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var warned []string
		s := New(Config{Addr: "127.0.0.1:99999", Pass: good, Warn: func(err error) { warned = append(warned, err.Error()) }})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
		if want := []string{"status endpoint: listen tcp: address 99999: invalid port"}; !slices.Equal(warned, want) {
			t.Errorf("warned %q, want %q", warned, want)
		}
	})
}

func TestHealthcheckDistrustsARedirect(t *testing.T) {
	other := httptest.NewServer(http.RedirectHandler("/elsewhere", http.StatusFound))
	defer other.Close()
	err := Healthcheck(t.Context(), strings.TrimPrefix(other.URL, "http://"))
	if err == nil || !strings.Contains(err.Error(), "not proxymatic's endpoint") {
		t.Errorf("Healthcheck: %v", err)
	}
}

func TestHealthcheckAsksAWildcardThroughLoopback(t *testing.T) {
	for addr, want := range map[string]string{":9090": "127.0.0.1:9090", "0.0.0.0:9090": "127.0.0.1:9090",
		"[::]:9090": "[::1]:9090", "10.0.0.1:9090": "10.0.0.1:9090", "host:9090": "host:9090"} {
		if got := dialable(addr); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}
