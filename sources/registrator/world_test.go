package registrator

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/etcd"
)

// world is a real etcd that tests write to.
type world struct {
	*etcd.Cluster
	t   *testing.T
	ctx context.Context
}

// patience is how long a test waits for what must come.
const patience = 15 * time.Second

func newWorld(t *testing.T, config etcd.Config) world {
	t.Helper()
	t.Parallel()
	config.Dir = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	c, err := etcd.Start(ctx, config)
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") == "" {
		t.Skip("etcd is not installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Kill)
	return world{Cluster: c, t: t, ctx: ctx}
}

// must is for what a test needs to go on.
func (w world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// client3 gives a client of the v3 store.
func (w world) client3() *clientv3.Client {
	w.t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(w.Addrs(), ","), Logger: zap.NewNop()})
	w.must(err)
	w.t.Cleanup(func() { c.Close() })
	return c
}

// writer writes one store.
type writer interface {
	put(path, value string)
	remove(path string)
	// other writes keys that are none of ours.
	other(n int)
	// lease writes a key that expires soon.
	lease(path, value string)
}

type writer3 struct {
	world
	c *clientv3.Client
}

func (w writer3) put(path, value string) {
	w.t.Helper()
	w.must(w.try("/services/"+path, value))
}

func (w writer3) try(key, value string) (err error) {
	for range 100 { // a write is not repeated by the client when its member is killed
		ctx, cancel := context.WithTimeout(w.ctx, 3*time.Second)
		_, err = w.c.Put(ctx, key, value)
		cancel()
		if err == nil {
			return nil
		}
	}
	return err
}

func (w writer3) other(n int) {
	w.t.Helper()
	for range n {
		w.must(w.try("/other", "x"))
	}
}

func (w writer3) remove(path string) {
	w.t.Helper()
	_, err := w.c.Delete(w.ctx, "/services/"+path)
	w.must(err)
}

func (w writer3) lease(path, value string) {
	w.t.Helper()
	lease, err := w.c.Grant(w.ctx, 1)
	w.must(err)
	_, err = w.c.Put(w.ctx, "/services/"+path, value, clientv3.WithLease(lease.ID))
	w.must(err)
}

type writer2 struct{ world }

func (w writer2) do(method, path string, query url.Values) {
	w.t.Helper()
	var err error
	for range 100 { // a member that just lost its leader says 503
		req, bad := http.NewRequestWithContext(w.ctx, method, w.running()+"/v2/keys"+path+"?"+query.Encode(), nil)
		w.must(bad)
		var resp *http.Response
		if resp, err = http.DefaultClient.Do(req); err != nil {
			break
		}
		resp.Body.Close()
		if resp.StatusCode < 300 {
			return
		}
		err = fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	w.t.Fatal(err)
}

// running gives the URL of a member that was not killed.
func (w world) running() string {
	for _, m := range w.Members {
		if resp, err := http.Get(m.URL() + "/version"); err == nil {
			resp.Body.Close()
			return m.URL()
		}
	}
	w.t.Fatal("no member runs")
	return ""
}

func (w writer2) put(path, value string) {
	w.t.Helper()
	w.do("PUT", "/services/"+path, url.Values{"value": {value}})
}

func (w writer2) remove(path string) { w.t.Helper(); w.do("DELETE", "/services/"+path, nil) }

func (w writer2) other(n int) {
	w.t.Helper()
	for range n {
		w.do("PUT", "/other", url.Values{"value": {"x"}})
	}
}

func (w writer2) lease(path, value string) {
	w.t.Helper()
	w.do("PUT", "/services/"+path, url.Values{"value": {value}, "ttl": {"1"}})
}

// observer runs a source and keeps what it sends.
type observer struct {
	t     *testing.T
	snaps chan catalog.Snapshot
	last  catalog.Snapshot
	count int
	stop  func()
}

func (w world) config(url string) Config {
	return Config{URL: strings.Replace(url, "CLUSTER", w.Addrs(), 1), RefreshInterval: time.Minute, Probe: 200 * time.Millisecond,
		Timeout: 2 * time.Second, RetryPause: 50 * time.Millisecond}
}

// observe runs a source until the test ends or stop is called.
func observe(t *testing.T, c Config) *observer {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return observeSource(t, s)
}

func observeSource(t *testing.T, s *Source) *observer {
	ctx, cancel := context.WithCancel(context.Background())
	o := &observer{t: t, snaps: make(chan catalog.Snapshot)}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, o.snaps) }()
	stopped := false
	o.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		for {
			select {
			case <-o.snaps:
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("Run gave %v", err)
				}
				return
			case <-time.After(patience):
				t.Error("Run does not end")
				return
			}
		}
	}
	t.Cleanup(o.stop)
	return o
}

// text is the latest snapshot: the services, then the problems, then the error.
func (o *observer) text() string {
	text := short(canonical(o.last.Services, o.last.Problems))
	if o.last.Err != "" {
		text += "error: " + o.last.Err + "\n"
	}
	return text
}

// until takes snapshots until one is as wanted.
func (o *observer) until(what string, good func(text string) bool) {
	o.t.Helper()
	end := time.After(patience)
	for o.count == 0 || !good(o.text()) {
		select {
		case o.last = <-o.snaps:
			o.count++
			if o.last.Source != "registrator" || o.last.Priority != 200 || o.last.Heard.IsZero() && !o.last.Succeeded.IsZero() {
				o.t.Errorf("snapshot %+v", o.last)
			}
		case <-end:
			o.t.Fatalf("%s did not come; the last snapshot is\n%s", what, o.text())
		}
	}
}

// wants waits for exactly this, and allows nothing on the way there that lacks one of the services of keep.
func (o *observer) wants(want string, keep ...string) {
	o.t.Helper()
	o.until("\n"+want, func(text string) bool {
		for _, k := range keep {
			if !strings.Contains(text, k) {
				o.t.Fatalf("%q is not served:\n%s", k, text)
			}
		}
		return text == want
	})
}

func (o *observer) wantsError(piece string, keep ...string) {
	o.t.Helper()
	o.until("an error with "+piece, func(text string) bool {
		for _, k := range keep {
			if !strings.Contains(text, k) {
				o.t.Fatalf("%q is not served:\n%s", k, text)
			}
		}
		return strings.Contains(o.last.Err, piece)
	})
}

// quiet allows no snapshot until the marker, a key of its own, has come through.
func (o *observer) quiet(mark func(), marker string) {
	o.t.Helper()
	before := o.count
	mark()
	o.until(marker, func(text string) bool { return strings.Contains(text, marker) })
	if o.count != before+1 {
		o.t.Errorf("%d snapshots, want 1", o.count-before)
	}
}

// both runs a test against each store.
func both(t *testing.T, members int, test func(t *testing.T, w world, url string, store writer)) {
	t.Run("v3", func(t *testing.T) {
		w := newWorld(t, etcd.Config{Members: members})
		test(t, w, "etcd3://CLUSTER/services", writer3{w, w.client3()})
	})
	t.Run("v2", func(t *testing.T) {
		w := newWorld(t, etcd.Config{Members: members, V2: true})
		test(t, w, "etcd2://CLUSTER/services", writer2{w})
	})
}
