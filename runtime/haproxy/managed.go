package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
)

// managed runs HAProxy as our own child, in master-worker mode and in a session of its own, so that it outlives us and is
// found again through its master socket.
type managed struct {
	config string // path of haproxy.cfg
	env    []string
	socket socket // the master's
	stats  socket // the worker's
	beside *atomic.Pointer[Beside]
	child  *child // that we started; nil when we found it running
	failed int    // failed reloads that the master had counted before ours; -1 is unknown
}

// child is an HAProxy that we started.
type child struct {
	ended atomic.Pointer[string] // how
}

func newManaged(config Config, beside *atomic.Pointer[Beside]) *managed {
	return &managed{config: config.ConfigFile, env: config.Env, socket: socket{filepath.Join(config.RunDir, "haproxy-master.sock")},
		stats: socket{config.Socket}, beside: beside, failed: -1}
}

func (m *managed) start(ctx context.Context) error {
	program, err := findHAProxy()
	if err != nil {
		return err
	}
	old := listening(m.socket.path, nil)
	if len(old) == 0 {
		m.clear(ctx)
	}
	m.failed = -1
	// Quiet: after the start HAProxy would tell each change a second time.
	cmd := exec.Command(program, "-W", "-q", "-S", m.socket.path+",mode,600", "-f", m.config)
	if other := m.beside.Load(); other != nil {
		cmd.Args = append(cmd.Args, "-x", other.Socket)
	}
	cmd.Stdout, cmd.Stderr, cmd.Env = os.Stderr, os.Stderr, m.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	started := &child{}
	m.child = started
	go func() { // ends with the child; nobody else reaps it
		text := fmt.Sprintf("haproxy ended: %v", cmd.Wait())
		started.ended.Store(&text)
	}()
	if len(old) > 0 {
		return m.replace(ctx, old)
	}
	return nil
}

// replace lets the workers of a deaf HAProxy end when their connections have, as soon as the new one answers: both listen
// until then, since HAProxy binds with SO_REUSEPORT.
func (m *managed) replace(ctx context.Context, old []int) error {
	if err := m.awaitOther(ctx, old); err != nil {
		return fmt.Errorf("start an HAProxy beside the one whose socket is gone: %w", err)
	}
	return letEnd(old)
}

// letEnd asks workers to end when their connections have.
func letEnd(workers []int) error {
	var errs []error
	for _, pid := range workers {
		if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("stop HAProxy %d, whose socket is gone: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// dismiss leaves alone what it cannot tell from the children of the worker's own master.
func (m *managed) dismiss(worker int, addrs []netip.AddrPort) error {
	master := host.Parent(worker)
	if master == 0 || len(addrs) == 0 || !host.CommandLineHas(worker, m.socket.path) {
		return nil
	}
	return letEnd(slices.DeleteFunc(listening(m.socket.path, addrs), func(pid int) bool {
		return pid == worker || pid == master || host.Parent(pid) == master
	}))
}

// awaitOther waits until another worker than the old ones answers: it has bound all ports. From 3.1 on the master tells of its worker
// before that.
func (m *managed) awaitOther(ctx context.Context, old []int) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	for {
		if answers, err := m.stats.do(ctx, []string{"show info"}); err == nil {
			if in, err := parseInfo(plain(answers[0])); err == nil && !in.stopping && !slices.Contains(old, in.pid) {
				return nil
			}
		}
		if err := m.refused(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// clear waits a moment for a master whose worker has died to end too, as it does by itself. One that was asked to stop may
// stay for as long as its connections: it listens no more, and is in nobody's way.
func (m *managed) clear(ctx context.Context) {
	cred, err := peer(m.socket.path)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = host.WaitExit(ctx, int(cred.Pid))
}

func (m *managed) deaf() bool { return len(listening(m.socket.path, nil)) > 0 }

// reload asks the master. 2.6 answers nothing and builds the worker later; from 2.7 on the answer is the verdict. The master
// cannot be reached while it executes itself anew, and a reload just after its start would kill it, so it must have told of
// its processes first.
func (m *managed) reload(ctx context.Context) error {
	text, err := m.showProc(ctx)
	if errors.Is(err, errDown) && m.deaf() {
		return m.start(ctx) // the master's socket is gone: only another HAProxy, beside it, can be told anything
	}
	if errors.Is(err, errDown) {
		return errors.New("the running HAProxy was not started by proxymatic: stop it, or give --haproxy-start and --haproxy-reload commands for it")
	}
	if err != nil {
		return fmt.Errorf("ask HAProxy's master for a reload: %w", err)
	}
	if m.child != nil && m.child.ended.Load() != nil {
		m.child = nil // somebody else has started the one that runs
	}
	m.failed = max(0, failedReloads(text))
	answer, err := m.socket.master(ctx, "reload")
	if err != nil {
		return fmt.Errorf("ask HAProxy's master for a reload: %w", err)
	}
	if strings.Contains(answer, "Success=0") {
		return &refusedError{"HAProxy refuses the configuration", answer}
	}
	return nil
}

// showProc gets the master's list of processes, waiting for a master that cannot answer yet.
func (m *managed) showProc(ctx context.Context) (string, error) {
	deadline := time.Now().Add(5 * time.Second)
	for {
		text, err := m.socket.master(ctx, "show proc")
		if err == nil && strings.Contains(text, "worker") {
			return text, nil
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("it does not answer `show proc` on %s: %w", m.socket.path, err)
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// elders asks the master, whose list is right in other containers too. It cannot be reached for a moment after each reload.
func (m *managed) elders(ctx context.Context, serves int) ([]int, error) {
	text, err := m.socket.master(ctx, "show proc")
	if err == nil && !strings.Contains(text, "worker") {
		err = errUnanswered
	}
	return oldWorkers(text, serves), err
}

func (m *managed) end(worker int) error { return endWorker(worker, m.config) }

// failedReloads reads the "[failed: N]" of `show proc`; -1 when there is none.
func failedReloads(text string) int {
	_, rest, ok := strings.Cut(text, "[failed: ")
	digits, _, _ := strings.Cut(rest, "]")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil {
		return -1
	}
	return n
}

func (m *managed) refused(ctx context.Context) error {
	if m.child != nil {
		if text := m.child.ended.Load(); text != nil {
			return errors.New(*text)
		}
	}
	if m.failed < 0 {
		return nil
	}
	text, err := m.socket.master(ctx, "show proc")
	if err != nil {
		return nil // the master is executing itself anew
	}
	switch n := failedReloads(text); {
	case n > m.failed:
		return errors.New("HAProxy's master counts a failed reload")
	case n < 0 && workerless(text):
		return errors.New("HAProxy's master has no new worker after a reload")
	}
	return nil
}

// workerless reports whether a list of processes has no worker but old ones. 2.2 counts no failed reloads; after one its master
// lists the worker that goes on serving as an old one.
func workerless(text string) bool {
	_, rest, ok := strings.Cut(text, "# workers\n")
	return ok && (rest == "" || rest[0] == '#')
}

// binder is the user of the running master, or our own.
func (m *managed) binder() (int, bool) {
	if cred, err := peer(m.socket.path); err == nil {
		return int(cred.Uid), true
	}
	return os.Geteuid(), true
}

// stop asks again and again: a signal is lost while the master executes itself anew. At ctx's deadline the connections that are
// left are cut; a ctx that was cancelled leaves them to HAProxy, which was asked.
func (m *managed) stop(ctx context.Context) error {
	if _, err := peer(m.socket.path); errors.Is(err, errDown) && !m.deaf() {
		return nil
	}
	if _, err := m.showProc(ctx); err != nil {
		return fmt.Errorf("stop HAProxy's master: %w", err)
	}
	cred, err := peer(m.socket.path)
	if err != nil {
		return fmt.Errorf("stop HAProxy's master: %w", err)
	}
	pid := int(cred.Pid)
	if pid == 0 {
		return fmt.Errorf("stop HAProxy's master: the one that answers on %s cannot be seen from here; end its container", m.socket.path)
	}
	for ctx.Err() == nil {
		err := syscall.Kill(pid, syscall.SIGUSR1)
		if errors.Is(err, syscall.ESRCH) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("stop HAProxy's master %d: %w", pid, err)
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		if err = host.WaitExit(short, pid); err == nil {
			cancel()
			return nil
		}
		<-short.Done()
		cancel()
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("end HAProxy's master %d: %w", pid, err)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return host.WaitExit(last, pid)
}
