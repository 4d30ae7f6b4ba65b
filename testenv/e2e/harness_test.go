// Package e2e tests the real binary with real HAProxy and pen, a fake Marathon and backends that hang, as a user meets them.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/runtime/status"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// binaryEnv names the built binary, for all tests of this process.
const binaryEnv = "PROXYMATIC_E2E_BINARY"

// patience is how long something may take that is not timed here.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		if testing.Short() {
			return m.Run()
		}
		if os.Getenv(binaryEnv) != "" { // a part of a test that runs in namespaces of its own
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "pm")
		if err == nil {
			err = os.Chmod(dir, 0o755) // for tests that run the binary as somebody else
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary := filepath.Join(dir, "proxymatic")
		if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/proxymatic").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build proxymatic: %v\n%s", err, out)
			return 1
		}
		os.Setenv(binaryEnv, binary)
		return m.Run()
	}())
}

// world is a cluster and a host that serves it.
type world struct {
	*testing.T
	site *stage.Site
	host *stage.Host
}

// newWorld gives a cluster without services and a host with HAProxy on which nothing runs yet. Both end with the test.
func newWorld(t *testing.T) world {
	t.Helper()
	return worldWith(t, "haproxy")
}

// newWorldOf gives a world as newWorld does, with another Marathon.
func newWorldOf(t *testing.T, gen fakemarathon.Generation) world {
	t.Helper()
	return worldOf(t, gen, "haproxy")
}

// worldWith gives a world for a test that needs these programs.
func worldWith(t *testing.T, programs ...string) world {
	t.Helper()
	return worldOf(t, fakemarathon.GenD, programs...)
}

func worldOf(t *testing.T, gen fakemarathon.Generation, programs ...string) world {
	t.Helper()
	if testing.Short() && os.Getenv("CI") == "" {
		t.Skip("takes seconds, and real proxies")
	}
	for _, program := range programs {
		if !installed(program) {
			unavailable(t, program+" is not installed")
		}
	}
	site, err := stage.NewSite(gen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(site.Close)
	host, err := stage.NewHost(os.Getenv(binaryEnv))
	if err != nil {
		t.Fatal(err)
	}
	w := world{t, site, host}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of proxymatic and its proxies:\n%s", shorten(host.Log()))
		}
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// unavailable skips a test that cannot be run here. In CI that is a failure.
func unavailable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func installed(program string) bool {
	_, err := exec.LookPath(program)
	_, sbinErr := os.Stat("/usr/sbin/" + program)
	return err == nil || sbinErr == nil
}

// shorten keeps the end of a long log.
func shorten(log string) string {
	const most = 12000
	if len(log) > most {
		return "...\n" + log[len(log)-most:]
	}
	return log
}

func (w world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// patient gives a context for something that is not timed here.
func (w world) patient() context.Context {
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	w.Cleanup(cancel)
	return ctx
}

// ports gives free service ports.
func (w world) ports(n int) []int {
	w.Helper()
	ports, err := freeport.Get(n)
	w.must(err)
	return ports
}

// services adds services with so many tasks each, on free ports.
func (w world) services(n, tasks int) []int {
	w.Helper()
	ports := w.ports(n)
	for _, port := range ports {
		w.must(w.site.AddService(port, tasks))
	}
	return ports
}

// start starts proxymatic on the cluster, with more flags, and waits until everything is served.
func (w world) start(more ...string) {
	w.Helper()
	w.startOn(w.site.URL, more...)
}

// startOn starts proxymatic on these replicas, with commas between.
func (w world) startOn(marathon string, more ...string) {
	w.Helper()
	w.must(w.host.Start(append([]string{"--marathon", marathon}, more...)...))
	w.must(w.host.Ready(w.patient()))
	w.settled()
}

// settled waits until wanted, running and written are the same, and nothing that was removed is left.
func (w world) settled() {
	w.Helper()
	w.settledOn(w.site.Wanted)
}

func (w world) settledOn(wish func() stage.Servers) {
	w.Helper()
	w.settledWithin(patience, wish)
}

func (w world) settledWithin(limit time.Duration, wish func() stage.Servers) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), limit)
	defer cancel()
	w.must(stage.Until(ctx, func() error {
		wanted := wish()
		running, err := w.host.Running()
		if err != nil {
			return fmt.Errorf("running: %w", err)
		}
		paused, err := w.paused()
		if err != nil {
			return err
		}
		for port := range paused {
			if len(wanted[port]) > 0 {
				return fmt.Errorf("the service of port %d is paused", port)
			}
		}
		written, err := w.host.Written()
		if err != nil {
			return fmt.Errorf("written: %w", err)
		}
		if !w.reloadless() { // then removed ones stay in maintenance
			running = running.Serving()
		}
		if d := wanted.Diff(running); d != "" {
			return errors.New("running is not wanted:\n" + d)
		}
		if d := wanted.Diff(written); d != "" {
			return errors.New("haproxy.cfg is not wanted:\n" + d)
		}
		return nil
	}))
}

// quiet waits until a plan has nothing to change.
func (w world) quiet() {
	w.Helper()
	w.must(stage.Until(w.patient(), func() error {
		plan := w.command("plan")
		if plan.Code != 0 || plan.Stdout != "nothing to change\n" {
			return fmt.Errorf("plan is not empty: %+v", plan)
		}
		return nil
	}))
}

// command runs a command beside the run, with its flags and more.
func (w world) command(name string, more ...string) stage.Output {
	w.Helper()
	flags := w.host.Flags(append([]string{"--marathon", w.site.URL}, more...)...)
	out, err := w.host.Command(w.patient(), append([]string{name}, flags...)...)
	w.must(err)
	return out
}

// paused gives the ports whose frontends are paused.
func (w world) paused() (map[int]bool, error) {
	text, err := stage.Ask(w.host.Path("haproxy.sock"), "show stat -1 1 -1")
	if err != nil {
		return nil, err
	}
	out := map[int]bool{}
	for line := range strings.Lines(text) {
		f := strings.Split(line, ",")
		if len(f) > 17 && f[1] == "FRONTEND" && f[17] != "OPEN" {
			var port int
			if _, err := fmt.Sscanf(f[0][strings.LastIndexByte(f[0], '-')+1:], "%d", &port); err != nil {
				return nil, fmt.Errorf("%q: %w", f[0], err)
			}
			out[port] = true
		}
	}
	return out, nil
}

// validFile checks that HAProxy takes haproxy.cfg as it is.
func (w world) validFile() {
	w.Helper()
	out, err := exec.Command("haproxy", "-c", "-f", w.host.Config()).CombinedOutput()
	if err != nil {
		w.Errorf("haproxy -c: %v\n%s", err, out)
	}
}

// status gives what the run tells of itself.
func (w world) status() status.StatusJSON {
	w.Helper()
	s, err := w.host.Status(w.patient())
	w.must(err)
	return s
}

// loads is how often HAProxy was loaded since the run began, its start included.
func (w world) loads() int {
	w.Helper()
	return w.driver("haproxy").Reloads
}

// driver gives what the run tells of one of its drivers.
func (w world) driver(name string) status.DriverJSON {
	w.Helper()
	drivers := w.status().Drivers
	i := slices.IndexFunc(drivers, func(d status.DriverJSON) bool { return d.Name == name })
	if i < 0 {
		w.Fatalf("no driver %s: %+v", name, drivers)
	}
	return drivers[i]
}

// worker gives HAProxy's worker process.
func (w world) worker() int {
	w.Helper()
	var pid int
	w.must(stage.Until(w.patient(), func() (err error) {
		pid, err = w.host.Worker()
		return err
	}))
	return pid
}

// load asks services all the time, and takes an answer only from a task that was wanted when the request began or removed no
// longer than lateness before.
func (w world) load(ports []int, perSecond int) *stage.Load {
	w.Helper()
	lateness := w.lateness()
	return stage.StartLoad(ports, perSecond, func(port int, name string, began, ended time.Time) string {
		return w.site.Judge(port, name, began, ended, lateness)
	})
}

// lateness is how long after its removal was announced a backend goes on answering.
const lateness = 50 * time.Millisecond

// flawless ends a load of which no request may have failed.
func (w world) flawless(l *stage.Load) stage.Result {
	w.Helper()
	r := l.Stop()
	w.Logf("%d requests in %s, %.0f/s, %d failed", r.Requests, r.Elapsed.Round(time.Millisecond), r.Rate(), len(r.Failed))
	if r.Requests == 0 {
		w.Error("no request was made")
	}
	for _, f := range r.Failed[:min(len(r.Failed), 20)] {
		w.Errorf("a request failed: %s", f)
	}
	return r
}

// served waits until a service is answered by one of its tasks.
func (w world) served(ports ...int) {
	w.Helper()
	for _, port := range ports {
		w.must(stage.Until(w.patient(), func() error {
			began := time.Now()
			name, err := stage.Request(w.Context(), port)
			if err != nil {
				return err
			}
			if wrong := w.site.Judge(port, name, began, time.Now(), lateness); wrong != "" {
				return errors.New(wrong)
			}
			return nil
		}))
	}
}

// refused waits until nobody accepts connections to the ports any more.
func (w world) refused(ports ...int) {
	w.Helper()
	for _, port := range ports {
		w.must(stage.Until(w.patient(), func() error { return w.mustRefuse(port) }))
	}
}

func (w world) mustRefuse(port int) error {
	if name, err := stage.Request(w.Context(), port); err == nil || !strings.Contains(err.Error(), "connection refused") {
		return fmt.Errorf("a connection to port %d is not refused: %q, %v", port, name, err)
	}
	return nil
}
