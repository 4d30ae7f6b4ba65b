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
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // so that a stream that opens wrongly fails the test
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
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

// frame reads one frame and gives its lines as they are.
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

func TestFaultsOfAnswers(t *testing.T) {
	tests := []struct {
		name, path string
		fault      func(*Faults)
		status     int
		body       string
	}{
		{"unavailable", "/ping", func(f *Faults) { f.Unavailable = 1 }, 503, `{"message":"Service Unavailable"}`},
		{"unavailable for a while", "/v2/apps", func(f *Faults) { f.UnavailableUntil = time.Now().Add(time.Hour) }, 503, `{"message":"Service Unavailable"}`},
		{"empty body", "/v2/apps", func(f *Faults) { f.EmptyBody = 1 }, 200, ""},
		{"truncated", "/v2/leader", func(f *Faults) { f.Truncated = 1 }, 200, `{"leader":"127`},
		{"wrong type", "/v2/apps", func(f *Faults) { f.WrongType = 1 }, 200, "<html><body>It works!</body></html>"},
		{"no apps", "/v2/apps", func(f *Faults) { f.EmptyLists = 1 }, 200, `{"apps":[]}`},
		{"no tasks", "/v2/tasks", func(f *Faults) { f.EmptyLists = 1 }, 200, `{"tasks":[]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, r := start(t, GenD)
			c.PutApp(App{ID: "/a"})
			c.AddTask("/a", Task{})
			_, healthy := get(t, r[0].URL()+tt.path, "application/json")
			c.SetFaults(tt.fault)
			resp, body := get(t, r[0].URL()+tt.path, "application/json")
			if resp.StatusCode != tt.status || !strings.HasPrefix(body, tt.body) || body == healthy || len(body) > len(tt.body)+10 {
				t.Errorf("%s %q, want %d %q", resp.Status, body, tt.status, tt.body)
			}
			c.SetFaults(func(f *Faults) { f.UnavailableUntil = time.Time{} })
			if _, body := get(t, r[0].URL()+tt.path, "application/json"); body != healthy {
				t.Errorf("then %q, want %q", body, healthy)
			}
		})
	}
}

func TestHalfOfTheTasksIsMissing(t *testing.T) {
	c, r := start(t, GenD)
	c.PutApp(App{ID: "/a"})
	c.AddTask("/a", Task{ID: "a.1"})
	c.AddTask("/a", Task{ID: "a.2"})
	_, healthy := get(t, r[0].URL()+"/v2/apps/a?embed=apps.tasks", "application/json")
	c.SetFaults(func(f *Faults) { f.HalfTasks = 1 })
	_, half := get(t, r[0].URL()+"/v2/apps/a?embed=apps.tasks", "application/json")
	if !strings.Contains(half, `"instances":2`) || !strings.Contains(half, `"a.1"`) || strings.Contains(half, `"a.2"`) {
		t.Errorf("got %s", half)
	}
	if _, body := get(t, r[0].URL()+"/v2/apps/a?embed=apps.tasks", "application/json"); body != healthy {
		t.Errorf("then %q, want %q", body, healthy)
	}
}

func TestStaleAndHeldAnswersShowAnOlderState(t *testing.T) {
	c, r := start(t, GenD, "127.0.0.2:0")
	c.PutApp(App{ID: "/old"})
	r[1].SetFaults(func(f *Faults) { f.Stale = true })
	release := make(chan struct{})
	r[0].SetFaults(func(f *Faults) { f.Hold = release })
	held := make(chan string, 1)
	go func() {
		defer close(held)
		resp, err := http.Get(r[0].URL() + "/v2/apps")
		if err != nil {
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		held <- string(body)
	}()
	if err := c.WaitRequest(t.Context(), "GET /v2/apps", 1); err != nil {
		t.Fatal(err)
	}
	c.PutApp(App{ID: "/new"})
	_, stale := get(t, r[1].URL()+"/v2/apps", "application/json")
	for range 100 { // an answer that is not held has time enough to overtake these
		get(t, r[1].URL()+"/ping", "*/*")
	}
	select {
	case body := <-held:
		t.Fatalf("not held: %s", body)
	default:
	}
	close(release)
	for _, body := range []string{<-held, stale} {
		if !strings.Contains(body, `"/old"`) || strings.Contains(body, `"/new"`) {
			t.Errorf("got %s, want the older state", body)
		}
	}
}

func TestStandby(t *testing.T) {
	tests := []struct {
		name, path string
		gen        Generation
		leader     int
		way        Standby
		status     int
		via        bool
	}{
		{"proxies listings", "/v2/apps", GenD, 0, StandbyByRelease, 200, true},
		{"redirects the stream", "/v2/events", GenD, 0, StandbyByRelease, 302, false},
		{"redirects everything", "/v2/apps", GenB, 0, StandbyRedirects, 302, false},
		{"answers from nothing", "/v2/apps", "0.8", 0, StandbyOwnAnswer, 200, false},
		{"answers nothing", "/v2/apps", "0.8", 0, StandbyEmptyAnswer, 200, false},
		{"knows no leader", "/ping", GenB, -1, StandbyByRelease, 503, false},
		{"knows no leader, later", "/v2/leader", GenD, -1, StandbyByRelease, 502, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, r := start(t, tt.gen, "127.0.0.2:0")
			c.SetFaults(func(f *Faults) { f.Standby = tt.way })
			c.FailOver(tt.leader)
			resp, _ := get(t, r[1].URL()+tt.path, "text/event-stream")
			if resp.StatusCode != tt.status || (resp.Header.Get("X-Marathon-Via") != "") != tt.via {
				t.Errorf("%s, header %v", resp.Status, resp.Header)
			}
			if to := resp.Header.Get("Location"); tt.status == 302 && to != r[0].URL()+tt.path {
				t.Errorf("redirect to %q", to)
			}
		})
	}
}

func TestProxiedStreamEndsWithItsLeader(t *testing.T) {
	c, r := start(t, GenC, "127.0.0.2:0")
	resp, events := open(t, c, r[1].URL()+"/v2/events")
	if resp.Header.Get("X-Marathon-Leader") != r[0].URL() || resp.Header.Get("X-Marathon-Via") == "" {
		t.Errorf("header %v", resp.Header)
	}
	r[0].Close()
	if _, err := io.ReadAll(events); err != nil {
		t.Error(err)
	}
	if resp, _ := get(t, r[1].URL()+"/v2/apps", "*/*"); resp.StatusCode != 503 {
		t.Errorf("without a leader that lives: %s, want 503", resp.Status)
	}
}

func TestCredentialsAreAskedForOnEverything(t *testing.T) {
	c, r := start(t, GenD)
	for want, set := range map[string]func(*Faults){
		"Basic dTpw": func(f *Faults) { f.BasicAuth = "u:p" },
		"token=abc":  func(f *Faults) { f.BasicAuth, f.Token = "", "abc" },
	} {
		c.SetFaults(func(f *Faults) { *f = Faults{} })
		c.SetFaults(set)
		for _, path := range []string{"/ping", "/v2/apps", "/v2/events"} {
			if resp, _ := get(t, r[0].URL()+path, "text/event-stream"); resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s without credentials: %s", path, resp.Status)
			}
		}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, r[0].URL()+"/v2/info", nil)
		req.Header.Set("Authorization", want)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("with %s: %s", want, resp.Status)
		}
	}
}

func TestCompressionAndTypeByRelease(t *testing.T) {
	for gen, want := range map[Generation]string{GenA: "application/json;qs=2 ", GenB: "application/json;qs=2 gzip", GenD: "application/json gzip"} {
		_, r := start(t, gen)
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, r[0].URL()+"/v2/apps", nil)
		req.Header.Set("Accept-Encoding", "gzip")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Content-Type") + " " + resp.Header.Get("Content-Encoding"); got != want {
			t.Errorf("%s: %s, want %s", gen, got, want)
		}
	}
}

func TestRawAppsStandBesideTheOthers(t *testing.T) {
	c, r := start(t, GenD)
	c.PutApp(App{ID: "/a"})
	c.RawApp(json.RawMessage(`null`))
	c.RawApp(json.RawMessage(`{"id":"/odd","labels":{"a":1}}`))
	apps := getJSON(t, r[0].URL()+"/v2/apps")["apps"].([]any)
	if len(apps) != 3 || apps[1] != nil || mustJSON(apps[2]) != `{"id":"/odd","labels":{"a":1}}` {
		t.Errorf("apps %s", mustJSON(apps))
	}
	if got := mustJSON(getJSON(t, r[0].URL()+"/v2/apps//odd")); got != `{"app":{"id":"/odd","labels":{"a":1}}}` {
		t.Errorf("one: %s", got)
	}
	c.RemoveApp("/odd")
	if n := len(getJSON(t, r[0].URL()+"/v2/apps")["apps"].([]any)); n != 2 {
		t.Errorf("%d apps after the removal", n)
	}
	if got := c.Requests()["GET /v2/apps//odd"]; got != 1 {
		t.Errorf("%d requests counted, want 1", got)
	}
}

func TestControl(t *testing.T) {
	c, r := start(t, GenD, "127.0.0.2:0")
	if err := c.Load([]byte(`[{"id":"/a/b","ports":[{"servicePort":8300}],"tasks":[{"id":"t1"},{"id":"t2","ports":[4000]}]}]`)); err != nil {
		t.Fatal(err)
	}
	steps := []struct{ method, path, body, want string }{
		{"PUT", "apps", `{"id":"/c"}`, "/a/b /c t1 t2"},
		{"POST", "apps//a/b/tasks", `{"id":"t3"}`, "/a/b /c t1 t2 t3"},
		{"POST", "apps/none/tasks", ``, "400 /a/b /c t1 t2 t3"},
		{"PUT", "tasks/t1", `{"health":[true]}`, "/a/b /c t1+ t2 t3"},
		{"POST", "failover?to=1", ``, "/a/b /c t1 t2 t3"},
		{"POST", "restore-health", ``, "/a/b /c t1+ t2 t3"},
		{"DELETE", "tasks/t2", ``, "/a/b /c t1+ t3"},
		{"PUT", "tasks/t3", `{"state":"TASK_FAILED"}`, "/a/b /c t1+"},
		{"DELETE", "apps//a/b", ``, "/c"},
		{"PUT", "faults", `{"emptyLists":-1}`, "/c"},
		{"GET", "apps", ``, "400 /c"},
	}
	for _, step := range steps {
		req, _ := http.NewRequestWithContext(t.Context(), step.method, r[0].URL()+"/fake/"+step.path, strings.NewReader(step.body))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := summary(c, resp.StatusCode); got != step.want {
			t.Errorf("%s %s: %q, want %q", step.method, step.path, got, step.want)
		}
	}
	if _, body := get(t, r[1].URL()+"/v2/apps", "*/*"); body != `{"apps":[]}` || len(c.Requests()) != 1 {
		t.Errorf("got %s after requests %v", body, c.Requests())
	}
}

func summary(c *Cluster, status int) string {
	var words []string
	if status != 200 {
		words = append(words, "400")
	}
	for _, a := range c.Apps() {
		words = append(words, a.ID)
	}
	for _, t := range c.Tasks() {
		words = append(words, t.ID+strings.Repeat("+", len(t.Health)))
	}
	return strings.Join(words, " ")
}
