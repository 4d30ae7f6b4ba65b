package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meltwater/proxymatic/runtime/reconcile"
	"github.com/meltwater/proxymatic/runtime/status"
	"github.com/meltwater/proxymatic/sources/catalog"
)

const someServices = `
- {name: web, port: 8300, mode: http, servers: [{ip: 10.0.0.2, port: 31000, weight: 7}, {ip: 10.0.0.1, port: 31000}]}
- {name: api, port: 8200}
- {name: dns, port: 53, protocol: udp}
- {name: mine, port: 9090}
- {name: broken, port: 0}
`

// writeFile writes a file of the test's own and gives its path.
func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

type result struct {
	code           int
	stdout, stderr string
}

// call does what a command line says, on a host without any configuration.
func call(t *testing.T, args ...string) result {
	t.Helper()
	unset(t)
	t.Setenv("PROXYMATIC_CONFIG", writeFile(t, "# nothing\n"))
	var stdout, stderr bytes.Buffer
	code := program{stdout: &stdout, stderr: &stderr, notify: func(chan<- os.Signal) {}}.main(t.Context(), args)
	return result{code, stdout.String(), stderr.String()}
}

const listed = "53/udp dns mode=tcp source=file\n" +
	"8200/tcp api mode=tcp source=file\n" +
	"8300/tcp web mode=http source=file\n  10.0.0.1:31000 check\n  10.0.0.2:31000 weight=7 check\n"

const complaints = "problem: policy: mine 9090/tcp: left out: proxymatic itself listens on port 9090/tcp; give --status-endpoint another port to free it\n" +
	"problem: file: services[4]: port 0: want 1 to 65535\n"

func TestServices(t *testing.T) {
	got := call(t, "services", "--haproxy", "--services-file", writeFile(t, someServices))
	if want := (result{0, listed, complaints}); got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestServicesPrintsTheOthersWhenASourceFails(t *testing.T) {
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	defer broken.Close()
	args := []string{"services", "--haproxy", "--marathon", broken.URL, "--services-file", writeFile(t, someServices)}
	got := call(t, args...)
	if got.code != 1 || got.stdout != listed || !strings.Contains(got.stderr, complaints+"proxymatic: source marathon: ") || !strings.Contains(got.stderr, "418") {
		t.Errorf("text: got %+v, want the file's services, its problems, the source and the cause on stderr, and 1", got)
	}
	got = call(t, append(args, "--output=json")...)
	var out status.ServicesJSON
	if err := json.Unmarshal([]byte(got.stdout), &out); err != nil || got.code != 1 || len(out.Services) != 3 || len(out.Problems) != 3 ||
		out.Problems[2].Source != "marathon" || !strings.Contains(got.stderr, "source marathon") {
		t.Errorf("JSON: got %+v (%v), want 3 services, 3 problems with marathon's last, and 1", got, err)
	}
}

func TestServicesJSON(t *testing.T) {
	got := call(t, "services", "--haproxy", "--output=json", "--services-file", writeFile(t, "- {name: w, port: 80, servers: [{ip: '::1', port: 2}]}"))
	want := `{"services":[{"name":"w","port":80,"protocol":"tcp","mode":"tcp","source":"file","servers":[{"ip":"::1","port":2,"weight":500,"maxconn":0}]}],"problems":[]}`
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(got.stdout)); err != nil || compact.String() != want || got.code != 0 || got.stderr != "" {
		t.Errorf("got %+v (%v)\nwant %s", got, err, want)
	}
	again := call(t, "services", "--haproxy", "--output=json", "--services-file", writeFile(t, got.stdout))
	if again != got {
		t.Errorf("read back as a services file: got %+v, want %+v", again, got)
	}
}

func TestServicesOfNothing(t *testing.T) {
	got := call(t, "services", "--haproxy", "--output=json", "--services-file", writeFile(t, "[]"))
	if want := (result{0, "{\n  \"services\": [],\n  \"problems\": []\n}\n", ""}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestTimeoutEndsWaitingForASource(t *testing.T) {
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer silent.Close()
	got := call(t, "services", "--haproxy", "--timeout=1", "--marathon", silent.URL, "--services-file", writeFile(t, someServices))
	if got.code != 1 || got.stdout != listed || !strings.Contains(got.stderr, "source marathon") {
		t.Errorf("got %+v, want the file's services and 1", got)
	}
}

func TestUsageAndConfigurationErrors(t *testing.T) {
	services := writeFile(t, "[]")
	for _, c := range []struct {
		args []string
		want string // the last line on stderr
	}{
		{nil, "proxymatic: no source is configured; give --marathon, --registrator or --services-file"},
		{[]string{"services"}, "proxymatic: no source is configured; give --marathon, --registrator or --services-file"},
		{[]string{"--wrong"}, "proxymatic: unknown flag: --wrong; see proxymatic --help"},
		{[]string{"reload"}, `proxymatic: unknown command "reload"; see proxymatic --help`},
		{[]string{"plan", "now"}, `proxymatic: unexpected "now"; see proxymatic --help`},
		{[]string{"services", "--output=xml"}, `proxymatic: --output (from the command line): "xml": want one of ["text" "json"]`},
		{[]string{"plan", "--timeout=0"}, `proxymatic: --timeout (from the command line): "0": want more than 0`},
		{[]string{"validate", "-r", "etcd://x", "--registrator-cert=/nonexistent/c"}, "proxymatic: registrator: a client certificate and its key are given together"},
		{[]string{"plan", "--pen-servers=1001"}, `proxymatic: --pen-servers (from the command line): 1001: want at most 1000`},
		{[]string{"render", "--services-file", services}, "proxymatic: without --haproxy no haproxy.cfg is written: all services go to pen"},
		{[]string{"validate", "--pen-template=/nonexistent/t"}, "proxymatic: --pen-template: read template: open /nonexistent/t: no such file or directory"},
		{[]string{"validate", "--haproxy", "--haproxy-template=/nonexistent/t"}, "proxymatic: --haproxy-template: read template: open /nonexistent/t: no such file or directory"},
		{[]string{"healthcheck", "--status-endpoint="}, "proxymatic: --status-endpoint is empty, so there is nobody to ask"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			got := call(t, c.args...)
			lines := strings.Split(strings.TrimSpace(got.stderr), "\n")
			if got.code != 1 || got.stdout != "" || lines[len(lines)-1] != c.want {
				t.Errorf("got %+v\nwant 1 and %s", got, c.want)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"-h"}, {"--help"}, {"plan", "--help"}} {
		if got := call(t, args...); got != (result{0, helpText(), ""}) {
			t.Errorf("%q: got %+v, want the help on stdout and 0", args, got)
		}
	}
	if got := call(t); !strings.HasPrefix(got.stderr, helpText()) {
		t.Errorf("without a source: got %+v, want the help on stderr", got)
	}
}

func TestRenderAndValidate(t *testing.T) {
	file := writeFile(t, someServices)
	if got := call(t, "render", "--haproxy", "--services-file", file); got.code != 0 || !strings.Contains(got.stdout, "global\n") ||
		!strings.Contains(got.stdout, "8300") || got.stderr != complaints {
		t.Errorf("render: got %+v, want a file with the services, and 0", got)
	}
	if got := call(t, "render", "--haproxy", "--services-file", "/nonexistent/f"); got.code != 1 || got.stdout != "" {
		t.Errorf("render without its source: got %+v, want nothing on stdout and 1", got)
	}
	if got := call(t, "validate", "--haproxy", "--services-file", file); got.code != 1 || got.stdout != "" || !strings.Contains(got.stderr, "port 0") {
		t.Errorf("validate with a bad service: got %+v", got)
	}
	good := writeFile(t, "- {name: w, port: 80}")
	if got := call(t, "validate", "--haproxy", "--services-file", good); got != (result{0, "configuration is valid\n", ""}) {
		t.Errorf("validate: got %+v", got)
	}
	if got := call(t, "validate", "--haproxy"); got.code != 0 || !strings.Contains(got.stderr, "note: no source") {
		t.Errorf("validate without a source: got %+v, want a note and 0", got)
	}
}

func TestVersionNeedsNoConfiguration(t *testing.T) {
	got := call(t, "version", "--output=json", "--config=/nonexistent/c.yaml", "--drain=x")
	var v versions
	if err := json.Unmarshal([]byte(got.stdout), &v); err != nil || got.code != 0 || v.Version == "" || !strings.HasPrefix(v.Go, "go") {
		t.Errorf("got %+v (%v), want a version and 0", got, err)
	}
	if got := call(t, "version"); got.code != 0 || !strings.HasPrefix(got.stdout, "proxymatic "+v.Version+"\n") {
		t.Errorf("text: got %+v", got)
	}
}

func TestHealthcheck(t *testing.T) {
	code := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
	defer server.Close()
	flag := "--status-endpoint=" + strings.TrimPrefix(server.URL, "http://")
	if got := call(t, "healthcheck", flag); got != (result{0, "healthy\n", ""}) {
		t.Errorf("answering 200: got %+v", got)
	}
	code = http.StatusServiceUnavailable
	if got := call(t, "healthcheck", flag); got.code != 1 || !strings.Contains(got.stderr, "503") {
		t.Errorf("answering 503: got %+v, want 1", got)
	}
	server.Close()
	if got := call(t, "healthcheck", flag); got.code != 1 {
		t.Errorf("nobody there: got %+v, want 1", got)
	}
}

// proxy is a driver that offers what it was told to: its plan is what is missing.
type proxy struct {
	reconcile.Driver
	offered map[catalog.Key]bool
	err     error
}

func (p proxy) Name() string { return "proxy" }

func (p proxy) Plan(_ context.Context, want []*catalog.Service) (catalog.Report, error) {
	var r catalog.Report
	for _, s := range want {
		if !p.offered[s.Key] {
			r.Changes = append(r.Changes, catalog.Change{Service: s.Name + " " + s.Key.String(), Action: "add service", Detail: "no servers"})
			r.Changes = append(r.Changes, catalog.Change{Action: "reload", Detail: "new services"})
			r.Reloads = []string{"new services"}
		}
	}
	return r, p.err
}

// asked gives what `plan` prints and its exit code when a run answers with this plan.
func asked(t *testing.T, answer planned, args ...string) result {
	t.Helper()
	dir := t.TempDir()
	stop, err := control{plan: func(context.Context) planned { return answer }}.serve(filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	got := call(t, append([]string{"plan", "--haproxy", "-m=http://127.0.0.1:1", "--run-dir", dir}, args...)...)
	rest, told := strings.CutPrefix(got.stderr, "proxymatic: note: the proxymatic that holds "+dir+" was asked; what counts is its own configuration\n")
	if !told {
		t.Errorf("nothing says that the run was asked: %q", got.stderr)
	}
	got.stderr = rest
	return got
}

func TestPlanAsksTheRun(t *testing.T) {
	want := []*catalog.Service{{Key: catalog.Key{Port: 1, Proto: catalog.TCP}, Name: "a"}}
	there := map[catalog.Key]bool{want[0].Key: true}
	none := planWith(t.Context(), []reconcile.Driver{proxy{offered: there}}, want, nil)
	some := planWith(t.Context(), []reconcile.Driver{proxy{}}, want, []catalog.Problem{{Source: "s", Subject: "x", Reason: "y"}})
	broken := planWith(t.Context(), []reconcile.Driver{proxy{err: errors.New("no answer")}}, nil, nil)
	for _, c := range []struct {
		rule   string
		answer planned
		args   []string
		want   result
	}{
		{"nothing to do", none, nil, result{0, "nothing to change\n", ""}},
		{"something to do", some, nil, result{2, "proxy: add service a 1/tcp (no servers)\nproxy: reload because of new services\n", "problem: s: x: y\n"}},
		{"a driver that cannot plan", broken, nil, result{1, "", "proxymatic: driver proxy: no answer\n"}},
		{"a loop that cannot plan", planOf(nil, errors.New("source marathon has not answered yet")), nil,
			result{1, "", "proxymatic: source marathon has not answered yet\n"}},
		{"JSON of nothing", none, []string{"--output=json"},
			result{0, "{\n  \"drivers\": [\n    {\n      \"driver\": \"proxy\",\n      \"changes\": [],\n      \"reloads\": []\n    }\n  ],\n  \"problems\": []\n}\n", ""}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if got := asked(t, c.answer, c.args...); got != c.want {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestPlanWithoutARun(t *testing.T) {
	dead := filepath.Join(t.TempDir(), "control.sock")
	if err := os.WriteFile(dead, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{dead, dead + ".missing"} {
		if _, running, err := askForPlan(t.Context(), socket); running || err != nil {
			t.Errorf("%s: got running %v, %v, want that there is none", filepath.Base(socket), running, err)
		}
	}
	got := call(t, "plan", "--haproxy", "-m=http://127.0.0.1:1", "--run-dir", t.TempDir())
	if got.code != 1 || got.stdout != "" || !strings.Contains(got.stderr, "source marathon") {
		t.Errorf("a source that cannot be read: got %+v, want its name and 1", got)
	}
}
