package fakemarathon

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestEventFramesByRelease(t *testing.T) {
	tests := []struct {
		gen               Generation
		named, all, light bool // the query asks for two types and a light plan
	}{
		{"0.10", false, true, false},
		{GenA, true, true, false},
		{GenB, true, false, false},
		{"1.6", true, false, true},
		{GenD, true, false, true},
	}
	for _, tt := range tests {
		t.Run(string(tt.gen), func(t *testing.T) {
			c, r := start(t, tt.gen)
			c.SetPlanSize(256 << 10)
			resp, events := open(t, c, r[0].URL()+"/v2/events?event_type=deployment_info&event_type=last&plan-format=light")
			if h := resp.Header.Get("Content-Type"); h != "text/event-stream;charset=utf-8" || len(resp.TransferEncoding) > 0 || resp.ContentLength != -1 || !resp.Close {
				t.Errorf("type %q, encoding %q, length %d, close %v", h, resp.TransferEncoding, resp.ContentLength, resp.Close)
			}
			c.PutApp(App{ID: "/a"})
			c.Emit("last", object{"x": 1})
			info := until(t, events, `"eventType":"deployment_info"`)
			if light := len(info) < 4096; light != tt.light {
				t.Errorf("a plan of %d bytes, light: want %v", len(info), tt.light)
			}
			next := frame(t, events)
			if all := !strings.Contains(next, `"eventType":"last"`); all != tt.all {
				t.Errorf("then %q, unfiltered: want %v", next, tt.all)
			}
			if named := strings.HasPrefix(next, "event: "); named != tt.named || !strings.HasSuffix(next, "}\r\n") {
				t.Errorf("frame %q, named: want %v", next, tt.named)
			}
		})
	}
}

func TestOnlyTheExactAcceptOpensAStream(t *testing.T) {
	_, r := start(t, GenD)
	for _, accept := range []string{"*/*", "text/event-stream, */*", "application/json"} {
		if resp, _ := get(t, r[0].URL()+"/v2/events", accept); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("Accept %q: %s, want 405", accept, resp.Status)
		}
	}
}

func TestKeepAliveIsAnEmptyLine(t *testing.T) {
	c, r := start(t, GenD)
	c.SetFaults(func(f *Faults) { f.KeepAlive = time.Millisecond })
	_, events := open(t, c, r[0].URL()+"/v2/events?event_type=none")
	b := make([]byte, 4)
	if _, err := io.ReadFull(events, b); err != nil || string(b) != "\r\n\r\n" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestLostEvents(t *testing.T) {
	c, r := start(t, GenD)
	_, events := open(t, c, r[0].URL()+"/v2/events?event_type=mark")
	c.Emit("mark", object{"n": "first"})
	c.SetFaults(func(f *Faults) { f.Silent = true })
	c.Emit("mark", object{"n": "silent"})
	c.SetFaults(func(f *Faults) { f.Silent, f.DropEvents = false, 1 })
	c.Emit("mark", object{"n": "dropped"})
	c.Emit("mark", object{"n": "last"})
	c.WriteStreams("event: mark\r\ndata: {}{}\r\n\r\n")
	for _, want := range []string{`"n":"first"`, `"n":"last"`, "data: {}{}"} {
		if got := frame(t, events); !strings.Contains(got, want) {
			t.Errorf("got %q, want %s", got, want)
		}
	}
}

func TestSlowReader(t *testing.T) {
	for gen, open1 := range map[Generation]int{"1.7": 1, "1.8": 0} {
		t.Run(string(gen), func(t *testing.T) {
			c, r := start(t, gen)
			c.SetFaults(func(f *Faults) { f.Queue = 2 })
			_, events := open(t, c, r[0].URL()+"/v2/events?event_type=big")
			const sent = 64 // MB: more than the kernel holds for a reader that does not read
			for range sent {
				c.WriteStreams("event: big\r\ndata: " + strings.Repeat("x", 1<<20) + "\r\n\r\n")
			}
			if got := c.Streams(); got != open1 {
				t.Errorf("%d streams are open, want %d", got, open1)
			}
			c.CloseStreams()
			all, _ := io.ReadAll(events)
			if n := strings.Count(string(all), "event: big"); n == sent {
				t.Errorf("all %d events came", n)
			}
		})
	}
}

func TestStreamThatEndsAtOnce(t *testing.T) {
	c, r := start(t, GenD)
	c.SetFaults(func(f *Faults) { f.StreamEOF = 1 })
	if resp, body := get(t, r[0].URL()+"/v2/events", "text/event-stream"); resp.StatusCode != 200 || body != "" {
		t.Errorf("%s %q, want 200 and nothing", resp.Status, body)
	}
	open(t, c, r[0].URL()+"/v2/events")
}

func TestStreamsAreCounted(t *testing.T) {
	c, r := start(t, GenD)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r[0].URL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET /v2/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
	if err := c.WaitStream(ctx); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := c.wait(ctx, func() bool { return len(c.streams) == 0 }); err != nil {
		t.Errorf("the stream of a client that left: %v", err)
	}
}

func TestFailOver(t *testing.T) {
	c, r := start(t, GenD, "127.0.0.2:0")
	c.PutApp(App{ID: "/a", HealthChecks: 2})
	c.PutApp(App{ID: "/m", HealthChecks: 1, MesosChecks: true})
	task, kept := c.AddTask("/a", Task{}), c.AddTask("/m", Task{})
	c.SetHealth(task.ID, true, true)
	c.SetHealth(kept.ID, true)
	_, old := open(t, c, r[0].URL()+"/v2/events")
	c.FailOver(1)
	if _, err := io.ReadAll(old); err != nil || c.Streams() != 0 {
		t.Errorf("after the failover %d streams, %v", c.Streams(), err)
	}
	if h := c.Tasks(); len(h[0].Health) != 0 || len(h[1].Health) != 1 {
		t.Errorf("health %v and %v, want none and one", h[0].Health, h[1].Health)
	}
	_, events := open(t, c, r[1].URL()+"/v2/events?event_type=health_status_changed_event")
	c.RestoreHealth()
	for range 2 {
		if f := frame(t, events); !strings.Contains(f, `"alive":true`) || !strings.Contains(f, instanceID(task.ID)) {
			t.Errorf("storm of %q", f)
		}
	}
	if h := c.Tasks()[0].Health; len(h) != 2 {
		t.Errorf("restored %v", h)
	}
}

func TestKillingComesBeforeKilled(t *testing.T) {
	tests := map[Generation]string{"0.11": "TASK_KILLED", "1.8": "TASK_KILLING"}
	for gen, want := range tests {
		t.Run(string(gen), func(t *testing.T) {
			c, r := start(t, gen)
			c.PutApp(App{ID: "/a"})
			task := c.AddTask("/a", Task{})
			_, events := open(t, c, r[0].URL()+"/v2/events")
			c.Kill(task.ID)
			if f := until(t, events, "status_update_event"); !strings.Contains(f, `"`+want+`"`) {
				t.Errorf("first %q, want %s", f, want)
			}
			if n := len(c.Tasks()); n != 0 {
				t.Errorf("%d tasks are left", n)
			}
		})
	}
}

func TestRemovedAppEndsItsTasks(t *testing.T) {
	c, r := start(t, GenC)
	c.PutApp(App{ID: "/a"})
	task := c.AddTask("/a", Task{})
	_, events := open(t, c, r[0].URL()+"/v2/events?event_type=app_terminated_event&event_type=unhealthy_instance_kill_event")
	c.KillUnhealthy(task.ID)
	c.RemoveApp("/a")
	for _, want := range []string{`"taskId":"` + task.ID, `"appId":"/a"`} {
		if f := frame(t, events); !strings.Contains(f, want) {
			t.Errorf("%q, want %s", f, want)
		}
	}
	if len(c.Apps())+len(c.Tasks()) != 0 {
		t.Errorf("left: %v, %v", c.Apps(), c.Tasks())
	}
}

func TestCallbacks(t *testing.T) {
	_, r := start(t, GenB)
	got := make(chan string)
	subscriber := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		select {
		case got <- req.Header.Get("Content-Type") + " " + string(b):
		case <-req.Context().Done():
		}
	}))
	defer subscriber.Close()
	url := r[0].URL() + "/v2/eventSubscriptions?callbackUrl=" + subscriber.URL
	for _, method := range []string{http.MethodPost, http.MethodPost, http.MethodDelete} {
		req, _ := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("{}"))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		list := mustJSON(getJSON(t, r[0].URL()+"/v2/eventSubscriptions"))
		if subscribed := strings.Contains(list, subscriber.URL); subscribed != (method == http.MethodPost) {
			t.Errorf("after %s: %s", method, list)
		}
	}
	for range 2 { // the second POST is told to the subscriber that is there already
		if event := <-got; !strings.HasPrefix(event, "text/plain {") || !strings.Contains(event, `"subscribe_event"`) {
			t.Errorf("posted %q", event)
		}
	}
}

func TestCallbacksElsewhere(t *testing.T) {
	c, r := start(t, "1.4")
	c.SetFaults(func(f *Faults) { f.NoCallbacks = true })
	if resp, _ := get(t, r[0].URL()+"/v2/eventSubscriptions", "*/*"); resp.StatusCode != 400 {
		t.Errorf("without the option %s, want 400", resp.Status)
	}
	_, r = start(t, "1.5")
	if resp, _ := get(t, r[0].URL()+"/v2/eventSubscriptions", "*/*"); resp.StatusCode != 404 {
		t.Errorf("1.5: %s, want 404", resp.Status)
	}
}

func TestFailingCallbackIsSkippedForEverLonger(t *testing.T) {
	c := New(GenB)
	sub := &callback{}
	for _, want := range []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second} {
		before := time.Now()
		c.report(sub, false)
		if got := sub.skipUntil.Sub(before).Truncate(2 * time.Second); got != want {
			t.Errorf("skipped for %s, want %s", got, want)
		}
	}
	c.report(sub, true)
	if !sub.skipUntil.IsZero() {
		t.Error("still skipped after a success")
	}
}
