// Package stage is what end-to-end tests, benchmarks and the demo play on: a host with the real proxymatic and a real HAProxy
// in a directory of its own, a cluster that is a fake Marathon with real backends, and clients.
package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meltwater/proxymatic/runtime/status"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// Host is a machine with proxymatic on it: its directory, its proxymatic and the HAProxy and pens that this starts. It is for one
// goroutine, apart from Status and what reads HAProxy or pen.
type Host struct {
	Dir        string   // for everything; its path is short, since sockets lie in it
	Binary     string   // proxymatic's program
	StatusAddr string   // where the status endpoint listens
	Env        []string // of proxymatic; nil means ours
	RunDir     string   // of proxymatic; Dir unless it is changed
	NoHAProxy  bool     // leave out --haproxy, so that pen gets the TCP services too
	Prefix     []string // a command that proxymatic is started by, which ends in executing it
	Contained  bool     // proxymatic is the first of processes that see no others, and that end with it, as in a container; needs root

	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
}

// NewHost gives a host on which nothing runs yet. Close ends and removes everything.
func NewHost(binary string) (*Host, error) {
	dir, err := os.MkdirTemp("", "pm")
	if err != nil {
		return nil, err
	}
	// HAProxy becomes another user where it is started as root, and must still reach what lies here.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	port, err := freeport.Get(1)
	if err != nil {
		return nil, err
	}
	return &Host{Dir: dir, RunDir: dir, Binary: binary, StatusAddr: fmt.Sprintf("127.0.0.1:%d", port[0])}, nil
}

// Path gives the path of a file in the host's directory.
func (h *Host) Path(name string) string { return filepath.Join(h.Dir, name) }

// Config is the path of haproxy.cfg.
func (h *Host) Config() string { return h.Path("haproxy.cfg") }

// Flags gives the flags that put everything into the host's directory and take no server for one that flaps, then more; of a flag
// that is there twice, the last counts.
func (h *Host) Flags(more ...string) []string {
	flags := []string{"--run-dir", h.RunDir, "--state-dir", h.Path("state"), "--status-endpoint", h.StatusAddr,
		"--bind-address", "127.0.0.1", "--pen-user", penUser(), "--flap-limit", "0"}
	if !h.NoHAProxy {
		flags = append(flags, "--haproxy", "--haproxy-start", "managed", "--haproxy-reload", "managed",
			"--haproxy-config", h.Config(), "--haproxy-socket", h.Path("haproxy.sock"))
	}
	return append(flags, more...)
}

// Start starts proxymatic with Flags. What it and HAProxy say goes to the file that Log reads: a pipe would break when one of
// them outlives the other.
func (h *Host) Start(flags ...string) error { return h.StartAs(h.Flags(flags...)...) }

// StartAs starts proxymatic with just these arguments.
func (h *Host) StartAs(args ...string) error {
	log, err := os.OpenFile(h.Path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	words := slices.Concat(h.Prefix, []string{h.Binary}, args)
	cmd := exec.Command(words[0], words[1:]...)
	if h.Contained {
		words = append([]string{"sh", "-c", `mount --make-rprivate / && mount -t proc proc /proc && exec "$@"`, "sh"}, words...)
		cmd = exec.Command(words[0], words[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	}
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, h.Env
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", h.Binary, err)
	}
	exited := make(chan struct{})
	h.cmd, h.exited = cmd, exited
	go func() {
		_ = cmd.Wait() // the state of the process tells the same
		close(exited)
	}()
	return nil
}

// Log gives what proxymatic and HAProxy have said so far.
func (h *Host) Log() string {
	raw, _ := os.ReadFile(h.Path("log")) // before a start there is none
	return string(raw)
}

// Pid is proxymatic's process.
func (h *Host) Pid() int { return h.cmd.Process.Pid }

// Signal sends a signal to proxymatic.
func (h *Host) Signal(sig os.Signal) error { return h.cmd.Process.Signal(sig) }

// Wait waits for proxymatic's end and gives its exit code, -1 when a signal ended it.
func (h *Host) Wait(ctx context.Context) (int, error) {
	select {
	case <-h.exited:
		return h.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("proxymatic did not end: %w", ctx.Err())
	}
}

// Kill ends proxymatic as kill -9 does, if it runs, and waits for it. HAProxy goes on.
func (h *Host) Kill() {
	if h.cmd != nil {
		_ = h.cmd.Process.Kill() // it may have ended by itself
		<-h.exited
	}
}

// HAProxy gives the processes of this host's HAProxy, master and workers.
func (h *Host) HAProxy() []int {
	var out []int
	for _, p := range h.processes("haproxy") {
		out = append(out, p.PID)
	}
	return out
}

// process is a running process of this host.
type process struct {
	PID  int
	Args []string
}

// processes gives those of a program that name something in the host's directories, in this network namespace: another one may
// have a host with the same run directory.
func (h *Host) processes(program string) []process {
	own, _ := os.Readlink("/proc/self/ns/net")
	var out []process
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, line := range lines {
		raw, _ := os.ReadFile(line) // it may have ended meanwhile, as may happen at each step
		name, _ := os.ReadFile(filepath.Join(filepath.Dir(line), "comm"))
		if strings.TrimSpace(string(name)) != program {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(line)))
		namespace, _ := os.Readlink(filepath.Join(filepath.Dir(line), "ns", "net"))
		args := strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
		if err == nil && namespace == own && slices.ContainsFunc(args, h.owns) {
			out = append(out, process{pid, args})
		}
	}
	return out
}

// CPU is the time that a process has spent so far, in steps of 10 ms.
func CPU(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), ") ") // the program's name may hold blanks
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("process %d: %q", pid, raw)
	}
	user, userErr := strconv.Atoi(f[11])
	system, err := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(userErr, err)
}

// Freeze stops a process and waits until all its threads stand still: one that runs may go on for a moment when the machine is busy.
func Freeze(ctx context.Context, pid int) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	return Until(ctx, func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, thread := range threads {
			raw, _ := os.ReadFile(thread) // it may have ended meanwhile
			if _, rest, _ := strings.Cut(string(raw), ") "); rest != "" && rest[0] != 'T' {
				return fmt.Errorf("process %d does not stand still: %s", pid, raw)
			}
		}
		return err
	})
}

// owns tells whether a word of a command line is a path in the host's directories.
func (h *Host) owns(word string) bool {
	return strings.HasPrefix(word, h.Dir+"/") || strings.HasPrefix(word, h.RunDir+"/")
}

// KillHAProxy ends HAProxy as kill -9 of all its processes does, master and workers.
func (h *Host) KillHAProxy() {
	for _, pid := range h.HAProxy() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// Close ends everything that runs on the host and removes its directory.
func (h *Host) Close() error {
	h.Kill()
	deadline := time.Now().Add(10 * time.Second)
	for left := h.proxies(); len(left) > 0; left = h.proxies() {
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", left)
		}
		for _, p := range left {
			_ = syscall.Kill(p.PID, syscall.SIGKILL) // it may have ended meanwhile
		}
		time.Sleep(5 * time.Millisecond)
	}
	_ = unix.Unmount(h.Dir, unix.MNT_DETACH) // a disk that a test may have given it
	return os.RemoveAll(h.Dir)
}

// proxies gives the processes of HAProxy and pen.
func (h *Host) proxies() []process { return append(h.processes("haproxy"), h.processes("pen")...) }

// Output is what a command left.
type Output struct {
	Code           int
	Stdout, Stderr string
}

// Command runs a command of proxymatic to its end, beside or without a run.
func (h *Host) Command(ctx context.Context, args ...string) (Output, error) {
	var out, errs strings.Builder
	cmd := exec.CommandContext(ctx, h.Binary, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &errs, h.Env
	err := cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) && ctx.Err() == nil {
		err = nil
	}
	return Output{cmd.ProcessState.ExitCode(), out.String(), errs.String()}, err
}

// Get asks the status endpoint and gives the answer's status and body.
func (h *Host) Get(ctx context.Context, path string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.StatusAddr+path, nil)
	if err != nil {
		return 0, "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// Status gives the answer of /api/v1/status.
func (h *Host) Status(ctx context.Context) (status.StatusJSON, error) {
	var s status.StatusJSON
	_, body, err := h.Get(ctx, "/api/v1/status")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(body), &s)
}

// Changes gives the answer of /api/v1/changes: what proxymatic has done, and when.
func (h *Host) Changes(ctx context.Context) (status.ChangesJSON, error) {
	var c status.ChangesJSON
	_, body, err := h.Get(ctx, "/api/v1/changes")
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal([]byte(body), &c)
}

// Until calls try, soon again, until it gives no error or ctx ends; then it gives try's last error.
func Until(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Ready waits until proxymatic has applied everything.
func (h *Host) Ready(ctx context.Context) error {
	return Until(ctx, func() error {
		code, body, err := h.Get(ctx, "/readyz")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("not ready: %s", body)
		}
		return err
	})
}
