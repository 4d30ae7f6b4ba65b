package fakemarathon

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestAnswersThatBreakOff(t *testing.T) {
	for _, plain := range []bool{false, true} {
		c, r := start(t, GenD)
		c.PutApp(App{ID: "/a"})
		c.SetFaults(func(f *Faults) { f.CutOff, f.NoGzip = 1, plain })
		for _, want := range []error{io.ErrUnexpectedEOF, nil} {
			resp, err := http.Get(r[0].URL() + "/v2/apps")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != want || resp.Uncompressed == plain {
				t.Errorf("plain %v: %v after %q, want %v", plain, err, body, want)
			}
		}
	}
}

func TestTypesThatAreWrong(t *testing.T) {
	c, r := start(t, GenD)
	c.SetFaults(func(f *Faults) { f.PlainType, f.StreamPage = 1, 1 })
	if resp, body := get(t, r[0].URL()+"/v2/apps", "application/json"); body != `{"apps":[]}` || resp.Header.Get("Content-Type") != "text/plain" {
		t.Errorf("%v %s", resp.Header, body)
	}
	if resp, body := get(t, r[0].URL()+"/v2/events", "text/event-stream"); resp.StatusCode != 200 || body != page {
		t.Errorf("%s %s", resp.Status, body)
	}
}

func TestOnlyWholeListsAreHeld(t *testing.T) {
	c, r := start(t, GenD)
	c.PutApp(App{ID: "/a"})
	release := make(chan struct{})
	c.SetFaults(func(f *Faults) { f.HoldLists = release })
	list := make(chan string)
	go func() {
		defer close(list)
		_, body := get(t, r[0].URL()+"/v2/apps", "*/*")
		list <- body
	}()
	if err := c.WaitRequest(t.Context(), "GET /v2/apps", 1); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v2/apps//a", "/v2/apps//a/tasks"} {
		if resp, _ := get(t, r[0].URL()+path, "*/*"); resp.StatusCode != 200 {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	select {
	case body := <-list:
		t.Errorf("the list came: %s", body)
	default:
	}
	c.RemoveApp("/a")
	close(release)
	if body := <-list; !strings.Contains(body, `"/a"`) {
		t.Errorf("the list is not of the moment when it was asked for: %s", body)
	}
}

func TestFrozenStreamsStayOpenAndSilent(t *testing.T) {
	c, r := start(t, GenD)
	_, old := open(t, c, r[0].URL()+"/v2/events?event_type=mark")
	c.FreezeStreams()
	_, fresh := open(t, c, r[0].URL()+"/v2/events?event_type=mark")
	c.Emit("mark", nil)
	frame(t, fresh)
	if n := c.Streams(); n != 2 {
		t.Errorf("%d streams are open, want 2", n)
	}
	c.CloseStreams()
	if rest, _ := io.ReadAll(old); len(rest) > 0 {
		t.Errorf("the frozen stream told %q", rest)
	}
}
