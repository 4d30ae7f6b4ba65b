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

// farm is a Marathon for synctest whose answers are functions; an answer is made when it is asked for, and comes after a delay.
type farm struct {
	lock    sync.Mutex
	apps    map[string]func() string // id -> the app's JSON; "" is 404
	delay   map[string]time.Duration // path suffix -> delay
	streams []*io.PipeWriter
	began   time.Time
	log     []string
}

func (s *farm) RoundTrip(req *http.Request) (*http.Response, error) {
	s.lock.Lock()
	path := strings.TrimPrefix(req.URL.Path, "/v2/")
	s.log = append(s.log, fmt.Sprintf("%.1f %s", time.Since(s.began).Seconds(), path))
	if path == "events" {
		defer s.lock.Unlock()
		r, w := io.Pipe()
		context.AfterFunc(req.Context(), func() { w.CloseWithError(req.Context().Err()) })
		s.streams = append(s.streams, w)
		return &http.Response{Request: req, StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: r}, nil
	}
	status, body := 200, ""
	if path == "apps" {
		var all []string
		for _, a := range s.apps {
			if text := a(); text != "" {
				all = append(all, text)
			}
		}
		body = `{"apps":[` + strings.Join(all, ",") + `]}`
	} else if a := s.apps[strings.TrimPrefix(path, "apps")]; a != nil && a() != "" {
		body = `{"app":` + a() + `}`
		if a() == "500" {
			status, body = 500, "{}"
		}
	} else {
		status, body = 404, "{}"
	}
	delay := s.delay[path]
	s.lock.Unlock()
	select {
	case <-time.After(delay):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	return &http.Response{Request: req, StatusCode: status, Body: io.NopCloser(strings.NewReader(body))}, nil
}

func (s *farm) put(id string, app func() string) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.apps[id] = app
}
func (s *farm) json(id, app string) { s.put(id, func() string { return app }) }
func (s *farm) slow(path string, d time.Duration) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.delay[path] = d
}
func (s *farm) send(event string) {
	s.lock.Lock()
	w := s.streams[len(s.streams)-1]
	s.lock.Unlock()
	io.WriteString(w, "data: "+event+"\r\n\r\n")
}
func (s *farm) cut() {
	s.lock.Lock()
	w := s.streams[len(s.streams)-1]
	s.lock.Unlock()
	w.Close()
}
func (s *farm) requests() (lists, singles int, text string) {
	s.lock.Lock()
	defer s.lock.Unlock()
	for _, l := range s.log {
		switch {
		case strings.HasSuffix(l, " apps"):
			lists++
		case strings.Contains(l, " apps/"):
			singles++
		}
	}
	text = strings.Join(s.log, ", ")
	s.log = nil
	return
}

// runFarm runs a source; serving gives the last snapshot's text.
func runFarm(t *testing.T, s *farm, config Config, steps func(serving func() string)) {
	t.Helper()
	if s.apps == nil {
		s.apps = map[string]func() string{}
	}
	s.delay = map[string]time.Duration{}
	synctest.Test(t, func(t *testing.T) {
		if config.URLs == nil {
			config.URLs = []string{"http://m1"}
		}
		source, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		source.client.http.Transport = s
		s.began = time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		out := make(chan catalog.Snapshot)
		var lock sync.Mutex
		var last catalog.Snapshot
		var wait sync.WaitGroup
		wait.Go(func() {
			if err := source.Run(ctx, out); !errors.Is(err, context.Canceled) {
				t.Errorf("Run ended with %v", err)
			}
			close(out)
		})
		wait.Go(func() {
			for snap := range out {
				lock.Lock()
				last = snap
				lock.Unlock()
			}
		})
		steps(func() string {
			synctest.Wait()
			lock.Lock()
			defer lock.Unlock()
			return catalog.Format(last.Services)
		})
		cancel()
		wait.Wait()
	})
}

func checkedApp(id string, port, checks int, results string) string {
	name := strings.TrimPrefix(id, "/")
	return fmt.Sprintf(`{"id":%q,"version":"2016-01-02","ports":[%d],"healthChecks":[%s],"tasks":[
	{"id":"%s.u1","host":"10.0.0.1","ports":[%d],"state":"TASK_RUNNING","version":"2016-01-02","healthCheckResults":[%s]}]}`,
		id, port, strings.TrimSuffix(strings.Repeat("{},", checks), ","), name, port+20000, results)
}

// A failover's storm that lasts as long as a check's interval, lists that take 300 ms.
func storm(t *testing.T, n int, quiet, list, over time.Duration, app func(i int, results string) string, events func(i int) []string) (lists, singles int, text string) {
	s := &farm{apps: map[string]func() string{}}
	results := make([]string, n)
	for i := range n {
		results[i] = `{"alive":true}`
		s.put(fmt.Sprintf("/a%d", i), func() string { return app(i, results[i]) })
	}
	runFarm(t, s, Config{RefreshInterval: time.Hour}, func(serving func() string) {
		time.Sleep(time.Second)
		up := serving()
		if strings.Count(up, "10.0.0.1") != n {
			t.Fatalf("served %s", up)
		}
		time.Sleep(time.Minute)
		s.requests()
		s.slow("apps", list)
		s.lock.Lock()
		clear(results)
		s.lock.Unlock()
		s.cut()
		time.Sleep(quiet)
		for i := range n {
			s.lock.Lock()
			results[i] = `{"alive":true}`
			s.lock.Unlock()
			for _, e := range events(i) {
				s.send(e)
			}
			time.Sleep(over / time.Duration(n))
			if serving() != up {
				t.Errorf("a server is lost at %d", i)
			}
		}
		time.Sleep(20 * time.Second)
		lists, singles, text = s.requests()
	})
	return
}

func alive(i int) string {
	return fmt.Sprintf(`{"eventType":"health_status_changed_event","appId":"/a%d","taskId":"a%d.u1","version":"2016-01-02","alive":true}`, i, i)
}
