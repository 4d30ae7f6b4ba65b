package haproxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// testGap is the reload interval of tests: the default one.
const testGap = 250 * time.Millisecond

// rig is a driver with a real HAProxy of its own, on ports of the loopback range.
type rig struct {
	t      testing.TB
	driver *Driver
	config Config
}

// needHAProxy skips a test where HAProxy is not installed; in CI it must be.
func needHAProxy(t testing.TB) {
	t.Helper()
	if _, err := findHAProxy(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// newRig gives a rig whose HAProxy is not started yet, and is ended with the test.
func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	needHAProxy(t)
	dir, err := os.MkdirTemp("", "pm") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := Config{ConfigFile: filepath.Join(dir, "haproxy.cfg"), Start: Managed, Reload: Managed, Socket: filepath.Join(dir, "haproxy.sock"),
		RunDir: dir, BindAddress: netip.MustParseAddr("127.0.0.1"), MaxConnections: 1000, Drain: time.Minute, ReloadInterval: testGap, ReleaseAfter: time.Hour}
	if change != nil {
		change(&config)
	}
	h := &rig{t: t, config: config}
	t.Cleanup(h.kill)
	h.restart()
	return h
}

// restart replaces the driver by one that remembers nothing, as a new process would. A real one comes when old workers are silent.
func (h *rig) restart() {
	h.t.Helper()
	d, err := New(h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	if h.driver != nil {
		if err := h.driver.file.flush(); err != nil {
			h.t.Fatal(err)
		}
		d.former = h.driver.former
	}
	h.driver = d
}

// kill ends HAProxy, master and workers, as a crash would.
func (h *rig) kill() {
	for _, pid := range processesOf(h.config.RunDir) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_ = host.WaitExit(context.Background(), pid)
	}
}

// processesOf finds the HAProxy processes that were started with a path in their command line.
func processesOf(path string) []int {
	var out []int
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, line := range lines {
		raw, err := os.ReadFile(line)
		if err == nil && strings.Contains(string(raw), "haproxy") && strings.Contains(string(raw), path) {
			var pid int
			if _, err := fmt.Sscanf(line, "/proc/%d/cmdline", &pid); err == nil && pid != os.Getpid() {
				out = append(out, pid)
			}
		}
	}
	return out
}

// apply makes a pass that must succeed.
func (h *rig) apply(want []*catalog.Service) catalog.Report {
	h.t.Helper()
	r, err := h.driver.Apply(h.t.Context(), want)
	if err != nil {
		h.t.Fatalf("apply: %v", err)
	}
	return r
}

// mustBeSettled checks that a plan of everything is empty, and that the file on disk says what runs.
func (h *rig) mustBeSettled(want []*catalog.Service) {
	h.t.Helper()
	h.driver.Resync()
	r, err := h.driver.Plan(h.t.Context(), want)
	if err != nil {
		h.t.Fatal(err)
	}
	if len(r.Changes)+len(r.Reloads) > 0 {
		h.t.Fatalf("a second plan is not empty: %+v %q", r.Changes, r.Reloads)
	}
}

func freePorts(t testing.TB, n int) []uint16 {
	t.Helper()
	ports, err := freeport.Get(n)
	if err != nil {
		t.Fatal(err)
	}
	var out []uint16
	for _, port := range ports {
		out = append(out, uint16(port))
	}
	return out
}

// backend listens and answers each connection with its name.
func backend(t testing.TB, name string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, name)
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); group.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// ask connects to a service and gives what the backend answers; an error when it refuses.
func ask(port uint16) (string, error) {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return "", err
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

func service(port uint16, servers ...netip.AddrPort) *catalog.Service {
	s := &catalog.Service{Key: catalog.Key{Port: port, Proto: catalog.TCP}, Name: fmt.Sprintf("s%d.test", port), Source: "test", Mode: catalog.ModeTCP}
	for _, a := range servers {
		s.Servers = append(s.Servers, catalog.Server{Addr: a, Weight: catalog.DefaultWeight})
	}
	return s.Canonical()
}

func TestRealFirstLoadThenServersWithoutReload(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 2)
	a, b := backend(t, "a"), backend(t, "b")
	r := h.apply([]*catalog.Service{service(p[0], a)})
	if len(r.Reloads) != 0 {
		t.Fatalf("a first start counts as a reload: %q", r.Reloads)
	}
	mustAnswer(t, p[0], "a")
	want := []*catalog.Service{service(p[0], b)}
	r = h.apply(want)
	if len(r.Reloads) != 0 || len(r.Changes) != 2 {
		t.Fatalf("report %+v", r)
	}
	mustAnswer(t, p[0], "b")
	h.mustBeSettled(want)
	h.apply(nil)
	if got, err := ask(p[0]); err == nil {
		t.Fatalf("a removed service answers %q", got)
	}
	r = h.apply(want)
	if len(r.Reloads) != 0 {
		t.Fatalf("a service that came back needs a reload: %q", r.Reloads)
	}
	mustAnswer(t, p[0], "b")
	h.restart()
	h.mustBeSettled(want)
	h.kill()
	h.apply(want)
	mustAnswer(t, p[0], "b")
	if err := h.driver.file.flush(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("haproxy", "-c", "-f", h.config.ConfigFile).CombinedOutput()
	if err != nil {
		t.Fatalf("%s", out)
	}
}

// mustAnswer checks that a service gives a backend's name.
func mustAnswer(t *testing.T, port uint16, want string) {
	t.Helper()
	if got, err := ask(port); got != want {
		t.Errorf("service %d answers %q, %v, want %q", port, got, err, want)
	}
}

// mustNotFail ends a load, and checks that there was one and that nothing of it failed.
func mustNotFail(t *testing.T, load func() (n, failed int)) {
	t.Helper()
	if n, failed := load(); failed > 0 || n == 0 {
		t.Errorf("%d of %d requests failed", failed, n)
	}
}

func TestRealDriftIsRepairedAndTold(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 1)
	a, b := backend(t, "a"), backend(t, "b")
	want := []*catalog.Service{service(p[0], a)}
	h.apply(want)
	server := listenName(want[0]) + "/" + serverName(want[0].Servers[0])
	for _, command := range []string{"set server " + server + " weight 7", "disable frontend " + listenName(want[0])} {
		if _, err := h.driver.cli.do(t.Context(), []string{command}); err != nil {
			t.Fatal(err)
		}
	}
	h.driver.Resync()
	if r := h.apply(want); len(r.Drift) != 2 || len(r.Changes) != 2 {
		t.Errorf("drift %+v of changes %+v, want both changes", r.Drift, r.Changes)
	}
	mustAnswer(t, p[0], "a")
	h.driver.Resync()
	if r := h.apply([]*catalog.Service{service(p[0], b)}); len(r.Drift) != 0 || len(r.Changes) != 2 {
		t.Errorf("drift %+v of changes %+v, want no drift: the catalog changed", r.Drift, r.Changes)
	}
}
