package marathon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
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
