package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

// hup writes the configuration file, sends HUP and waits for what the log says of it.
func (w world) hup(config, text, says string) {
	w.Helper()
	before := strings.Count(w.host.Log(), says)
	w.must(os.WriteFile(config, []byte(text), 0o644))
	w.must(w.host.Signal(syscall.SIGHUP))
	w.must(stage.Until(w.patient(), func() error {
		if strings.Count(w.host.Log(), says) <= before {
			return fmt.Errorf("the log does not say %q", says)
		}
		return nil
	}))
	w.must(w.host.Ready(w.patient())) // the status endpoint of an instance ends with it
}

const (
	taken    = "configuration read again"
	notTaken = "configuration not taken, the old one stays"
)

// What can change does, without a reload, while requests are answered.
func TestHUPTakesWhatCanChange(t *testing.T) {
	w := newWorld(t)
	ports := w.services(3, 2)
	config, more := w.host.Path("c.yaml"), w.host.Path("services.yaml")
	extra := w.ports(1)[0]
	w.must(os.WriteFile(more, fmt.Appendf(nil, "[{name: extra, port: %d, servers: [{ip: 127.0.0.1, port: 1}]}]", extra), 0o644))
	w.must(os.WriteFile(config, []byte("refresh-interval: 60\n"), 0o644))
	w.start("--config", config)
	worker, load := w.worker(), w.load(ports, 300)
	w.hup(config, "refresh-interval: 5s\nexpose-host: true\nverbose: true\nlog-format: json\ndrain: 5s\nrelease-after: 2h\non-exit: leave\n", `"msg":"`+taken)
	if plan := w.command("plan"); plan.Code != 0 {
		t.Errorf("plan after HUP: %+v, want nothing to change", plan)
	}
	w.sameWorker(worker)
	w.reloaded(0, 0, "intervals, limits, log level and format")

	w.hup(config, "services-file: "+more+"\n", "level=INFO msg=\""+taken)
	w.must(stage.Until(w.patient(), func() error {
		if s := w.status(); len(s.Sources) != 2 || w.loads() != 1 {
			return fmt.Errorf("%d sources, %d reloads, want 2 and the one for the new service", len(s.Sources), w.loads())
		}
		return nil
	}))
	w.hup(config, "max-connections: 100\n", taken)
	w.must(stage.Until(w.patient(), func() error {
		written, err := os.ReadFile(w.host.Config())
		if err == nil && !strings.Contains(string(written), "maxconn 100\n") {
			err = fmt.Errorf("haproxy.cfg has another limit")
		}
		return err
	}))
	w.settled()
	w.flawless(load)
}

// A plan that is asked for before the HUP says what that will do, and a plan changes nothing.
func TestPlanSaysWhatAHUPWillDo(t *testing.T) {
	w := newWorld(t)
	ports := w.services(2, 1)
	config, more := w.host.Path("c.yaml"), w.host.Path("services.yaml")
	extra := w.ports(1)[0]
	w.must(os.WriteFile(more, fmt.Appendf(nil, "[{name: extra, port: %d, servers: [{ip: 127.0.0.1, port: 1}]}]", extra), 0o644))
	w.must(os.WriteFile(config, []byte("refresh-interval: 60\n"), 0o644))
	w.start("--config", config)
	load := w.load(ports, 300)
	plan := func(code int, stdout, stderr string) {
		t.Helper()
		got := w.command("plan")
		if got.Code != code || !strings.Contains(got.Stdout, stdout) || !strings.Contains(got.Stderr, stderr) {
			t.Errorf("got %+v, want %d, %q, %q", got, code, stdout, stderr)
		}
	}
	plan(0, "nothing to change", "was asked")

	w.must(os.WriteFile(config, []byte("services-file: "+more+"\n"), 0o644))
	plan(2, "reload because of", "this is what a HUP would do")
	w.reloaded(0, 0, "plan")
	w.hup(config, "services-file: "+more+"\n", taken)
	w.must(stage.Until(w.patient(), func() error {
		if w.loads() != 1 {
			return fmt.Errorf("%d reloads, want that for the new service", w.loads())
		}
		return nil
	}))
	w.quiet()

	w.must(os.WriteFile(config, []byte("services-file: ["), 0o644))
	plan(0, "nothing to change", "a HUP would not take the configuration as it is now")
	w.must(os.WriteFile(config, []byte("services-file: "+more+"\ndrain: 7s\n"), 0o644))
	plan(0, "nothing to change", "this is what a HUP would do")
	w.flawless(load)
}

// A template that changes is one reload, and one that cannot be used is none.
func TestHUPReadsTemplatesAgain(t *testing.T) {
	w := newWorld(t)
	ports := w.services(2, 2)
	builtin, err := os.ReadFile(filepath.Join("..", "..", "templates", "haproxy.cfg.tpl"))
	w.must(err)
	config, template := w.host.Path("c.yaml"), w.host.Path("haproxy.tpl")
	text := "haproxy-template: " + template + "\n"
	w.must(os.WriteFile(template, builtin, 0o644))
	w.must(os.WriteFile(config, []byte(text), 0o644))
	w.start("--config", config)
	load := w.load(ports, 300)

	w.must(os.WriteFile(template, []byte("global\n{{ if }}\n"), 0o644))
	w.hup(config, text, notTaken)
	if !strings.Contains(w.host.Log(), template) {
		t.Errorf("the log does not name %s", template)
	}
	w.reloaded(0, 0, "a template that cannot be used")

	w.must(os.WriteFile(template, []byte(strings.Replace(string(builtin), "timeout queue 30s", "timeout queue 31s", 1)), 0o644))
	if plan := w.command("plan"); plan.Code != 2 || !strings.Contains(plan.Stdout, "reload because of") {
		t.Errorf("plan before HUP with another template: %+v, want a reload", plan)
	}
	w.hup(config, text, taken)
	w.must(stage.Until(w.patient(), func() error {
		written, err := os.ReadFile(w.host.Config())
		if err == nil && (!strings.Contains(string(written), "timeout queue 31s") || w.loads() != 1) {
			err = fmt.Errorf("the new template is not in haproxy.cfg, or %d reloads were made, want 1", w.loads())
		}
		return err
	}))
	w.settled()
	w.flawless(load)
}

// What cannot be taken is named, and the old configuration goes on.
func TestHUPRefuses(t *testing.T) {
	w := newWorld(t)
	ports := w.services(3, 2)
	config := w.host.Path("c.yaml")
	good := "refresh-interval: 60\nmarathon:\n  - " + w.site.URL + "\n"
	w.must(os.WriteFile(config, []byte(good), 0o644))
	w.start("--config", config)
	worker, load := w.worker(), w.load(ports, 300)
	for name, c := range map[string]struct{ text, names string }{
		"half of a key":    {good[:10], "c.yaml"},
		"half of a list":   {"refresh-interval: 60\nmarathon: [" + w.site.URL, "c.yaml"},
		"half of a string": {"refresh-interval: '6", "c.yaml"},
		"an unknown key":   {good + "no-such-key: 1\n", "no-such-key"},
		"a bad value":      {good + "drain: soon\n", "--drain"},
		"a bad URL":        {"registrator: http://x\n", "--registrator"},
	} {
		w.hup(config, c.text, notTaken)
		log := w.host.Log()
		if last := log[strings.LastIndex(log, notTaken):]; !strings.Contains(last, c.names) {
			t.Errorf("%s: the log does not name %s: %s", name, c.names, last)
		}
	}
	_, err := w.site.AddTask(ports[0])
	w.must(err)
	w.settled()
	w.must(load.WaitRequests(w.patient(), 100))
	w.flawless(load)
	w.reloaded(0, 0, "refused configurations")
	w.sameWorker(worker)
}

// Directories, sockets and the mode stay for the life of a run. They are in the file alone here: the command line would win.
func TestHUPNamesWhatCannotChange(t *testing.T) {
	w := newWorld(t)
	ports := w.services(1, 1)
	config := w.host.Path("c.yaml")
	settings := map[string]string{"run-dir": w.host.RunDir, "state-dir": w.host.Path("state"), "status-endpoint": w.host.StatusAddr,
		"bind-address": "127.0.0.1", "haproxy": "true", "haproxy-start": "managed", "haproxy-reload": "managed",
		"haproxy-config": w.host.Config(), "haproxy-socket": w.host.Path("haproxy.sock"), "marathon": w.site.URL}
	write := func(changed ...string) string {
		var b strings.Builder
		for key, value := range settings {
			for i := 0; i < len(changed); i += 2 {
				if changed[i] == key {
					value = changed[i+1]
				}
			}
			fmt.Fprintf(&b, "%s: %q\n", key, value)
		}
		return b.String()
	}
	w.must(os.WriteFile(config, []byte(write()), 0o644))
	w.must(w.host.StartAs("--config", config))
	w.must(w.host.Ready(w.patient()))
	w.settled()
	worker, load := w.worker(), w.load(ports, 100)
	for name, changed := range map[string][]string{
		"--run-dir":        {"run-dir", w.host.Path("elsewhere")},
		"--state-dir":      {"state-dir", w.host.Path("elsewhere")},
		"--haproxy":        {"haproxy", "false"},
		"--haproxy-start":  {"haproxy-start", "true", "haproxy-reload", "true"},
		"--haproxy-config": {"haproxy-config", w.host.Path("other.cfg")},
		"--haproxy-socket": {"haproxy-socket", w.host.Path("other.sock")},
	} {
		w.hup(config, write(changed...), name+" cannot change while running")
	}
	w.hup(config, write(), taken)
	w.settled()
	w.must(load.WaitRequests(w.patient(), 100))
	w.flawless(load)
	w.sameWorker(worker)
}
