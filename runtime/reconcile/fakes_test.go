package reconcile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meltwater/proxymatic/sources/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSource sends what the test says.
type fakeSource struct {
	name string
	say  chan catalog.Snapshot
}

func newSource(name string) *fakeSource {
	return &fakeSource{name: name, say: make(chan catalog.Snapshot)}
}

func (s *fakeSource) Name() string { return s.name }

func (s *fakeSource) Read(context.Context) (catalog.Snapshot, error) { return catalog.Snapshot{}, nil }

func (s *fakeSource) Run(ctx context.Context, out chan<- catalog.Snapshot) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case snap := <-s.say:
			snap.Source = s.name
			select {
			case <-ctx.Done():
				return ctx.Err()
			case out <- snap:
			}
		}
	}
}

// read is a good answer; failed is none.
func read(services ...*catalog.Service) catalog.Snapshot {
	return catalog.Snapshot{Services: services, Succeeded: time.Now(), Heard: time.Now()}
}

func failed(reason string) catalog.Snapshot { return catalog.Snapshot{Err: reason} }

// service has so many servers behind a port.
func service(name string, port uint16, servers int) *catalog.Service {
	s := &catalog.Service{Key: catalog.Key{Port: port, Proto: catalog.TCP}, Name: name, Mode: catalog.ModeTCP}
	for i := range servers {
		s.Servers = append(s.Servers, catalog.Server{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 31000), Weight: catalog.DefaultWeight})
	}
	return s
}

// fakeDriver is a proxy with state: it serves addresses per service, reports the difference, and can be slow or broken.
// Its proxy may be changed behind its back, which it sees only when it was told to observe everything.
type fakeDriver struct {
	name  string
	takes time.Duration // how long Plan and Apply take

	inside atomic.Int32 // callers of Plan and Apply
	beside atomic.Bool  // two were inside at a time
	wake   chan func()  // what Run was given
	ended  atomic.Bool  // Run has returned
	late   atomic.Bool  // Apply was called after Run had returned

	mu       sync.Mutex
	broken   error
	serving  map[string][]string // service -> servers in the proxy
	believed map[string][]string // what the driver saw last
	full     bool
	applied  []time.Duration // when Apply began, from the start of the bubble
	began    time.Time
	resyncs  int
	problems []catalog.Problem
}

func newDriver(name string) *fakeDriver {
	return &fakeDriver{name: name, wake: make(chan func(), 1), serving: map[string][]string{}, believed: map[string][]string{}, began: time.Now()}
}

func (d *fakeDriver) Name() string { return d.name }

func (d *fakeDriver) Resync() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = true
	d.resyncs++
}

func (d *fakeDriver) Run(ctx context.Context, wake func()) error {
	d.wake <- wake
	<-ctx.Done()
	d.ended.Store(true)
	return nil
}

func (d *fakeDriver) enter() func() {
	if d.inside.Add(1) > 1 {
		d.beside.Store(true)
	}
	time.Sleep(d.takes) // the bubble's time
	return func() { d.inside.Add(-1) }
}

func (d *fakeDriver) Plan(_ context.Context, want []*catalog.Service) (catalog.Report, error) {
	defer d.enter()()
	d.mu.Lock()
	defer d.mu.Unlock()
	report, _ := d.difference(want)
	return report, d.broken
}

func (d *fakeDriver) Apply(ctx context.Context, want []*catalog.Service) (catalog.Report, error) {
	d.mu.Lock()
	d.applied = append(d.applied, time.Since(d.began))
	d.mu.Unlock()
	defer d.enter()()
	d.late.Store(d.late.Load() || d.ended.Load())
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return catalog.Report{}, d.broken
	}
	if ctx.Err() != nil {
		return catalog.Report{}, ctx.Err()
	}
	report, target := d.difference(want)
	d.serving, d.believed, d.full = target, target, false
	return report, nil
}

func (d *fakeDriver) difference(want []*catalog.Service) (catalog.Report, map[string][]string) {
	report := catalog.Report{Problems: d.problems}
	have := d.believed
	if d.full {
		have = d.serving
	}
	target := map[string][]string{}
	for _, s := range want {
		name := s.Name + " " + s.Key.String()
		target[name] = []string{}
		if _, known := have[name]; !known {
			report.Reloads = append(report.Reloads, "new service "+name)
		}
		for _, v := range s.Servers {
			target[name] = append(target[name], v.Addr.String())
			if !slices.Contains(have[name], v.Addr.String()) {
				change := catalog.Change{Service: name, Server: v.Addr.String(), Action: "add server"}
				report.Changes = append(report.Changes, change)
				if slices.Contains(d.believed[name], change.Server) {
					report.Drift = append(report.Drift, change)
				}
			}
		}
	}
	if len(report.Reloads) > 0 {
		report.Changes = append(report.Changes, catalog.Change{Action: "reload"})
	}
	return report, target
}

// lose takes a service's servers out of the proxy behind the driver's back.
func (d *fakeDriver) lose(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serving = map[string][]string{name: nil}
}

func (d *fakeDriver) breaks(reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = nil
	if reason != "" {
		d.broken = errors.New(reason)
	}
}

func (d *fakeDriver) has(problems ...catalog.Problem) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.problems = problems
}

// times gives when Apply began, and forgets it.
func (d *fakeDriver) times() []time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.applied
	d.applied = nil
	return t
}

// lines collects a log as text without times.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take gives what was logged, and forgets it.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.b.String()
	l.b.Reset()
	return text
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// rig is a running loop in a bubble of fake time.
type rig struct {
	t      *testing.T
	loop   *Loop
	log    *lines
	cancel context.CancelFunc
	ended  chan error
}

// start runs a loop that was prepared further; the test must end with stop.
func start(t *testing.T, cfg Config, prepare ...func(*Loop)) *rig {
	r := &rig{t: t, log: &lines{}, ended: make(chan error, 1)}
	cfg.Log = r.log.logger()
	r.loop = New(cfg)
	for _, p := range prepare {
		p(r.loop)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	go func() { r.ended <- r.loop.Run(ctx) }()
	synctest.Wait()
	return r
}

func (r *rig) stop() {
	r.t.Helper()
	r.cancel()
	if err := <-r.ended; err != nil {
		r.t.Errorf("Run: %v", err)
	}
}

// logged compares what was logged since the last time.
func (r *rig) logged(want ...string) {
	r.t.Helper()
	if got, want := r.log.take(), strings.Join(append(want, ""), "\n"); got != want {
		r.t.Errorf("log:\n%s\nwant:\n%s", got, want)
	}
}

func (d *fakeDriver) applies(t *testing.T, want ...time.Duration) {
	t.Helper()
	if got := d.times(); !slices.Equal(got, want) {
		t.Errorf("%s applied at %v, want %v", d.name, got, want)
	}
}

func (d *fakeDriver) serves(t *testing.T, want string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if got := fmt.Sprint(d.serving); got != want {
		t.Errorf("%s serves %s, want %s", d.name, got, want)
	}
}
