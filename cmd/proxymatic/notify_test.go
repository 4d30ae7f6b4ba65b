package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/runtime/reconcile"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// serviceManager listens as systemd does.
type serviceManager struct{ conn *net.UnixConn }

func newServiceManager(t *testing.T) serviceManager {
	t.Helper()
	dir, err := os.MkdirTemp("", "pm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	addr := &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}
	conn, err := net.ListenUnixgram(addr.Net, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", addr.Name)
	return serviceManager{conn}
}

// hear waits for a message that matches, and fails if it has what it must not.
func (m serviceManager) hear(t *testing.T, want, never string) string {
	t.Helper()
	buffer := make([]byte, 4096)
	for {
		if err := m.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := m.conn.Read(buffer)
		if err != nil {
			t.Fatalf("nothing that matches %q: %v", want, err)
		}
		text := string(buffer[:n])
		if never != "" && strings.Contains(text, never) {
			t.Fatalf("got %q before %q", text, want)
		}
		if regexp.MustCompile(want).MatchString(text) {
			return text
		}
	}
}

func TestSystemdHearsHowTheRunFares(t *testing.T) {
	manager := newServiceManager(t)
	r := newRunning(t, "status-endpoint: ''")
	r.log.next(t, "started")
	manager.hear(t, "^STATUS=nothing is changed until an answer of file", "READY=1")
	manager.hear(t, "WATCHDOG=1", "READY=1")

	r.configure(t, "drain: -1")
	r.signals <- syscall.SIGHUP
	text := manager.hear(t, "STATUS=configuration not taken, the old one stays: --drain", "READY=1")
	if strings.Count(text, "\n") > 0 {
		t.Errorf("more than one line: %q", text)
	}

	r.configure(t, "drain: 120")
	r.signals <- syscall.SIGHUP
	r.log.next(t, "configuration read again")
	r.end(t, syscall.SIGTERM, 0)
	manager.hear(t, "^STOPPING=1\nSTATUS=ending\nEXTEND_TIMEOUT_USEC=140000000$", "READY=1")
}

func TestSystemdHearsOfAReload(t *testing.T) {
	manager := newServiceManager(t)
	n := &notices{}
	n.ready.Store(true)
	n.reloading()
	manager.hear(t, "^RELOADING=1\nMONOTONIC_USEC=[0-9]+$", "READY=1")
	n.reloaded(nil)
	manager.hear(t, "^READY=1$", "STATUS")
}

func TestTheRunIsReadyAfterItsFirstPass(t *testing.T) {
	manager := newServiceManager(t)
	loop := reconcile.New(reconcile.Config{Log: slog.New(slog.DiscardHandler)})
	n := notice(func() *instance { return &instance{loop: loop} })
	manager.hear(t, "^STATUS=first pass", "READY=1")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	loop.Wake()
	go func() { ended <- loop.Run(ctx) }()
	manager.hear(t, "^STATUS=0 services, 0 problems\nREADY=1", "")
	n.finish(time.Second)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestReady(t *testing.T) {
	applied, waiting := &reconcile.Pass{Applied: true}, &reconcile.Pass{}
	if !ready(applied, 0) || ready(waiting, 59*time.Second) || !ready(waiting, time.Minute) {
		t.Error("want the first pass, or a minute")
	}
}

func TestWhereNobodyListensNothingIsTold(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n := notice(nil)
	n.reloading()
	n.reloaded(nil)
	n.finish(0)
	if n != nil {
		t.Errorf("got %v, want nil", n)
	}
}

func TestPassText(t *testing.T) {
	read, unread := reconcile.SourceState{Name: "file", Succeeded: time.Unix(1, 0)}, reconcile.SourceState{Name: "marathon"}
	for want, pass := range map[string]reconcile.Pass{
		"nothing is changed until an answer of marathon": {Sources: []reconcile.SourceState{read, unread}},
		"first pass": {Sources: []reconcile.SourceState{read}},
		"1 services, 2 problems": {Applied: true, Sources: []reconcile.SourceState{read, unread},
			Want: make([]*catalog.Service, 1), Problems: make([]catalog.Problem, 2)},
	} {
		if got := passText(&pass); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAlive(t *testing.T) {
	now := time.Unix(100_000, 0)
	for _, c := range []struct {
		name string
		at   time.Time
		want bool
	}{
		{"before the first pass", time.Time{}, true},
		{"a pass takes long", now.Add(-7 * time.Minute), true},
		{"no pass any more", now.Add(-9 * time.Minute), false},
	} {
		if got := alive(&reconcile.Pass{At: c.at}, time.Minute, now); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
