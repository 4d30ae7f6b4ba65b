package marathon

import (
	"bytes"
	"context"
	"encoding/json"
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

func TestParseCallback(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"http://me:5090", "5090  <nil>"},
		{"http://me:5090/", "5090  <nil>"},
		{"http://me/events/", "80 /events <nil>"},
		{"http://[::1]:5090/a%20b", "5090 /a b <nil>"},
	} {
		port, path, err := parseCallback(c.url)
		if got := fmt.Sprint(port, " ", path, " ", err); got != c.want {
			t.Errorf("%s: got %q, want %q", c.url, got, c.want)
		}
	}
	for _, bad := range []string{"me:5090", "https://me:5090", "http://:5090", "http://a:b@me:5090", "http://me:5090?x", "http://me:5090#x", "http://me:0", "http://me:99999", "http://me:x"} {
		if _, _, err := parseCallback(bad); err == nil {
			t.Errorf("%s: no error", bad)
		}
		if _, err := New(Config{URLs: []string{"http://m"}, Callback: bad}); err == nil {
			t.Errorf("New with %s: no error", bad)
		}
	}
}

func TestEventsThatNeverComeAreNoticed(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps string // c: a reading finds a change, s: a reading finds the same, e: an event
		want  bool
	}{
		{"nothing changes", "ssss", false},
		{"one change may just be before its event", "c", false},
		{"two changes", "cc", true},
		{"two changes, with nothing in between", "cssc", true},
		{"events announce both", "ecec", false},
		{"an event after the first", "cec", false},
		{"an event clears it", "cccec", false},
		{"and it comes again", "cceccc", true},
	} {
		var r reach
		for _, step := range c.steps {
			switch step {
			case 'e':
				r = reach{heard: true}
			default:
				r = r.read(step == 'c')
			}
		}
		if r.lost() != c.want {
			t.Errorf("%s (%s): got %v, want %v", c.name, c.steps, r.lost(), c.want)
		}
	}
}

func TestReadPost(t *testing.T) {
	long := `"` + strings.Repeat("x", maxHead) + `"`
	for _, c := range []struct {
		name, body string
		status     int
		matters    bool
	}{
		{"one that matters", `{"eventType":"status_update_event","taskStatus":"TASK_KILLED"}`, 200, true},
		{"one that does not", `{"eventType":"subscribe_event"}`, 200, false},
		{"staging", `{"eventType":"status_update_event","taskStatus":"TASK_STAGING"}`, 200, false},
		{"nothing", ``, 200, true},
		{"no JSON", `hello`, 200, true},
		{"no object", `[1]`, 200, true},
		{"half an event that would not matter", `{"eventType":"subscribe_event"`, 200, true},
		{"two events", `{"eventType":"subscribe_event"}{"eventType":"api_post_event"}`, 200, true},
		{"one that would not matter, but is too long to look at", `{"eventType":"deployment_info","plan":` + long + `}`, 200, true},
		{"more than is read", long + long + long, 413, true},
	} {
		body := http.MaxBytesReader(nil, io.NopCloser(strings.NewReader(c.body)), 3*maxHead)
		e, status := readPost(body)
		if status != c.status || e.matters() != c.matters {
			t.Errorf("%s: got %d, matters %v, want %d, %v", c.name, status, e.matters(), c.status, c.matters)
		}
	}
	if _, status := readPost(io.MultiReader(strings.NewReader("{"), brokenOff{})); status != 400 {
		t.Errorf("a body that breaks off: %d, want 400", status)
	}
}

// brokenOff is a body whose sender is gone.
type brokenOff struct{}

func (brokenOff) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestOnlyPostsToThePathCount(t *testing.T) {
	for _, c := range []struct {
		path, method, target string
		want                 int
	}{
		{"", "POST", "/", 200},
		{"/", "POST", "/", 200},
		{"/", "POST", "/x", 404},
		{"/x", "POST", "/x", 200},
		{"/x", "POST", "/x/", 200},
		{"/x", "POST", "/", 404},
		{"/x", "POST", "/xy", 404},
		{"/x", "GET", "/x", 405},
		{"/x", "GET", "/y", 404},
	} {
		callbacks := newCallbacks(Config{Callback: "http://me:5090" + c.path}, nil, nil, func() {})
		w := httptest.NewRecorder()
		callbacks.receive(w, httptest.NewRequest(c.method, c.target, strings.NewReader("{}")))
		if w.Code != c.want || len(callbacks.posted) != btoi(c.want == 200) {
			t.Errorf("%s %s at %q: got %d and %d hints, want %d", c.method, c.target, c.path, w.Code, len(callbacks.posted), c.want)
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// A burst is one hint, 100 ms after its last event; one that does not end gives a hint each second.
func TestABurstOfEventsIsOneHint(t *testing.T) {
	for _, c := range []struct {
		name         string
		events       int
		apart        time.Duration
		first, hints string
	}{
		{"one", 1, 0, "0.10", "1"},
		{"many at once", 1000, 0, "0.10", "1"},
		{"one after another", 10, 50 * time.Millisecond, "0.55", "1"},
		{"slowly: each for itself", 3, 200 * time.Millisecond, "0.10", "3"},
		{"on and on", 70, 50 * time.Millisecond, "1.00", "4"},
	} {
		synctest.Test(t, func(t *testing.T) {
			callbacks := newCallbacks(Config{Callback: "http://me:5090", Settle: 100 * time.Millisecond}, nil, nil, func() {})
			ctx, cancel := context.WithCancel(t.Context())
			var wait sync.WaitGroup
			wait.Go(func() { callbacks.gather(ctx) })
			began, first, hints := time.Now(), "", 0
			wait.Go(func() {
				for {
					select {
					case <-ctx.Done():
						return
					case <-callbacks.hints:
						if hints++; hints == 1 {
							first = fmt.Sprintf("%.2f", time.Since(began).Seconds())
						}
					}
				}
			})
			for range c.events {
				callbacks.arrived(event{Type: "api_post_event"})
				time.Sleep(c.apart)
			}
			time.Sleep(10 * time.Second)
			cancel()
			wait.Wait()
			if first != c.first || fmt.Sprint(hints) != c.hints {
				t.Errorf("%s: first hint after %s s, %d hints, want %s s and %s", c.name, first, hints, c.first, c.hints)
			}
		})
	}
}

func FuzzReadPost(f *testing.F) {
	f.Add([]byte(`{"eventType":"api_post_event"}`))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, status := readPost(bytes.NewReader(body))
		if status != http.StatusOK || !json.Valid(body) && !e.matters() {
			t.Errorf("%q: got %d, %+v", body, status, e)
		}
	})
}
