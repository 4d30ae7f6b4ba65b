package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// journal is a log that can be waited for.
type journal struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote chan struct{}
}

func newJournal() *journal { return &journal{wrote: make(chan struct{}, 1)} }

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	select {
	case j.wrote <- struct{}{}:
	default:
	}
	return j.text.Write(p)
}

// next waits for a line with the words and forgets everything up to it.
func (j *journal) next(t *testing.T, words string) {
	t.Helper()
	never := time.After(time.Minute)
	for {
		j.mu.Lock()
		_, after, found := strings.Cut(j.text.String(), words)
		if found {
			j.text.Reset()
			j.text.WriteString(after)
		}
		rest := j.text.String()
		j.mu.Unlock()
		if found {
			return
		}
		select {
		case <-j.wrote:
		case <-never:
			t.Fatalf("%q never came, but\n%s", words, rest)
		}
	}
}

// running is a run within the test.
type running struct {
	dir     string
	log     *journal
	signals chan<- os.Signal
	code    chan int
}

// freePort gives an address that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newRunning starts a run on a configuration file. Its source cannot be read, so that it never comes to touch a proxy.
func newRunning(t *testing.T, settings string) *running {
	t.Helper()
	unset(t)
	r := &running{dir: t.TempDir(), log: newJournal(), code: make(chan int, 1)}
	r.configure(t, settings)
	got := make(chan chan<- os.Signal, 1)
	p := program{stdout: r.log, stderr: r.log, notify: func(c chan<- os.Signal) { got <- c }}
	go func() { r.code <- p.main(context.Background(), []string{"--config", r.dir + "/c.yaml"}) }()
	r.signals = <-got
	return r
}

// configure writes the configuration file: what every test needs, and what comes with it.
func (r *running) configure(t *testing.T, settings string) {
	t.Helper()
	text := fmt.Sprintf("haproxy: true\nhaproxy-start: 'false'\nhaproxy-reload: 'false'\nservices-file: %[1]s/services\n"+
		"haproxy-config: %[1]s/haproxy.cfg\nhaproxy-socket: %[1]s/haproxy.sock\n%[2]s\n", r.dir, settings)
	if !strings.Contains(settings, "run-dir") {
		text += fmt.Sprintf("run-dir: %s/run/deep\n", r.dir)
	}
	if !strings.Contains(settings, "state-dir") {
		text += fmt.Sprintf("state-dir: %s/state\n", r.dir)
	}
	if err := os.WriteFile(r.dir+"/c.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (r *running) end(t *testing.T, sig syscall.Signal, want int) {
	t.Helper()
	r.signals <- sig
	if got := <-r.code; got != want {
		t.Errorf("after %s: exit code %d, want %d; log\n%s", sig, got, want, r.log.text.String())
	}
}

func TestRunEndsOnASignal(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			r := newRunning(t, "status-endpoint: ''")
			r.log.next(t, "started")
			r.end(t, sig, 0)
			if !missing(r.dir + "/run/deep/control.sock") {
				t.Error("the control socket is still there")
			}
		})
	}
}

func TestRunAnswersPlanAndHoldsItsDirectory(t *testing.T) {
	r := newRunning(t, "status-endpoint: ''")
	r.log.next(t, "started")
	if _, running, err := askForPlan(t.Context(), r.dir+"/run/deep/control.sock"); !running || err != nil {
		t.Errorf("plan: got running %v, %v", running, err)
	}
	if info, err := os.Stat(r.dir + "/run/deep/control.sock"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the control socket: got %v, %v, want mode 600", info, err)
	}
	got := call(t, "--config", r.dir+"/c.yaml")
	if want := fmt.Sprintf("another proxymatic (process %d on ", os.Getpid()); got.code != 1 || !strings.Contains(got.stderr, want) {
		t.Errorf("a second run: got %+v, want 1 and %s", got, want)
	}
	r.end(t, syscall.SIGTERM, 0)
	again := newRunning(t, fmt.Sprintf("status-endpoint: ''\nrun-dir: %s/run/deep", r.dir))
	again.log.next(t, "started")
	again.end(t, syscall.SIGTERM, 0)
}

func TestRunNamesADirectoryThatCannotBeMade(t *testing.T) {
	file := writeFile(t, "")
	r := newRunning(t, "run-dir: "+file+"/x")
	r.log.next(t, "proxymatic: --run-dir: mkdir "+file+": not a directory; make "+file+"/x a directory that user ")
	if got := <-r.code; got != 1 {
		t.Errorf("exit code %d, want 1", got)
	}
}

func TestRunGoesOnWithoutItsStateDirectory(t *testing.T) {
	file := writeFile(t, "")
	r := newRunning(t, "status-endpoint: ''\nstate-dir: "+file+"/x")
	r.log.next(t, "started")
	r.log.next(t, "level=WARN msg=\"state directory cannot be used")
	r.log.next(t, "--state-dir: mkdir "+file+": not a directory; make "+file+"/x a directory that user ")
	r.end(t, syscall.SIGTERM, 0)
}

func TestHUP(t *testing.T) {
	endpoint := freePort(t)
	r := newRunning(t, "status-endpoint: "+endpoint)
	r.log.next(t, "started")

	r.configure(t, "drain: -1")
	r.signals <- syscall.SIGHUP
	r.log.next(t, "configuration not taken, the old one stays")
	r.log.next(t, "--drain (from "+r.dir+"/c.yaml)")

	r.configure(t, "state-dir: /tmp\nrun-dir: /tmp\nhaproxy-config: /tmp/x")
	r.signals <- syscall.SIGHUP
	r.log.next(t, "yaml") // the key is there twice

	r.configure(t, "state-dir: /tmp\nrun-dir: /tmp")
	r.signals <- syscall.SIGHUP
	r.log.next(t, "--run-dir, --state-dir cannot change while running")

	r.configure(t, "haproxy-template: /nonexistent")
	r.signals <- syscall.SIGHUP
	r.log.next(t, "/nonexistent")

	r.configure(t, "status-endpoint: ''\nlog-format: json")
	r.signals <- syscall.SIGHUP
	r.log.next(t, `"msg":"configuration read again"`)
	if conn, err := net.Dial("tcp", endpoint); err == nil {
		conn.Close()
		t.Error("the old status endpoint still answers")
	}
	if _, running, err := askForPlan(t.Context(), r.dir+"/run/deep/control.sock"); !running || err != nil {
		t.Errorf("plan after HUP: got running %v, %v", running, err)
	}
	r.end(t, syscall.SIGTERM, 0)
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	for _, c := range []struct {
		signals []os.Signal
		want    int
	}{
		{[]os.Signal{syscall.SIGTERM}, 143},
		{[]os.Signal{syscall.SIGHUP, syscall.SIGINT}, 130},
	} {
		signals, release := make(chan os.Signal, len(c.signals)), make(chan struct{})
		for _, s := range c.signals {
			signals <- s
		}
		stuck := func(bool, func() error) error { <-release; return nil }
		r := &runner{signals: signals}
		if got := r.finish(&instance{log: slog.New(slog.DiscardHandler)}, stuck, true, true); got != c.want {
			t.Errorf("%v while ending: exit code %d, want %d", c.signals, got, c.want)
		}
		close(release)
	}
}

func TestAnEndThatGoesWrongIsAnError(t *testing.T) {
	r := &runner{signals: make(chan os.Signal)}
	wrong := func(bool, func() error) error { return errors.New("file not written") }
	if got := r.finish(&instance{log: slog.New(slog.DiscardHandler)}, wrong, false, true); got != 1 {
		t.Errorf("exit code %d, want 1", got)
	}
}

func TestListen(t *testing.T) {
	for _, c := range []struct {
		signal syscall.Signal
		onExit string
		drain  bool
	}{
		{syscall.SIGTERM, onExitLeave, false},
		{syscall.SIGTERM, onExitDrain, true},
		{syscall.SIGINT, onExitDrain, true},
		{syscall.SIGUSR1, onExitLeave, true},
	} {
		signals := make(chan os.Signal, 1)
		signals <- c.signal
		r := &runner{signals: signals}
		got := r.listen(&instance{config: Config{OnExit: c.onExit}, log: slog.New(slog.DiscardHandler)})
		if want := (event{drain: c.drain}); got != want {
			t.Errorf("%s with --on-exit %s: %+v, want %+v", c.signal, c.onExit, got, want)
		}
	}
}

func TestSourcesOfTheSameSettingsAreKept(t *testing.T) {
	c := Config{Marathon: [][]string{{"http://a:1"}}, ServicesFile: "/f", RefreshInterval: time.Minute, GroupSize: 1}
	sources, err := c.sources()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sources {
		if c.sourceSettings()[s.Name()] == nil {
			t.Errorf("the settings of source %s are unknown", s.Name())
		}
	}
	old := &instance{config: c, sources: sources}
	for _, test := range []struct {
		rule   string
		change func(*Config)
		want   string
	}{
		{"nothing changed", func(*Config) {}, "marathon kept, file kept"},
		{"what is not about sources", func(c *Config) { c.Verbose = true }, "marathon kept, file kept"},
		{"another Marathon", func(c *Config) { c.Marathon = [][]string{{"http://b:1"}} }, "marathon new, file kept"},
		{"one more Marathon", func(c *Config) { c.Marathon = [][]string{{"http://a:1"}, {"http://b:1"}} }, "marathon kept, marathon-2 new, file kept"},
		{"another group size", func(c *Config) { c.GroupSize = 2 }, "marathon new, file kept"},
		{"another file", func(c *Config) { c.ServicesFile = "/g" }, "marathon kept, file new"},
		{"one source less", func(c *Config) { c.Marathon = nil }, "file kept"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			next := c
			test.change(&next)
			now, err := next.sources()
			if err != nil {
				t.Fatal(err)
			}
			old.keep(next, now)
			var got []string
			for _, s := range now {
				got = append(got, s.Name()+map[bool]string{true: " kept", false: " new"}[slices.Contains(sources, s)])
			}
			if text := strings.Join(got, ", "); text != test.want {
				t.Errorf("got %s, want %s", text, test.want)
			}
		})
	}
}

// With Marathon gone, a new configuration changes nothing about what is served, nor does it wait for anybody.
func TestHUPWhileMarathonIsDownContinues(t *testing.T) {
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"apps":[]}`) }))
	endpoint := freePort(t)
	r := newRunning(t, "status-endpoint: "+endpoint+"\nmarathon: "+first.URL)
	if err := os.Mkdir(r.dir+"/haproxy.cfg", 0o755); err != nil { // so that the driver fails without waiting for HAProxy
		t.Fatal(err)
	}
	if err := os.WriteFile(r.dir+"/services", []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.log.next(t, "driver fails, is tried again") // a pass was made
	first.Close()
	if err := os.Remove(r.dir + "/services"); err != nil {
		t.Fatal(err)
	}
	r.log.next(t, "source cannot be read, its last services stay")
	for _, settings := range []string{"marathon: " + first.URL, "marathon: http://127.0.0.1:1", "marathon: http://127.0.0.1:1\ndrain: 7"} {
		r.configure(t, "status-endpoint: "+endpoint+"\n"+settings)
		before, _, err := askForPlan(t.Context(), r.dir+"/run/deep/control.sock")
		if settings != "marathon: "+first.URL && !strings.Contains(before.Note, "this is what a HUP would do") {
			t.Errorf("%s: plan %+v, %v before the HUP, want that of the new configuration", settings, before, err)
		}
		if err != nil || before.Error != "" || len(before.Drivers) != 2 {
			t.Errorf("%s: plan %+v, %v before the HUP, want one made from what is known", settings, before, err)
		}
		r.signals <- syscall.SIGHUP
		r.log.next(t, "configuration read again")
		answer, running, err := askForPlan(t.Context(), r.dir+"/run/deep/control.sock")
		if !running || err != nil || strings.Contains(answer.Error, "never read") {
			t.Errorf("%s: plan %+v, %v, %v, want one made from what was known", settings, answer, running, err)
		}
	}
	r.end(t, syscall.SIGTERM, 0)
}

// What is gone for a moment is not taken for something that is not wanted any more.
func TestHUPRefusesFilesThatAreGone(t *testing.T) {
	unset(t)
	flags := newFlags()
	if err := flags.Parse([]string{"--services-file", writeFile(t, "[]")}); err != nil {
		t.Fatal(err)
	}
	r := &runner{flags: flags}
	old, err := r.next(Config{})
	if err == nil || !strings.Contains(err.Error(), "--run-dir") {
		t.Fatalf("%v, want that settings differ", err)
	}
	old.Place = 3
	if next, err := r.next(old); err != nil || next.Place != 3 {
		t.Errorf("%v, place %d, want that nothing has changed", err, next.Place)
	}
	for name, change := range map[string]func(*Config, string){
		"config":           func(c *Config, path string) { c.File = path },
		"haproxy-template": func(c *Config, path string) { c.HAProxyTemplate = path },
		"pen-template":     func(c *Config, path string) { c.PenTemplate = path },
	} {
		path := defaultOf(name)
		if !missing(path) {
			if os.Getenv("CI") != "" {
				t.Fatalf("CI must not have %s", path)
			}
			t.Skip(path + " is there")
		}
		was := old
		change(&was, path)
		if _, err := r.next(was); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want that %s is not there any more", name, err, path)
		}
		change(&was, "/elsewhere") // a setting that is gone
		if _, err := r.next(was); err != nil {
			t.Errorf("%s: %v, want the built-in one", name, err)
		}
	}
}

func TestReserved(t *testing.T) {
	for _, c := range []struct{ endpoint, callback, want string }{
		{"127.0.0.1:9090", "", "map[9090/tcp:--status-endpoint]"},
		{"", "http://me:5090/x", "map[5090/tcp:--marathon-callback]"},
		{":1", "http://me", "map[1/tcp:--status-endpoint 80/tcp:--marathon-callback]"},
		{"", "", "map[]"},
	} {
		if got := fmt.Sprint(Config{StatusEndpoint: c.endpoint, MarathonCallback: c.callback}.reserved()); got != c.want {
			t.Errorf("endpoint %q, callback %q: got %s, want %s", c.endpoint, c.callback, got, c.want)
		}
	}
}

func TestLockFileNamesItsHolder(t *testing.T) {
	dir := t.TempDir()
	f, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if text, err := os.ReadFile(filepath.Join(dir, "lock")); err != nil || !strings.HasPrefix(string(text), fmt.Sprintf("%d on ", os.Getpid())) {
		t.Errorf("got %q, %v, want our process", text, err)
	}
}
