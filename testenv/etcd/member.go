package etcd

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Member is one server of a cluster.
type Member struct {
	program, name string
	addr, peerURL string
	data, log     string
	args          []string
	secure        *tls.Config // of its clients; nil without TLS

	process *os.Process
	exited  chan struct{} // closed when process has ended
}

// URL is where the member listens for clients.
func (m *Member) URL() string {
	if m.secure != nil {
		return "https://" + m.addr
	}
	return "http://" + m.addr
}

// Pid is the member's process, to be stopped and continued for instance; it is for a member that was not killed.
func (m *Member) Pid() int { return m.process.Pid }

// Log gives what the member has said so far, over all its lives.
func (m *Member) Log() string {
	raw, _ := os.ReadFile(m.log) // before the first start there is none
	return string(raw)
}

// Kill ends the member as kill -9 does, if it runs, and waits for it.
func (m *Member) Kill() {
	if m.process != nil {
		_ = m.process.Kill() // it may have ended by itself
		<-m.exited
		m.process = nil
	}
}

// Restart starts the member, if it does not run, with the data that it had and waits until it is healthy, which a member
// is only in a cluster with a quorum.
func (m *Member) Restart(ctx context.Context) error {
	if err := m.start(); err != nil {
		return err
	}
	return m.healthy(ctx)
}

func (m *Member) running() bool {
	if m.process == nil {
		return false
	}
	select {
	case <-m.exited:
		return false
	default:
		return true
	}
}

func (m *Member) start() error {
	if m.running() {
		return nil
	}
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(m.program, m.args...)
	cmd.Stdout, cmd.Stderr = log, log
	// Nothing of our environment: etcd reads ETCD_* as flags. 3.4 refuses what is not amd64 unless told so.
	cmd.Env = []string{"ETCD_UNSUPPORTED_ARCH=" + runtime.GOARCH}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, exited := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(exited)
		// The kernel sends the signal when the thread that started the process ends: it must not end before.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // its log tells why it ended
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", m.name, err)
	}
	m.process, m.exited = cmd.Process, exited
	return nil
}

func (m *Member) healthy(ctx context.Context) error {
	for {
		err := m.health(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-m.exited:
			return fmt.Errorf("%s ended: %s", m.name, lastLines(m.Log(), 5))
		case <-ctx.Done():
			return fmt.Errorf("%s is not healthy: %w", m.name, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// health counts a member without a leader as ill: etcd answers 503 then.
func (m *Member) health(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.URL()+"/health", nil)
	if err != nil {
		return err
	}
	_, err = m.answer(req)
	return err
}

// Compact makes the v3 store forget all revisions before the newest one, for all members.
func (m *Member) Compact(ctx context.Context) error {
	raw, err := m.post(ctx, "/v3/kv/range", `{"key":"AA=="}`)
	if err != nil {
		return fmt.Errorf("read revision: %w", err)
	}
	var newest struct{ Header struct{ Revision string } }
	if err := json.Unmarshal(raw, &newest); err != nil {
		return fmt.Errorf("read revision: %w", err)
	}
	_, err = m.post(ctx, "/v3/kv/compaction", fmt.Sprintf(`{"revision":%q,"physical":true}`, newest.Header.Revision))
	return err
}

func (m *Member) post(ctx context.Context, path, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.URL()+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	return m.answer(req)
}

// answer sends a request on a connection of its own and gives the body of a 200.
func (m *Member) answer(req *http.Request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(req.Context(), 5*time.Second)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: m.secure}
	resp, err := transport.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s %s", req.URL.Path, resp.Status, bytes.TrimSpace(body))
	}
	return body, err
}
