package fakemarathon

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func start(t *testing.T, gen Generation, addrs ...string) (*Cluster, []*Replica) {
	t.Helper()
	c := New(gen)
	t.Cleanup(c.Close)
	var replicas []*Replica
	for _, addr := range append([]string{"127.0.0.1:0"}, addrs...) {
		r, err := c.Replica(addr)
		if err != nil {
			t.Fatal(err)
		}
		replicas = append(replicas, r)
	}
	return c, replicas
}

// get answers without following redirects.
func get(t *testing.T, url, accept string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func getJSON(t *testing.T, url string) map[string]any {
	t.Helper()
	_, body := get(t, url, "application/json")
	var o map[string]any
	if err := json.Unmarshal([]byte(body), &o); err != nil {
		t.Fatalf("GET %s: %v in %q", url, err, body)
	}
	return o
}

// open attaches a stream and gives its answer; the reader has what follows the header.
func open(t *testing.T, c *Cluster, url string) (*http.Response, *bufio.Reader) {
	t.Helper()
	before := c.Streams()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := (&http.Transport{DisableCompression: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if err := c.wait(ctx, func() bool { return len(c.streams) > before }); err != nil {
		t.Fatal(err)
	}
	return resp, bufio.NewReader(resp.Body)
}

// event reads one frame and gives its lines as they are.
func frame(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("%v after %q", err, b.String())
		}
		if line == "\r\n" && b.Len() > 0 {
			return b.String()
		}
		b.WriteString(strings.TrimPrefix(line, "\r\n"))
	}
}

func until(t *testing.T, r *bufio.Reader, event string) string {
	t.Helper()
	for {
		if f := frame(t, r); strings.Contains(f, event) {
			return f
		}
	}
}

func TestStateIsChangedBeforeTheEvent(t *testing.T) {
	c, r := start(t, GenD)
	_, events := open(t, c, r[0].URL()+"/v2/events")
	c.PutApp(App{ID: "/shop/cart", Ports: []PortMapping{{ServicePort: 8300}}})
	task := c.AddTask("/shop/cart", Task{})
	f := until(t, events, "status_update_event")
	if !strings.HasPrefix(f, "event: status_update_event\r\ndata: {") || !strings.Contains(f, task.ID) {
		t.Errorf("frame %q", f)
	}
	_, body := get(t, r[0].URL()+"/v2/apps?embed=apps.tasks", "application/json")
	if !strings.Contains(body, task.ID) {
		t.Errorf("no %s in %s", task.ID, body)
	}
}
