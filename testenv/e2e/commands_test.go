package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/meltwater/proxymatic/runtime/status"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

// says checks a command's exit code and that its output has some words.
func (w world) says(out stage.Output, code int, words ...string) {
	w.Helper()
	for _, word := range words {
		if out.Code != code || !strings.Contains(out.Stdout+out.Stderr, word) {
			w.Errorf("got %+v, want exit code %d and %q", out, code, word)
		}
	}
}

func TestCommandsWithoutARun(t *testing.T) {
	w := newWorld(t)
	ports := w.services(2, 2)
	w.says(w.command("plan"), 2, "HAProxy does not run", fmt.Sprintf("s%d.shop-%d %d/tcp", ports[0], ports[0], ports[0]))
	w.says(w.command("services"), 0, fmt.Sprintf("%d/tcp s%d.shop mode=tcp source=marathon", ports[0], ports[0]))
	w.servicesAre(w.command("services", "--output", "json").Stdout)
	w.says(w.command("validate"), 0, "configuration is valid")
	w.says(w.command("healthcheck"), 1, "connection refused")
	w.says(w.command("version"), 0, "proxymatic ", "haproxy    ", "go1.")
	rendered := w.command("render")
	w.must(os.WriteFile(w.host.Config(), []byte(rendered.Stdout), 0o644))
	w.validFile()
	w.must(os.Remove(w.host.Config()))
	if left, err := os.ReadDir(w.host.Dir); err != nil || len(left) > 0 {
		t.Errorf("commands left %v behind (%v), and should touch nothing", left, err)
	}
	if pids := w.host.HAProxy(); len(pids) > 0 {
		t.Errorf("commands started HAProxy: %v", pids)
	}

	w.start()
	w.host.Kill()
	_, err := w.site.AddTask(ports[0])
	w.must(err)
	says, want := "add server", "haproxy: [{add server}], 0 reloads; pen: [], 0 reloads"
	if !w.reloadless() {
		says, want = "cannot add it at run time", "haproxy: [{load service} {reload}], 1 reloads; pen: [], 0 reloads"
	}
	w.says(w.command("plan"), 2, says)
	var plan struct {
		Drivers []struct {
			Driver  string
			Changes []struct{ Action string }
			Reloads []string
		}
	}
	out := w.command("plan", "--output", "json")
	err = json.Unmarshal([]byte(out.Stdout), &plan)
	var drivers []string
	for _, d := range plan.Drivers {
		drivers = append(drivers, fmt.Sprintf("%s: %v, %d reloads", d.Driver, d.Changes, len(d.Reloads)))
	}
	if got := strings.Join(drivers, "; "); err != nil || out.Code != 2 || got != want {
		t.Errorf("plan in JSON: %+v (%v), want %s", out, err, want)
	}
	w.site.Replica.Close()
	w.says(w.command("services"), 1, "source marathon", w.site.URL)
	w.says(w.command("plan"), 1, "source marathon", w.site.URL)
}

// servicesAre checks a list of services in JSON against what is wanted.
func (w world) servicesAre(text string) {
	w.Helper()
	var list status.ServicesJSON
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		w.Fatalf("%v in %s", err, text)
	}
	got := stage.Servers{}
	for _, s := range list.Services {
		for _, v := range s.Servers {
			got[s.Port] = append(got[s.Port], fmt.Sprintf("%s:%d", v.IP, v.Port))
		}
	}
	for port, want := range w.site.Wanted() {
		if len(got[port]) != len(want) {
			w.Errorf("service %d has servers %v, want %v", port, got[port], want)
		}
	}
}

func TestCommandsBesideARun(t *testing.T) {
	w := newWorld(t)
	w.services(2, 2)
	w.start()
	w.says(w.command("healthcheck"), 0, "healthy")
	w.says(w.command("plan"), 0, "nothing to change")
	w.servicesAre(w.command("services", "--output", "json").Stdout)
	_, body, err := w.host.Get(w.patient(), "/api/v1/services")
	w.must(err)
	w.servicesAre(body)
	_, metrics, err := w.host.Get(w.patient(), "/metrics")
	w.must(err)
	for _, line := range []string{`proxymatic_driver_up{driver="haproxy"} 1`, `proxymatic_source_up{source="marathon"} 1`, "proxymatic_services 2", "proxymatic_servers 4"} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("no %q in the metrics", line)
		}
	}
	second, err := w.host.Command(w.patient(), w.host.Flags("--marathon", w.site.URL)...)
	w.must(err)
	w.says(second, 1, fmt.Sprintf("another proxymatic (process %d on ", w.host.Pid()), "holds "+w.host.Dir, "--take-over")
}

const socketless = `global
    maxconn 100
{{range .Services}}{{template "service" .}}{{end}}
{{define "service"}}
listen {{.Name}}
    bind {{.Bind}}
{{- range .Servers}}
    {{.Line}}
{{- end}}
{{end}}
`

func TestBadInputIsNamedAtTheStart(t *testing.T) {
	w := newWorld(t)
	file := func(name, text string) string {
		w.must(os.WriteFile(w.host.Path(name), []byte(text), 0o644))
		return w.host.Path(name)
	}
	plain := file("plain", "")
	for name, c := range map[string]struct {
		flags []string
		words []string
	}{
		"run directory below a file": {[]string{"--run-dir", plain + "/x"}, []string{"--run-dir", plain}},
		"unknown YAML key":           {[]string{"--config", file("a.yaml", "haproxy-sokcet: /x\n")}, []string{"a.yaml", "haproxy-sokcet", "haproxy-socket"}},
		"no YAML":                    {[]string{"--config", file("b.yaml", "haproxy: [\n")}, []string{"b.yaml"}},
		"template that ends too soon": {[]string{"--haproxy-template", file("a.tpl", "global\n{{range .Services}}\n")},
			[]string{"a.tpl:3", "unexpected EOF"}},
		"template without stats socket": {[]string{"--haproxy-template", file("b.tpl", socketless)},
			[]string{"b.tpl", "stats socket " + w.host.Path("haproxy.sock")}},
		"Mako template": {[]string{"--haproxy-template", file("c.tpl", "% for service in services.values():\nlisten ${service.name}\n% endfor\n")},
			[]string{"c.tpl", "Mako"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := w.host.Command(w.patient(), w.host.Flags(append([]string{"--marathon", w.site.URL}, c.flags...)...)...)
			if err != nil {
				t.Fatal(err)
			}
			world{t, w.site, w.host}.says(out, 1, c.words...)
		})
	}
}

// driverSays waits until the status tells of a failure of a driver with these words.
func (w world) driverSays(words string) {
	w.Helper()
	w.must(stage.Until(w.patient(), func() error {
		s, err := w.host.Status(w.Context())
		if err == nil && !slices.ContainsFunc(s.Drivers, func(d status.DriverJSON) bool { return strings.Contains(d.Error, words) }) {
			err = fmt.Errorf("no driver's error has %q: %+v", words, s.Drivers)
		}
		return err
	}))
	if code, body, err := w.host.Get(w.patient(), "/readyz"); err != nil || code != 503 || !strings.Contains(body, words) {
		w.Errorf("/readyz: %d %q, %v", code, body, err)
	}
	if code, _, err := w.host.Get(w.patient(), "/healthz"); err != nil || code != 200 {
		w.Errorf("/healthz: %d, %v", code, err)
	}
	if !strings.Contains(w.host.Log(), words) {
		w.Errorf("the log does not say %q", words)
	}
}

func TestConfigThatCannotBeWrittenIsNamedAndTriedAgain(t *testing.T) {
	w := newWorld(t)
	port := w.services(1, 1)[0]
	dir := w.host.Path("etc")
	w.must(w.host.Start("--marathon", w.site.URL, "--haproxy-config", filepath.Join(dir, "haproxy.cfg")))
	w.driverSays(dir)
	w.must(os.Mkdir(dir, 0o755))
	w.served(port)
	w.must(w.host.Ready(w.patient()))
}

func TestHAProxyThatDoesNotStartIsNamedAndTriedAgain(t *testing.T) {
	w := newWorld(t)
	port := w.services(1, 1)[0]
	bin := w.host.Path("bin")
	w.must(os.Mkdir(bin, 0o755))
	program := filepath.Join(bin, "haproxy")
	w.must(os.WriteFile(program, []byte("#!/bin/sh\necho '[ALERT] a broken library' >&2\nexit 3\n"), 0o755))
	real, err := exec.LookPath("haproxy")
	w.must(err)
	w.host.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	w.must(w.host.Start("--marathon", w.site.URL))
	w.driverSays("a broken library")
	w.must(os.Remove(program))
	w.must(os.Symlink(real, program))
	w.served(port)
	w.must(w.host.Ready(w.patient()))
}

// A worker that is stopped takes connections to its socket and answers nothing.
func TestHungSocketIsNamedAndRecovers(t *testing.T) {
	w := newWorld(t)
	ports := w.services(2, 2)
	w.start()
	loads, worker := w.loads(), w.worker()
	w.must(stage.Freeze(w.patient(), worker))
	resumed := false
	defer func() {
		if !resumed {
			_ = syscall.Kill(worker, syscall.SIGCONT) // the test has failed already
		}
	}()
	_, err := w.site.AddTask(ports[0])
	w.must(err)
	w.driverSays(w.host.Path("haproxy.sock"))
	resumed = true
	w.must(syscall.Kill(worker, syscall.SIGCONT))
	w.settled()
	w.must(w.host.Ready(w.patient()))
	w.served(ports...)
	w.reloaded(loads, 0, "a socket that hung")
	w.sameWorker(worker)
}
