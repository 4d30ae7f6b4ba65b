package haproxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// managed runs HAProxy as our own child, in master-worker mode and in a session of its own, so that it outlives us and is
// found again through its master socket.
type managed struct {
	config string // path of haproxy.cfg
	socket socket // the master's
	exited atomic.Pointer[string]
	failed int // failed reloads that the master had counted before ours; -1 is unknown
}

func newManaged(config, runDir string) *managed {
	return &managed{config: config, socket: socket{filepath.Join(runDir, "haproxy-master.sock")}, failed: -1}
}

func (m *managed) start(ctx context.Context) error {
	program, err := findHAProxy()
	if err != nil {
		return err
	}
	if err := m.clear(ctx); err != nil {
		return err
	}
	m.failed = -1
	// Quiet: after the start HAProxy would tell each change a second time.
	cmd := exec.Command(program, "-W", "-q", "-S", m.socket.path+",mode,600", "-f", m.config)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	m.exited.Store(nil)
	go func() { // ends with the child; nobody else reaps it
		err := cmd.Wait()
		text := fmt.Sprintf("haproxy ended: %v", err)
		m.exited.Store(&text)
	}()
	return nil
}

// clear waits for a master whose worker has died to end too, as it does by itself, and ends it when it does not.
func (m *managed) clear(ctx context.Context) error {
	cred, err := peer(m.socket.path)
	if err != nil || !m.ours(int(cred.Pid)) {
		return nil
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if waitExit(short, int(cred.Pid)) == nil {
		return nil
	}
	if err := syscall.Kill(int(cred.Pid), syscall.SIGKILL); err != nil {
		return fmt.Errorf("end HAProxy's master %d, whose worker has died: %w", cred.Pid, err)
	}
	return waitExit(ctx, int(cred.Pid))
}

// ours reports whether a process is a master that was started with our socket.
func (m *managed) ours(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(raw), m.socket.path)
}

// reload asks the master. 2.6 answers nothing and builds the worker later; from 2.7 on the answer is the verdict. The master
// cannot be reached while it executes itself anew, and a reload just after its start would kill it, so it must have told of
// its processes first.
func (m *managed) reload(ctx context.Context) error {
	text, err := m.showProc(ctx)
	if errors.Is(err, errDown) {
		return errors.New("the running HAProxy was not started by proxymatic: stop it, or give --haproxy-start and --haproxy-reload commands for it")
	}
	if err != nil {
		return fmt.Errorf("ask HAProxy's master for a reload: %w", err)
	}
	m.failed = failedReloads(text)
	answer, err := m.socket.master(ctx, "reload")
	if err != nil {
		return fmt.Errorf("ask HAProxy's master for a reload: %w", err)
	}
	if strings.Contains(answer, "Success=0") {
		return fmt.Errorf("HAProxy refuses the configuration: %s", complaints(answer))
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
	if text := m.exited.Load(); text != nil {
		return fmt.Errorf("%s", *text)
	}
	if m.failed < 0 {
		return nil
	}
	text, err := m.socket.master(ctx, "show proc")
	if err != nil {
		return nil // the master is executing itself anew
	}
	if n := failedReloads(text); n > m.failed {
		return fmt.Errorf("HAProxy's master counts a failed reload")
	}
	return nil
}

// binder is the user of the running master, or our own.
func (m *managed) binder() (int, bool) {
	if cred, err := peer(m.socket.path); err == nil {
		return int(cred.Uid), true
	}
	return os.Geteuid(), true
}

// stop asks again and again: a signal is lost while the master executes itself anew.
func (m *managed) stop(ctx context.Context) error {
	if _, err := m.showProc(ctx); err != nil {
		return fmt.Errorf("stop HAProxy's master: %w", err)
	}
	cred, err := peer(m.socket.path)
	if err != nil {
		return fmt.Errorf("stop HAProxy's master: %w", err)
	}
	pid := int(cred.Pid)
	for ctx.Err() == nil {
		err := syscall.Kill(pid, syscall.SIGUSR1)
		if errors.Is(err, syscall.ESRCH) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("stop HAProxy's master %d: %w", pid, err)
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		err = waitExit(short, pid)
		cancel()
		if err == nil {
			return nil
		}
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("end HAProxy's master %d: %w", pid, err)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return waitExit(last, pid)
}
