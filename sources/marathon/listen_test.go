package marathon_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/marathon"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// quiet is how long no event may come before a burst is over.
const quiet = 100 * time.Millisecond

// called is a source that has callbacks, on a port of its own.
type called struct {
	*watch
	cluster *fakemarathon.Cluster
	replica *fakemarathon.Replica
	url     string
}

// startCalled runs a source that polls too rarely to explain anything, and waits until it is subscribed and has read.
func startCalled(t *testing.T, gen fakemarathon.Generation) called {
	t.Helper()
	ports, err := freeport.Get(1)
	if err != nil {
		t.Fatal(err)
	}
	c, replicas, urls := cluster(t, gen, "127.0.0.2")
	c.PutApp(web(0))
	url := fmt.Sprintf("http://127.0.0.1:%d/events", ports[0])
	w := start(t, marathon.Config{URLs: urls, Callback: url, RefreshInterval: time.Hour, Settle: quiet})
	w.serves(webAlone)
	if err := c.WaitRequest(t.Context(), "POST /v2/eventSubscriptions", 2); err != nil {
		t.Fatal(err)
	}
	return called{w, c, replicas[0], url}
}

// idle waits until nothing was read for a while, and gives the number of readings.
func (c called) idle() int {
	c.t.Helper()
	for before := -1; ; {
		now := c.cluster.Requests()["GET /v2/apps"]
		if now == before {
			return now
		}
		before = now
		select {
		case c.last = <-c.out:
		case <-time.After(3 * quiet):
		}
	}
}

func TestCallbacksAreServedWithoutAStream(t *testing.T) {
	for _, gen := range []fakemarathon.Generation{"0.8", "0.11", "0.15", "1.3", "1.4"} {
		t.Run(string(gen), func(t *testing.T) {
			c := startCalled(t, gen)
			c.cluster.AddTask("/shop/web", task("1", "10.0.0.1"))
			c.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
			c.cluster.Kill("1")
			c.serves(webAlone)
			if n := c.cluster.Requests()["GET /v2/events"]; n != 0 {
				t.Errorf("%d streams were asked for", n)
			}
			c.never("a problem", func(s catalog.Snapshot) bool { return len(s.Problems) > 0 || s.Err != "" })
		})
	}
}

func TestWhereCallbacksAreNotTheStreamServes(t *testing.T) {
	for _, gen := range []fakemarathon.Generation{"1.3", "1.5", "1.8"} {
		t.Run(string(gen), func(t *testing.T) {
			ports, err := freeport.Get(1)
			if err != nil {
				t.Fatal(err)
			}
			c, _, urls := cluster(t, gen, "127.0.0.2")
			c.SetFaults(func(f *fakemarathon.Faults) { f.NoCallbacks = true })
			c.PutApp(web(0))
			w := start(t, marathon.Config{URLs: urls, Callback: fmt.Sprintf("http://127.0.0.1:%d", ports[0])})
			w.until("the problem", func(s catalog.Snapshot) bool {
				return len(s.Problems) == 1 && strings.Contains(s.Problems[0].Reason, "so its event stream is followed; remove --marathon-callback")
			})
			if err := c.WaitStream(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.AddTask("/shop/web", task("1", "10.0.0.1"))
			w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
		})
	}
}

// A port that is taken is waited for, and the stream serves meanwhile.
func TestATakenPortIsToldAndWaitedFor(t *testing.T) {
	ports, err := freeport.Get(1)
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("tcp", fmt.Sprintf(":%d", ports[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	c, _, urls := cluster(t, "0.11", "127.0.0.2")
	c.PutApp(web(0))
	w := start(t, marathon.Config{URLs: urls, Callback: fmt.Sprintf("http://127.0.0.1:%d", ports[0])})
	w.until("the problem", func(s catalog.Snapshot) bool {
		return len(s.Problems) == 1 && strings.Contains(s.Problems[0].Reason, fmt.Sprintf("listen tcp :%d: bind: address already in use", ports[0]))
	})
	if err := c.WaitStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.Requests()["POST /v2/eventSubscriptions"] != 0 {
		t.Error("subscribed, though nobody listens")
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	w.until("no problem", func(s catalog.Snapshot) bool { return len(s.Problems) == 0 })
	c.AddTask("/shop/web", task("1", "10.0.0.1"))
	w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
}

// Whatever strangers post costs a reading at most, and what Marathon posts in between arrives.
func TestStrangersCostOneReadingABurst(t *testing.T) {
	for name, c := range map[string]struct {
		most   int // readings
		strike func(t *testing.T, url string)
	}{
		"garbage":      {1, func(t *testing.T, url string) { post(t, url, strings.NewReader("\x00\xff{{{"), 200) }},
		"another path": {0, func(t *testing.T, url string) { post(t, url+"/x", strings.NewReader("{}"), 404) }},
		"an event that changes no route": {0, func(t *testing.T, url string) {
			post(t, url, strings.NewReader(`{"eventType":"subscribe_event"}`), 200)
		}},
		"more than any event": {1, func(t *testing.T, url string) { post(t, url, io.LimitReader(zeros{}, 65<<20), 413) }},
		"many at once": {1, func(t *testing.T, url string) {
			var wait sync.WaitGroup
			for range 300 {
				wait.Go(func() { post(t, url, strings.NewReader("{}"), 200) })
			}
			wait.Wait()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := startCalled(t, "0.11")
			before, began := w.idle(), time.Now()
			c.strike(t, w.url)
			most := c.most + c.most*int(time.Since(began)/quiet) // on a busy machine a burst may be several
			if n := w.idle() - before; n > most {
				t.Errorf("%d readings, want at most %d", n, most)
			}
			w.cluster.AddTask("/shop/web", task("1", "10.0.0.1"))
			w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// post posts as anybody could. A server that refuses a long body may close before all of it was sent.
func post(t *testing.T, url string, body io.Reader, want int) {
	t.Helper()
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Post(url, "text/plain", body)
	if err != nil {
		if want != http.StatusRequestEntityTooLarge {
			t.Error(err)
		}
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != want {
		t.Errorf("%s: %s, want %d", url, resp.Status, want)
	}
}

// Connections that say nothing are bounded in number, and closed in time, so that events come through behind them.
func TestSilentConnectionsAreBoundedAndClosed(t *testing.T) {
	w := startCalled(t, "0.11")
	addr := strings.TrimSuffix(strings.TrimPrefix(w.url, "http://"), "/events")
	var first net.Conn
	for i := range 150 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i == 0 {
			first = conn
		}
	}
	w.cluster.AddTask("/shop/web", task("1", "10.0.0.1"))
	w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
	if err := first.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("an event came through while all silent connections were open: they are not bounded")
	}
}

func TestTheSubscriptionEndsWithRunAndTheNextOneHasItAgain(t *testing.T) {
	ports, err := freeport.Get(1)
	if err != nil {
		t.Fatal(err)
	}
	c, _, urls := cluster(t, "0.11", "127.0.0.2")
	url := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	s, err := marathon.New(marathon.Config{URLs: urls, Callback: url, RefreshInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		out, done := make(chan catalog.Snapshot, 100), make(chan error)
		go func() { done <- s.Run(ctx, out) }()
		if err := c.WaitRequest(t.Context(), "POST /v2/eventSubscriptions", 2*(round+1)); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(c.Callbacks()); got != "["+url+"]" {
			t.Errorf("subscribers: %s", got)
		}
		cancel()
		<-done
		if got := c.Callbacks(); len(got) != 0 {
			t.Errorf("subscribers after the end: %s", got)
		}
	}
}
