package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

func TestTermLeavesHAProxyServing(t *testing.T) {
	w := newWorld(t)
	ports := w.services(5, 2)
	w.start()
	worker := w.worker()
	load := w.load(ports, 300)
	_, err := w.site.AddTask(ports[0])
	w.must(err)
	w.must(stage.Until(w.patient(), w.runsWanted))
	w.sameWorker(worker)
	worker = w.worker()
	w.end(syscall.SIGTERM)
	written, err := w.host.Written()
	w.must(err)
	if d := w.site.Wanted().Diff(written); d != "" {
		t.Errorf("haproxy.cfg was not brought up to date at the end:\n%s", d)
	}
	w.must(load.WaitRequests(w.patient(), 100))
	w.start()
	w.flawless(load)
	w.reloaded(0, 0, "start beside what was left")
	w.sameWorker(worker)
}

// end sends a signal and waits for a clean end.
func (w world) end(sig syscall.Signal) {
	w.Helper()
	w.must(w.host.Signal(sig))
	code, err := w.host.Wait(w.patient())
	w.must(err)
	if code != 0 {
		w.Errorf("exit code %d after %s, want 0", code, sig)
	}
}

// Draining refuses new connections and waits for those that are under way.
func TestDrain(t *testing.T) {
	for name, c := range map[string]struct {
		signal syscall.Signal
		flags  []string
	}{
		"TERM with --on-exit drain": {syscall.SIGTERM, []string{"--on-exit", "drain"}},
		"USR1":                      {syscall.SIGUSR1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ports := w.services(2, 1)
			w.start(c.flags...)
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0]))
			w.must(err)
			defer conn.Close() // in case that the test fails before it does
			_, err = io.WriteString(conn, "GET / HTTP/1.1\r\n")
			w.must(err)
			w.must(w.host.Signal(c.signal))
			w.refused(ports...)
			if code, body, err := w.host.Get(w.patient(), "/status"); err != nil || code != 503 || body != "TERMINATING\n" {
				t.Errorf("/status: %d %q, %v", code, body, err)
			}
			_, err = io.WriteString(conn, "Host: drain\r\nConnection: close\r\n\r\n")
			w.must(err)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			w.must(err)
			if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 {
				t.Errorf("the request that was under way: %s %q, %v", resp.Status, body, err)
			}
			w.must(conn.Close())
			code, err := w.host.Wait(w.patient())
			w.must(err)
			if pids := w.host.HAProxy(); code != 0 || len(pids) > 0 {
				t.Errorf("exit code %d, HAProxy %v, want 0 and none", code, pids)
			}
		})
	}
}

func TestHUPWithUnchangedConfigurationDoesNothing(t *testing.T) {
	w := newWorld(t)
	ports := w.services(5, 2)
	config := w.host.Path("c.yaml")
	w.must(os.WriteFile(config, []byte("log-format: text\n"), 0o644))
	w.start("--config", config)
	worker := w.worker()
	load := w.load(ports, 300)
	for i := range 3 {
		w.must(w.host.Signal(syscall.SIGHUP))
		w.must(stage.Until(w.patient(), func() error {
			if n := strings.Count(w.host.Log(), "configuration read again"); n <= i {
				return fmt.Errorf("read again %d times, want %d", n, i+1)
			}
			return nil
		}))
		w.must(w.host.Ready(w.patient()))
	}
	w.must(os.WriteFile(config, []byte("no-such-key: 1\n"), 0o644))
	w.must(w.host.Signal(syscall.SIGHUP))
	w.must(stage.Until(w.patient(), func() error {
		if !strings.Contains(w.host.Log(), "no-such-key") {
			return fmt.Errorf("the log does not name the unknown key")
		}
		return nil
	}))
	_, err := w.site.AddTask(ports[0])
	w.must(err)
	w.settled()
	w.flawless(load)
	w.reloaded(0, 0, "configuration read again")
	w.sameWorker(worker)
}
