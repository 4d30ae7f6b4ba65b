package marathon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// sim is a Marathon without sockets, so that synctest can run its time. Its replicas are named by their hosts.
type sim struct {
	lock    sync.Mutex
	tasks   map[string][]int // what a host answers, one answer after another: how many tasks; -1 is a failure. The last one stays
	delay   time.Duration    // of each answer
	deaf    bool             // streams are refused
	ending  bool             // streams end at once
	streams []*io.PipeWriter
	began   time.Time
	log     []string // the requests, with the seconds since the beginning
	busy    int      // lists under way
}

func (s *sim) RoundTrip(req *http.Request) (*http.Response, error) {
	s.lock.Lock()
	host, path := req.URL.Host, req.URL.Path
	s.log = append(s.log, fmt.Sprintf("%.1f %s %s", time.Since(s.began).Seconds(), host, strings.TrimPrefix(path, "/v2/")))
	defer s.lock.Unlock()
	if path == "/v2/events" {
		return s.subscribe(req)
	}
	n := s.tasks[host][0]
	if len(s.tasks[host]) > 1 {
		s.tasks[host] = s.tasks[host][1:]
	}
	if path == "/v2/apps" {
		s.busy++
		defer func() { s.busy-- }()
	}
	if s.busy > 1 {
		return nil, errors.New("two lists at a time")
	}
	delay := s.delay
	s.lock.Unlock()
	time.Sleep(delay) // synctest's time
	s.lock.Lock()
	if n < 0 {
		return nil, fmt.Errorf("trouble %d", -n)
	}
	body := tasksAnswer(n)
	if path != "/v2/apps" {
		body = `{"app":` + strings.TrimSuffix(strings.TrimPrefix(body, `{"apps":[`), `]}`) + `}`
	}
	return &http.Response{Request: req, StatusCode: 200, Body: io.NopCloser(strings.NewReader(body))}, req.Context().Err()
}

func (s *sim) subscribe(req *http.Request) (*http.Response, error) {
	if s.deaf {
		return nil, errors.New("no streams here")
	}
	r, w := io.Pipe()
	context.AfterFunc(req.Context(), func() { w.CloseWithError(req.Context().Err()) })
	s.streams = append(s.streams, w)
	if s.ending {
		w.Close()
	}
	return &http.Response{Request: req, StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream;charset=utf-8"}}, Body: r}, nil
}

func tasksAnswer(n int) string {
	var tasks []string
	for i := range n {
		tasks = append(tasks, fmt.Sprintf(`{"id":"a.%d","host":"10.0.0.%d","ports":[31000],"version":"v1"}`, i, i+1))
	}
	return `{"apps":[{"id":"/a","version":"v1","ports":[8300],"tasks":[` + strings.Join(tasks, ",") + `]}]}`
}

func (s *sim) set(host string, answers ...int) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.tasks[host] = answers
}

// change is an event that matters, on the stream that was opened last.
func (s *sim) change() { s.write("data: {\"eventType\":\"status_update_event\"}\r\n\r\n") }

// changeOf is the same of one app.
func (s *sim) changeOf(app string) {
	s.write(fmt.Sprintf("data: {\"eventType\":\"status_update_event\",\"appId\":%q}\r\n\r\n", app))
}

func (s *sim) write(frame string) {
	s.lock.Lock()
	w := s.streams[len(s.streams)-1]
	s.lock.Unlock()
	io.WriteString(w, frame)
}

// requests gives the requests since the last call.
func (s *sim) requests() string {
	s.lock.Lock()
	defer s.lock.Unlock()
	text := strings.Join(s.log, ", ")
	s.log = nil
	return text
}

// observed collects what Run sends, as text: the seconds, the number of servers, the error, and how old the answer and
// the last sign of life are.
type observed struct {
	lock sync.Mutex
	text []string
}

func (o *observed) take() string {
	synctest.Wait()
	o.lock.Lock()
	defer o.lock.Unlock()
	text := strings.Join(o.text, ", ")
	o.text = nil
	return text
}

// runSim runs a source over the replicas of a sim, in synctest's time, while steps are taken.
func runSim(t *testing.T, s *sim, steps func(o *observed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		urls := []string{"http://m1"}
		if _, ok := s.tasks["m2"]; ok {
			urls = append(urls, "http://m2")
		}
		source, err := New(Config{URLs: urls})
		if err != nil {
			t.Fatal(err)
		}
		source.client.http.Transport = s
		s.began = time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		out, o := make(chan catalog.Snapshot), &observed{}
		var wait sync.WaitGroup
		wait.Go(func() {
			if err := source.Run(ctx, out); !errors.Is(err, context.Canceled) {
				t.Errorf("Run ended with %v", err)
			}
			close(out)
		})
		wait.Go(func() {
			for snap := range out {
				o.lock.Lock()
				text := fmt.Sprintf("%.1f: %d", time.Since(s.began).Seconds(), catalog.CountServers(snap.Services))
				if snap.Err != "" {
					text += fmt.Sprintf(" (%s)", snap.Err)
				}
				if age := time.Since(snap.Succeeded); !snap.Succeeded.IsZero() && age > 0 {
					text += fmt.Sprintf(" read %.1f ago", age.Seconds())
				}
				if !snap.Heard.Equal(snap.Succeeded) && !snap.Heard.IsZero() {
					text += fmt.Sprintf(" heard %.1f ago", time.Since(snap.Heard).Seconds())
				}
				for _, p := range snap.Problems {
					text += " ! " + p.Reason
				}
				o.text = append(o.text, text)
				o.lock.Unlock()
			}
		})
		steps(o)
		cancel()
		wait.Wait()
	})
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

func TestSubscribesFirstAndReadsOnceItCounts(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2}}}
	runSim(t, s, func(o *observed) {
		synctest.Wait()
		expect(t, "requests before the first event", s.requests(), "0.0 m1 events")
		s.write("event: event_stream_attached\r\ndata: {\"eventType\":\"event_stream_attached\"}\r\n\r\n")
		expect(t, "sent", o.take(), "0.0: 2")
		expect(t, "requests after it", s.requests(), "0.0 m1 apps")
	})
}

func TestReadsWithoutAFirstEventToo(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2}}}
	runSim(t, s, func(o *observed) {
		time.Sleep(time.Second)
		expect(t, "sent", o.take(), "0.1: 2")
	})
}

func TestAnEventIsReadAtOnceAndOnceMoreWhenItShowsNothing(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2, 3, 3, 4}}}
	runSim(t, s, func(o *observed) {
		time.Sleep(time.Second)
		o.take()
		s.requests()
		s.change()
		expect(t, "sent at once", o.take(), "1.0: 3")
		time.Sleep(time.Second)
		s.change()
		expect(t, "sent when the list shows nothing yet", o.take(), "")
		time.Sleep(time.Second)
		expect(t, "sent after settling", o.take(), "2.1: 4")
		time.Sleep(10 * time.Second)
		expect(t, "requests", s.requests(), "1.0 m1 apps, 2.0 m1 apps, 2.1 m1 apps")
	})
}

func TestEventsDuringAReadingMakeExactlyOneMore(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2, 3, 4, 5, 6}}, delay: time.Second}
	runSim(t, s, func(o *observed) {
		time.Sleep(5 * time.Second)
		o.take()
		s.requests()
		for range 50 {
			s.change()
		}
		time.Sleep(500 * time.Millisecond)
		for range 50 {
			s.change()
		}
		time.Sleep(10 * time.Second)
		expect(t, "requests", s.requests(), "5.0 m1 apps, 6.0 m1 apps")
		expect(t, "sent", o.take(), "6.0: 3, 7.0: 4")
	})
}

func TestPollsEachIntervalAndSendsSignsOfLife(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2}}}
	runSim(t, s, func(o *observed) {
		for range 130 {
			time.Sleep(time.Second)
			s.write("\r")
			s.write("\n")
		}
		expect(t, "sent while keep-alives come each second", o.take(), "0.1: 2, 15.1: 2 read 15.0 ago heard 0.1 ago, "+
			"30.1: 2 read 30.0 ago heard 0.1 ago, 45.1: 2 read 45.0 ago heard 0.1 ago, 60.1: 2 read 60.0 ago heard 0.1 ago, "+
			"75.1: 2 read 15.0 ago heard 0.1 ago, 90.1: 2 read 30.0 ago heard 0.1 ago, 105.1: 2 read 45.0 ago heard 0.1 ago, "+
			"120.1: 2 read 60.0 ago heard 0.1 ago")
		expect(t, "lists", s.requests(), "0.0 m1 events, 0.1 m1 apps, 60.1 m1 apps, 120.1 m1 apps")
	})
}

func TestFailuresAreToldOnceEachAndKeepTheServices(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2}}}
	runSim(t, s, func(o *observed) {
		time.Sleep(29 * time.Second)
		s.write("\r\n")
		time.Sleep(time.Second)
		s.write("\r\n")
		o.take()
		s.set("m1", -1)
		s.change()
		if got := o.take(); !strings.HasSuffix(got, "30.0: 2 (http://m1: trouble 1) read 29.9 ago heard 0.0 ago") {
			t.Errorf("sent when it begins to fail: %s", got)
		}
		time.Sleep(60 * time.Second)
		expect(t, "sent while it fails", o.take(), "")
		s.set("m1", -2)
		time.Sleep(20 * time.Second)
		if got := o.take(); !strings.Contains(got, ": 2 (http://m1: trouble 2) read ") || strings.Contains(got, ",") {
			t.Errorf("sent when the reason changes: %s", got)
		}
		s.set("m1", 2)
		time.Sleep(20 * time.Second)
		if got := o.take(); !strings.HasSuffix(got, ": 2") || strings.Contains(got, ",") {
			t.Errorf("sent when it ceases to fail: %s", got)
		}
	})
}

func TestFailureBeforeTheFirstSuccess(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {-1}}, deaf: true}
	runSim(t, s, func(o *observed) {
		expect(t, "sent", o.take(), "0.0: 0 (http://m1: trouble 1)")
		s.set("m1", 0)
		time.Sleep(time.Minute)
		if got := o.take(); !strings.Contains(got, ": 0 ! http://m1: no streams here; changes are seen each refresh interval (1m0s) only") {
			t.Errorf("sent after an empty cluster's answer, without a stream: %s", got)
		}
	})
}

func TestTheReplicaThatAnsweredIsAskedFirst(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {-1}, "m2": {2, 3}}}
	runSim(t, s, func(o *observed) {
		time.Sleep(time.Second)
		expect(t, "sent", o.take(), "0.1: 2")
		expect(t, "requests at first", s.requests(), "0.0 m1 events, 0.1 m1 apps, 0.1 m2 apps")
		s.change()
		expect(t, "sent", o.take(), "1.0: 3")
		expect(t, "requests then", s.requests(), "1.0 m2 apps")
	})
}

func TestMassLossIsConfirmed(t *testing.T) {
	for _, c := range []struct {
		name       string
		m1, m2     []int
		sent, reqs string
	}{
		{"half is no mass loss", []int{10, 5}, nil, "10.0: 5", "10.0 m1 apps"},
		{"more than half, confirmed", []int{10, 4}, nil, "11.0: 4", "10.0 m1 apps, 11.0 m1 apps"},
		{"everything, confirmed with even less", []int{10, 4, 0}, nil, "11.0: 0", "10.0 m1 apps, 11.0 m1 apps"},
		{"the only one", []int{1, 0}, nil, "11.0: 0", "10.0 m1 apps, 11.0 m1 apps"},
		{"one lie", []int{10, 0, 9}, nil, "11.0: 9", "10.0 m1 apps, 11.0 m1 apps"},
		{"more, but still few: the same rule", []int{10, 0, 3}, nil, "12.0: 3", "10.0 m1 apps, 11.0 m1 apps, 12.0 m1 apps"},
		{"another replica is asked", []int{10, 0}, []int{11}, "11.0: 11", "10.0 m1 apps, 11.0 m2 apps"},
		{"another replica confirms", []int{10, 0}, []int{0}, "11.0: 0", "10.0 m1 apps, 11.0 m2 apps"},
		{"another replica fails: the first confirms", []int{10, 0}, []int{-1}, "11.0: 0", "10.0 m1 apps, 11.0 m2 apps, 11.0 m1 apps"},
		{"nobody confirms: the old ones stay", []int{10, 0, -1, 10}, nil, "11.0: 10 (http://m1: trouble 1) read 10.9 ago heard 1.0 ago", "10.0 m1 apps, 11.0 m1 apps"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &sim{tasks: map[string][]int{"m1": c.m1}}
			if c.m2 != nil {
				s.tasks["m2"] = c.m2
			}
			runSim(t, s, func(o *observed) {
				time.Sleep(10 * time.Second)
				o.take()
				s.requests()
				s.change()
				time.Sleep(900 * time.Millisecond)
				first := o.take() // before anything can be confirmed
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				if c.sent[:2] == "12" {
					time.Sleep(time.Second)
				}
				expect(t, "sent", strings.Trim(first+o.take(), ", "), c.sent)
				expect(t, "requests", s.requests(), c.reqs)
			})
		})
	}
}

func TestASilentStreamIsReplacedByTheNextReplicas(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2, 3}, "m2": {2}}}
	runSim(t, s, func(o *observed) {
		for range 10 {
			time.Sleep(10 * time.Second)
			s.write("\r") // a byte is a sign of life
		}
		time.Sleep(34 * time.Second)
		synctest.Wait()
		if got := s.requests(); strings.Count(got, "events") != 1 {
			t.Errorf("a stream with keep-alives was replaced: %s", got)
		}
		o.take()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := s.requests(); !strings.HasPrefix(got, "135.") || !strings.Contains(got, " m2 events, ") || !strings.Contains(got, " m1 apps") {
			t.Errorf("after 35 s of silence: %s", got)
		}
	})
}

func TestAStreamThatEndsAtOnceIsRetriedWithBackoffAndNoReading(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2}}, ending: true}
	runSim(t, s, func(o *observed) {
		time.Sleep(59 * time.Second)
		synctest.Wait()
		got := s.requests()
		if n := strings.Count(got, "events"); n < 6 || n > 14 {
			t.Errorf("%d subscriptions within 59 s: %s", n, got)
		}
		if n := strings.Count(got, "apps"); n != 1 {
			t.Errorf("%d readings within 59 s, want the first one alone: %s", n, got)
		}
	})
}

func TestTheStreamIsTriedAtTheLeaderAndEverywhere(t *testing.T) {
	for leader, want := range map[string]string{"": "0 1 2 0 1 2", "http://m1": "0 1 0 2 0 0", "http://m2:80": "1 2 1 0 1 1", "http://other": "0 1 2 0 1 2"} {
		f := follower{client: mustNew(t, "http://m1", "http://m2", "http://m3").client}
		if u, err := url.Parse(leader); err == nil && leader != "" {
			f.client.named.Store(u)
		}
		var got []string
		for try := range 6 {
			got = append(got, fmt.Sprint(f.choose(try)))
		}
		expect(t, "replicas, with the leader "+leader, strings.Join(got, " "), want)
	}
}

func TestBackoffDoublesUpToItsCeiling(t *testing.T) {
	b := backoff{first: 500 * time.Millisecond}
	for i, most := range []time.Duration{500, 1000, 2000, 4000, 8000, 15000, 15000} {
		most *= time.Millisecond
		if got := b.next(); got < most/2 || got > most {
			t.Errorf("pause %d is %s, want %s to %s", i, got, most/2, most)
		}
	}
	b.reset()
	if got := b.next(); got > 500*time.Millisecond {
		t.Errorf("after a reset: %s", got)
	}
}
