package marathon

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// office is a Marathon as far as subscriptions go. Its replicas are named by their hosts.
type office struct {
	lock    sync.Mutex
	answers map[string]int // by host, an HTTP status; 0: nobody is there; -1: no answer comes
	began   time.Time
	log     []string
}

func (o *office) RoundTrip(req *http.Request) (*http.Response, error) {
	o.note(req.Method + " " + req.URL.Host)
	o.lock.Lock()
	status := o.answers[req.URL.Host]
	o.lock.Unlock()
	switch {
	case req.URL.Path != "/v2/eventSubscriptions" || req.URL.RawQuery != "callbackUrl=http%3A%2F%2Fme%3A5090%2Fx":
		return nil, fmt.Errorf("unexpected %s", req.URL)
	case status == 0:
		return nil, fmt.Errorf("nobody is there")
	case status < 0:
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Request: req, Body: io.NopCloser(strings.NewReader(`{"message":"so it is"}`))}
	if status == http.StatusFound {
		resp.Header.Set("Location", "http://other"+req.URL.RequestURI())
	}
	return resp, nil
}

func (o *office) note(what string) {
	o.lock.Lock()
	defer o.lock.Unlock()
	o.log = append(o.log, fmt.Sprintf("%.0f %s", time.Since(o.began).Seconds(), what))
}

func (o *office) answer(host string, status int) {
	o.lock.Lock()
	defer o.lock.Unlock()
	o.answers[host] = status
}

// take gives what happened since the last call.
func (o *office) take() string {
	synctest.Wait()
	o.lock.Lock()
	defer o.lock.Unlock()
	text := strings.Join(o.log, ", ")
	o.log = nil
	return text
}

// subscribing keeps a subscription, in synctest's time, while steps are taken. What happened at the end comes back.
func subscribing(t *testing.T, hosts []string, o *office, steps func(c *callbacks)) (atEnd string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var replicas []replica
		for _, host := range hosts {
			r, err := parseReplica("http://" + host)
			if err != nil {
				t.Fatal(err)
			}
			replicas = append(replicas, r)
		}
		client := mustNewClient(t, replicas...)
		client.http.Transport = o
		o.began = time.Now()
		follow := func(ctx context.Context) {
			o.note("stream begins")
			<-ctx.Done()
			o.note("stream ends")
		}
		config := Config{Callback: "http://me:5090/x", RefreshInterval: time.Minute, RetryPause: time.Second, Settle: 100 * time.Millisecond}
		c := newCallbacks(config, client, follow, func() {})
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() {
			stream := fallback{follow: follow}
			c.subscribe(ctx, &stream)
			stream.stop()
		})
		steps(c)
		o.take()
		cancel()
		wait.Wait()
		atEnd = o.take()
	})
	return atEnd
}

// troubles gives what the callbacks complain of, and whether they asked for a reading since the last call.
func troubles(c *callbacks) string {
	synctest.Wait()
	text := "no news"
	select {
	case <-c.hints:
		text = "news"
	default:
	}
	if trouble := c.complaint(); trouble != "" {
		text += ": " + trouble
	}
	return text
}

func TestASubscriptionIsFreshAndKeptAndEnded(t *testing.T) {
	o := &office{answers: map[string]int{"m1": 200}}
	atEnd := subscribing(t, []string{"m1"}, o, func(c *callbacks) {
		expect(t, "at first", o.take(), "0 POST m1, 0 DELETE m1, 0 POST m1")
		expect(t, "then", troubles(c), "news")
		time.Sleep(150 * time.Second)
		expect(t, "each interval", o.take(), "60 POST m1, 120 POST m1")
		expect(t, "then", troubles(c), "no news")
	})
	expect(t, "at the end", atEnd, "150 DELETE m1")
}

func TestASubscriptionIsTriedAgainSoonAndAtEachReplica(t *testing.T) {
	o := &office{answers: map[string]int{"m1": 0, "m2": 503}}
	atEnd := subscribing(t, []string{"m1", "m2"}, o, func(c *callbacks) {
		expect(t, "at first", o.take(), "0 POST m1, 0 POST m2")
		expect(t, "then", troubles(c), "news: no subscription to callbacks: http://m1: nobody is there; http://m2: 503 Service Unavailable: so it is; it is tried again")
		time.Sleep(59 * time.Second)
		if n := strings.Count(o.take(), "POST m2"); n < 4 || n > 15 {
			t.Errorf("tried %d times within 59 s", n)
		}
		expect(t, "still", troubles(c), "no news: no subscription to callbacks: http://m1: nobody is there; http://m2: 503 Service Unavailable: so it is; it is tried again")
		o.answer("m2", 200)
		time.Sleep(16 * time.Second)
		if got := o.take(); !strings.HasSuffix(got, " POST m2") || strings.Count(got, "m2") != 3 || !strings.Contains(got, "DELETE m2") {
			t.Errorf("once a replica answers: %s", got)
		}
		expect(t, "then", troubles(c), "news")
	})
	expect(t, "at the end", atEnd, "75 DELETE m1, 75 DELETE m2")
}

func TestWithoutCallbacksTheStreamIsFollowed(t *testing.T) {
	for status, hint := range map[int]string{400: "", 403: " (no credentials are given; see --marathon-user)", 404: "", 422: ""} {
		o := &office{answers: map[string]int{"m1": status}}
		atEnd := subscribing(t, []string{"m1"}, o, func(c *callbacks) {
			expect(t, "at first", o.take(), "0 POST m1, 0 stream begins")
			reason := fmt.Sprintf("Marathon has no callbacks, so its event stream is followed; remove --marathon-callback, "+
				"or before 1.5 start Marathon with --event_subscriber http_callback: http://m1: %d %s: so it is%s", status, http.StatusText(status), hint)
			expect(t, "then", troubles(c), "news: "+reason)
			time.Sleep(61 * time.Second)
			expect(t, "each interval", o.take(), "60 POST m1")
			expect(t, "said once", troubles(c), "no news: "+reason)
		})
		expect(t, "at the end", atEnd, "61 stream ends")
	}
}

func TestTheStreamEndsOnceThereAreCallbacks(t *testing.T) {
	o := &office{answers: map[string]int{"m1": 404}}
	atEnd := subscribing(t, []string{"m1"}, o, func(c *callbacks) {
		time.Sleep(30 * time.Second)
		o.answer("m1", 0) // it restarts
		time.Sleep(31 * time.Second)
		if got := o.take(); !strings.HasPrefix(got, "0 POST m1, 0 stream begins, 60 POST m1") || strings.Contains(got, "ends") {
			t.Errorf("while it restarts: %s", got)
		}
		o.answer("m1", 200)
		time.Sleep(10 * time.Second)
		if got := o.take(); !strings.Contains(got, " POST m1, ") || !strings.Contains(got, " DELETE m1, ") || !strings.HasSuffix(got, " stream ends") {
			t.Errorf("once there are callbacks: %s", got)
		}
		expect(t, "then", troubles(c), "news")
	})
	expect(t, "at the end", atEnd, "71 DELETE m1")
}

func TestWhatIsNoSubscription(t *testing.T) {
	for status, want := range map[int]string{
		401: "401 Unauthorized: so it is (no credentials are given; see --marathon-user)",
		500: "500 Internal Server Error: so it is",
		302: "it sends us to other by a redirect that only GET can follow; give --marathon that address",
	} {
		o := &office{answers: map[string]int{"m1": status, "other": 200}}
		subscribing(t, []string{"m1"}, o, func(c *callbacks) {
			expect(t, fmt.Sprint(status), troubles(c), "news: no subscription to callbacks: http://m1: "+want+"; it is tried again")
			if got := o.take(); strings.Contains(got, "stream") {
				t.Errorf("%d: %s", status, got)
			}
		})
	}
}

// A silent Marathon may not keep us from ending, and both replicas are tried.
func TestTheEndWaitsThreeSecondsAtMost(t *testing.T) {
	o := &office{answers: map[string]int{"m1": 200, "m2": 200}}
	atEnd := subscribing(t, []string{"m1", "m2"}, o, func(*callbacks) {
		o.take()
		o.answer("m1", -1)
		o.answer("m2", -1)
	})
	expect(t, "at the end", atEnd, "0 DELETE m1, 2 DELETE m2")
}

func TestAnEndDuringASubscriptionEndsThatToo(t *testing.T) {
	o := &office{answers: map[string]int{"m1": -1}}
	atEnd := subscribing(t, []string{"m1"}, o, func(*callbacks) { o.take() })
	expect(t, "at the end", atEnd, "0 DELETE m1")
}

func TestAChangeThatNobodyAnnouncedRenewsTheSubscription(t *testing.T) {
	o := &office{answers: map[string]int{"m1": 200}}
	subscribing(t, []string{"m1"}, o, func(c *callbacks) {
		troubles(c)
		o.take()
		c.polled(true) // the reading that a new subscription asks for
		time.Sleep(10 * time.Second)
		expect(t, "what changed before the subscription", o.take(), "")
		c.polled(false)
		c.polled(true)
		expect(t, "after the first", o.take(), "10 POST m1, 10 DELETE m1, 10 POST m1")
		expect(t, "then", troubles(c), "no news")
		c.polled(true)
		expect(t, "after the second", o.take(), "10 POST m1, 10 DELETE m1, 10 POST m1")
		expect(t, "then", troubles(c), "no news: changes were found by polling that no callback announced: "+
			"Marathon may not reach http://me:5090/x; give --marathon-callback a URL that it reaches")
		c.arrived(event{Type: "subscribe_event"})
		expect(t, "after an event", troubles(c), "no news")
		if len(c.posted) != 1 {
			t.Error("that it is over is not told")
		}
	})
}

func TestAnEmptyAnswerIsNoSubscription(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	defer server.Close()
	r, err := parseReplica(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	err = mustNewClient(t, r).submit(t.Context(), http.MethodPost, "/v2/eventSubscriptions")
	if want := server.URL + ": the answer is no JSON"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
