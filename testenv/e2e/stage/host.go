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
	"strings"
	"syscall"
	"time"

	"github.com/meltwater/proxymatic/runtime/status"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// Host is a machine with proxymatic on it: its directory, its proxymatic and the HAProxy that this starts. It is for one
// goroutine, apart from Status and what reads HAProxy.
type Host struct {
	Dir        string   // for everything; its path is short, since sockets lie in it
	Binary     string   // proxymatic's program
	StatusAddr string   // where the status endpoint listens
	Env        []string // of proxymatic; nil means ours

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
	return &Host{Dir: dir, Binary: binary, StatusAddr: fmt.Sprintf("127.0.0.1:%d", port[0])}, nil
}

// Path gives the path of a file in the host's directory.
func (h *Host) Path(name string) string { return filepath.Join(h.Dir, name) }

// Config is the path of haproxy.cfg.
func (h *Host) Config() string { return h.Path("haproxy.cfg") }

// Flags gives the flags that put everything into the host's directory, then more; of a flag that is there twice, the last
// counts.
func (h *Host) Flags(more ...string) []string {
	return append([]string{"--haproxy", "--haproxy-start", "managed", "--haproxy-reload", "managed", "--run-dir", h.Dir,
		"--state-dir", h.Path("state"), "--haproxy-config", h.Config(), "--haproxy-socket", h.Path("haproxy.sock"),
		"--status-endpoint", h.StatusAddr, "--bind-address", "127.0.0.1"}, more...)
}

// Start starts proxymatic. What it and HAProxy say goes to the file that Log reads: a pipe would break when one of them
// outlives the other.
func (h *Host) Start(flags ...string) error {
	log, err := os.OpenFile(h.Path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(h.Binary, h.Flags(flags...)...)
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
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, line := range lines {
		raw, _ := os.ReadFile(line) // it may have ended meanwhile
		name, _ := os.ReadFile(filepath.Join(filepath.Dir(line), "comm"))
		var pid int
		if _, err := fmt.Sscanf(line, "/proc/%d/cmdline", &pid); err != nil || strings.TrimSpace(string(name)) != "haproxy" {
			continue
		}
		for word := range strings.SplitSeq(string(raw), "\x00") {
			if strings.HasPrefix(word, h.Dir+"/") {
				out = append(out, pid)
				break
			}
		}
	}
	return out
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
	for len(h.HAProxy()) > 0 {
		if time.Now().After(deadline) {
			return fmt.Errorf("HAProxy processes %v do not end", h.HAProxy())
		}
		h.KillHAProxy()
		time.Sleep(5 * time.Millisecond)
	}
	return os.RemoveAll(h.Dir)
}

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
