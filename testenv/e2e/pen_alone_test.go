package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// aloneEnv is set in a process that runs one test alone.
const aloneEnv = "PROXYMATIC_E2E_ALONE"

// alone runs the calling test in a process with network, mounts and process ids of its own. It gives true there, and false, when that
// test has ended, in the process that called it first.
func alone(t *testing.T) bool {
	t.Helper()
	if testing.Short() && os.Getenv("CI") == "" {
		t.Skip("takes seconds, and real proxies")
	}
	if os.Getenv(aloneEnv) == t.Name() {
		if err := settleAlone(); err != nil {
			t.Fatal(err)
		}
		return true
	}
	asRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), aloneEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("in namespaces of its own:\n%s", out)
	if err != nil {
		t.Error(err)
	}
	return false
}

// settleAlone makes the namespaces a machine: it has a loopback device, and its own processes, /run and /var/lib.
func settleAlone() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for dir, kind := range map[string]string{"/proc": "proc", "/run": "tmpfs", "/var/lib": "tmpfs"} {
		if err := unix.Mount("none", dir, kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("start lo: %w", err)
	}
	return nil
}

// The command line of the Python version, with nothing but its URL, on a machine of its own.
func TestPlainCommandLine(t *testing.T) {
	fullSpeed(t)
	if !alone(t) {
		return
	}
	w := newPenWorld(t)
	w.host.RunDir, w.host.StatusAddr = "/run/proxymatic", "127.0.0.1:9090"
	w.host.Env = []string{"PATH=" + os.Getenv("PATH")}
	start := func() {
		t.Helper()
		w.must(w.host.StartAs("-m", w.site.URL))
		w.must(w.host.Ready(w.patient()))
		w.penSettled()
	}
	ports := w.services(3, 2)
	udp := w.udpServices(1, 2)[0]
	start()
	pens := w.host.Pens()
	if len(pens) != 4 {
		t.Fatalf("pens %+v, want one for each of 4 services", pens)
	}
	for _, p := range pens {
		if w.uid(p.PID) == 0 {
			t.Errorf("pen %d runs as root", p.PID)
		}
	}
	load, flows := w.load(ports, 300), w.flows([]int{udp}, 20, 400)
	began := time.Now()
	for range 10 {
		for _, port := range ports {
			w.site.RemoveTask(w.site.Tasks(port)[0], lateness)
			_, err := w.site.AddTask(port)
			w.must(err)
		}
		w.addUDPTask(udp)
		w.must(load.WaitRequests(w.patient(), 50))
	}
	w.penSettled()
	w.faultless(load) // a change is told when its pass ends, and passes wait until flows have moved
	load = w.load(ports, 300)
	w.host.Kill()
	start()
	w.must(load.WaitRequests(w.patient(), 100))
	w.flawless(load)
	w.lossless(flows, began)
	w.samePens(pens)
}

func TestPenBindsALowPortWithoutRoot(t *testing.T) {
	if !alone(t) {
		return
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("1024"), 0o644); err != nil {
		t.Fatal(err)
	}
	w := newPenWorld(t)
	w.must(w.site.AddUDPService(53, 2))
	w.must(w.site.AddService(53, 2))
	w.startPen()
	w.udpServed(53)
	w.served(53)
	for _, proto := range []catalog.Proto{catalog.UDP, catalog.TCP} {
		pen := w.penOf(proto, 53)
		if uid := w.uid(pen.PID); uid != 65534 {
			t.Errorf("pen of 53/%s is user %d, want nobody", proto, uid)
		}
		if caps := w.capabilities(pen.PID); caps != 1<<unix.CAP_NET_BIND_SERVICE {
			t.Errorf("pen of 53/%s has capabilities %#x, want CAP_NET_BIND_SERVICE alone", proto, caps)
		}
	}
	w.whileGood([]int{53}, func() {
		w.addUDPTask(53)
		w.penSettled()
	})
}

// capabilities gives what a process may do beyond its user's rights, a bit for each.
func (w world) capabilities(pid int) uint64 {
	w.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	w.must(err)
	_, rest, _ := strings.Cut(string(raw), "\nCapEff:\t")
	digits, _, _ := strings.Cut(rest, "\n")
	bits, err := strconv.ParseUint(digits, 16, 64)
	w.must(err)
	return bits
}
