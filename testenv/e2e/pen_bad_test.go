package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/runtime/reconcile"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

// udpListen takes a UDP port as another program would.
func (w world) udpListen(port int) *net.UDPConn {
	w.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	w.must(err)
	w.Cleanup(func() { _ = conn.Close() })
	return conn
}

// whileGood lets clients use some UDP services while others meet what do does, and checks that none of them lost a datagram.
func (w world) whileGood(ports []int, do func()) {
	w.Helper()
	flows := w.flows(ports, 20, 400)
	began := time.Now()
	do()
	w.udpServed(ports...)
	w.must(flows.Wait(w.patient(), 100))
	w.lossless(flows, began)
}

func TestTakenPortCostsOnlyItsUDPService(t *testing.T) {
	w := newPenWorld(t)
	others := w.udpServices(2, 2)
	w.startPen()
	w.whileGood(others, func() {
		port := w.ports(1)[0]
		thief := w.udpListen(port)
		w.must(w.site.AddUDPService(port, 1))
		w.penSays(fmt.Sprintf("%d/udp", port), fmt.Sprint(os.Getpid()))
		for _, other := range others {
			w.addUDPTask(other)
		}
		good := w.udpServices(1, 1)
		w.udpServed(good...)
		w.must(thief.Close())
		w.udpServed(port)
		w.penProblemsEnd()
	})
	w.penSettled()
}

func TestPenThatIsNotInstalledIsNamed(t *testing.T) {
	w := worldWith(t, "haproxy", "pen")
	bin := w.host.Path("bin")
	w.must(os.Mkdir(bin, 0o755))
	link(w, "haproxy", bin)
	w.host.Env = []string{"PATH=" + bin}
	tcp := w.services(1, 1)[0]
	udp := w.udpServices(1, 1)[0]
	w.must(w.host.Start("--marathon", w.site.URL))
	w.served(tcp)
	w.must(stage.Until(w.patient(), func() error {
		s, err := w.host.Status(w.Context())
		if err == nil && !strings.Contains(fmt.Sprint(s.Problems, s.Drivers), "pen is not installed") {
			err = fmt.Errorf("the status does not say that pen is not installed: %+v", s)
		}
		return err
	}))
	w.must(inLog(w.host.Log(), []string{"pen is not installed"}))
	link(w, "pen", bin)
	w.udpServed(udp)
	w.penProblemsEnd()
}

// link puts a program into a directory.
func link(w world, program, dir string) {
	w.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		path = "/usr/sbin/" + program
	}
	w.must(os.Symlink(path, filepath.Join(dir, program)))
}

func TestUnknownPenUserIsNamed(t *testing.T) {
	asRoot(t)
	w := newPenWorld(t)
	port := w.udpServices(1, 1)[0]
	w.startPen("--pen-user", "no-such-user")
	w.penSays("", "no-such-user", "--pen-user")
	w.udpServed(port)
	if uid := w.uid(w.pen(port).PID); uid == 0 {
		t.Error("pen runs as root, since the user that it should be does not exist")
	}
}

// asRoot skips a test that only root can run.
func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		unavailable(t, "only root can do this")
	}
}

// uid is the user of a process.
func (w world) uid(pid int) int {
	w.Helper()
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	w.must(err)
	return int(info.Sys().(*syscall.Stat_t).Uid)
}

func TestMoreBackendsThanPenServersAreNamed(t *testing.T) {
	w := newPenWorld(t)
	large, small := w.udpServices(1, 6)[0], w.udpServices(1, 2)[0]
	w.must(w.host.Start("--marathon", w.site.URL, "--pen-servers", "4"))
	w.penSays(fmt.Sprintf("%d/udp", large), "--pen-servers", "6", "4")
	w.udpServed(large, small)
	running, err := w.host.PenServers("udp")
	w.must(err)
	if n := len(running[large]); n != 4 {
		t.Errorf("%d servers, want 4", n)
	}
	w.whileGood([]int{small}, func() {
		for _, task := range w.site.UDPTasks(large)[:3] {
			w.site.RemoveTask(task, 0)
		}
		w.penSettled()
		w.penProblemsEnd()
	})
	w.quiet()
}

// othersWait is how long a pen that hangs may hold up changes of the others, which wait for the end of a pass: pen is given a second
// to answer, and what was seen may be looked at again.
const othersWait = 3 * time.Second

// A pen that is stopped takes connections to its socket and answers nothing.
func TestPenThatHangsCostsOnlyItsService(t *testing.T) {
	w := newPenWorld(t)
	ports := w.udpServices(3, 2)
	w.startPen()
	hung := w.pen(ports[0])
	w.must(stage.Freeze(w.patient(), hung.PID))
	defer func() { _ = syscall.Kill(hung.PID, syscall.SIGCONT) }() // it may have been replaced
	w.whileGood(ports[1:], func() {
		began := time.Now()
		for _, port := range ports {
			w.addUDPTask(port)
		}
		w.must(stage.Until(w.patient(), func() error {
			for _, port := range ports[1:] {
				text, err := w.pen(port).Ask("servers")
				if err != nil || !strings.Contains(text, strings.Split(w.site.UDPTasks(port)[2].Addr, ":")[1]) {
					return fmt.Errorf("%d lacks its new task: %q, %v", port, text, err)
				}
			}
			return nil
		}))
		took := time.Since(began)
		t.Logf("the others had their new tasks after %s", took)
		if took > othersWait {
			t.Errorf("a pen that hangs held the other services up for %s, want at most %s", took, othersWait)
		}
		w.must(stage.Until(w.patient(), func() error {
			changes, err := w.host.Changes(w.Context())
			if err == nil && !slices.ContainsFunc(changes.Changes, func(c reconcile.AppliedChange) bool {
				return strings.Contains(c.Service, fmt.Sprintf("%d/udp", ports[0])) && strings.Contains(c.Detail, "does not answer")
			}) {
				err = fmt.Errorf("no change tells that the pen of %d hung: %+v", ports[0], changes)
			}
			return err
		}))
		w.must(inLog(w.host.Log(), []string{"does not answer", fmt.Sprintf("%d/udp", ports[0])}))
		_ = syscall.Kill(hung.PID, syscall.SIGCONT) // it was replaced
		w.penSettled()
		w.udpServed(ports[0])
		w.penProblemsEnd()
	})
	w.quiet()
}

func TestPenThatDiesAtTheStartIsTriedAgain(t *testing.T) {
	w := newPenWorld(t)
	bad, good := w.udpServices(1, 1)[0], w.udpServices(2, 1)
	bin, starts, cured := w.host.Path("bin"), w.host.Path("starts"), w.host.Path("cured")
	w.must(os.Mkdir(bin, 0o755))
	w.must(os.WriteFile(starts, nil, 0o666))
	w.must(os.Chmod(starts, 0o666))
	real, err := exec.LookPath("pen")
	w.must(err)
	w.must(os.WriteFile(filepath.Join(bin, "pen"), fmt.Appendf(nil, `#!/bin/sh
case "$*" in *:%d)
	if [ ! -e %s ]; then echo x >> %s; echo "a broken library" >&2; exit 3; fi;;
esac
exec %s "$@"
`, bad, cured, starts, real), 0o755))
	w.host.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	w.must(w.host.Start("--marathon", w.site.URL))
	w.udpServed(good...)
	w.whileGood(good, func() {
		w.penSays(fmt.Sprintf("%d/udp", bad), "a broken library")
		time.Sleep(3 * time.Second) // for it to be tried again
		w.addUDPTask(good[0])
		w.must(stage.Until(w.patient(), func() error {
			text, err := w.pen(good[0]).Ask("servers")
			if err == nil && !strings.Contains(text, strings.Split(w.site.UDPTasks(good[0])[1].Addr, ":")[1]) {
				err = fmt.Errorf("the new task is not there: %s", text)
			}
			return err
		}))
		raw, err := os.ReadFile(starts)
		w.must(err)
		if n := strings.Count(string(raw), "x"); n < 2 || n > 10 {
			t.Errorf("pen was started %d times in some 3 s, want 2 to 10", n)
		}
		w.must(os.WriteFile(cured, nil, 0o644))
		w.udpServed(bad)
		w.penProblemsEnd()
	})
	w.quiet()
}

// A pen that was started by hand, or by a proxymatic that is gone, with other options or for another file, must not serve beside ours.
func TestStrayPenIsEnded(t *testing.T) {
	w := newPenWorld(t)
	port := w.udpServices(1, 1)[0]
	w.startPen()
	w.host.Kill()
	pen := w.pen(port)
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pen.PID))
	w.must(err)
	args := strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
	stray := exec.Command(args[0], args[1:]...)
	stray.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		stray.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(w.uid(pen.PID)), Gid: uint32(w.uid(pen.PID))}
	}
	w.must(stray.Start())
	ended := make(chan struct{})
	go func() { _ = stray.Wait(); close(ended) }() // it is killed
	defer func() { <-ended }()
	defer func() { _ = stray.Process.Kill() }() // it should have ended
	w.must(stage.Until(w.patient(), func() error {
		if n := len(w.host.Pens()); n != 2 {
			return fmt.Errorf("%d pens run, want the stray one too", n)
		}
		return nil
	}))
	w.startPen()
	w.udpServed(port)
	w.quiet()
}

func TestRefusedTemplateIsNamed(t *testing.T) {
	w := newPenWorld(t)
	w.udpServices(1, 1)
	template := w.host.Path("pen.cfg.tpl")
	for _, line := range []string{"listen 80", "no acl", "source 10.0.0.1", "server 5 address example.com port 53", "log /dev/null"} {
		w.must(os.WriteFile(template, []byte("{{range .Servers}}{{.Line}}\n{{end}}"+line+"\n"), 0o644))
		out, err := w.host.Command(w.patient(), w.host.Flags("--marathon", w.site.URL, "--pen-template", template)...)
		w.must(err)
		w.says(out, 1, template, line)
	}
	w.must(os.WriteFile(template, []byte("# {{.Name}}\nblacklist 7\n{{range .Servers}}{{.Line}}\n{{end}}"), 0o644))
	w.startPen("--pen-template", template)
	w.udpServed(w.site.UDPPorts()...)
}

func TestUDPOnAnIPv6AddressIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		unavailable(t, "there is no IPv6 here")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	w := newPenWorld(t)
	udp, tcp := w.udpServices(1, 1)[0], w.services(1, 1)[0]
	w.must(w.host.Start("--marathon", w.site.URL, "--bind-address", "::1"))
	w.penSays(fmt.Sprintf("%d/udp", udp), "IPv6")
	w.must(stage.Until(w.patient(), func() error {
		conn, err := net.Dial("tcp", fmt.Sprintf("[::1]:%d", tcp))
		if err == nil {
			err = conn.Close()
		}
		return err
	}))
}

// setpriv starts proxymatic as an unprivileged user.
func (w world) setpriv() {
	w.Helper()
	asRoot(w.T)
	if _, err := exec.LookPath("setpriv"); err != nil {
		unavailable(w.T, "setpriv is not installed")
	}
	w.must(os.Chown(w.host.Dir, 65534, 65534))
	w.host.Prefix = append(w.host.Prefix, "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
}

func TestWithoutRootPenIsWhoWeAre(t *testing.T) {
	w := newPenWorld(t)
	w.setpriv()
	port := w.udpServices(1, 2)[0]
	w.startPen("--pen-user", "daemon")
	w.penSays("", "daemon", "--pen-user")
	if uid := w.uid(w.pen(port).PID); uid != 65534 {
		t.Errorf("pen is user %d", uid)
	}
	w.whileGood([]int{port}, func() {
		w.addUDPTask(port)
		w.penSettled()
	})
}

// A pen that has no descriptor left exits.
func TestTooFewOpenFilesAreNamed(t *testing.T) {
	w := newPenWorld(t)
	if _, err := exec.LookPath("prlimit"); err != nil {
		unavailable(t, "prlimit is not installed")
	}
	w.host.Prefix = []string{"prlimit", "--nofile=1024:1024"}
	w.setpriv()
	port := w.udpServices(1, 2)[0]
	w.startPen("--pen-clients", "4096")
	w.penSays("", "--pen-clients", "open files")
	pens := w.host.Pens()
	flows := w.flows([]int{port}, 700, 2000)
	w.must(flows.Wait(w.patient(), 2000))
	r := flows.Stop()
	t.Logf("700 flows: %d of %d datagrams lost", len(r.Lost(time.Time{})), r.Sent(time.Time{}))
	w.samePens(pens)
	w.udpServed(port)
}
