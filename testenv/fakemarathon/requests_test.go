package fakemarathon

import (
	"net/http"
	"testing"
)

func TestRequestsAreCountedByWhatTheyAreFor(t *testing.T) {
	c, r := start(t, GenD, "127.0.0.2:0")
	version := c.PutApp(App{ID: "/a/b"})
	before := c.Asked()
	for _, path := range []string{"/v2/apps?embed=apps.tasks", "/v2/tasks", "/v2/apps//a/b", "/v2/apps//a/b/tasks",
		"/v2/apps//a/b/versions/" + version, "/ping", "/v2/apps//none"} {
		get(t, r[0].URL()+path, "application/json")
	}
	resp, _ := open(t, c, r[0].URL()+"/v2/events")
	resp.Body.Close()
	r[1].SetFaults(func(f *Faults) { f.Standby = StandbyRedirects })
	if resp, _ := get(t, r[1].URL()+"/v2/apps", "application/json"); resp.StatusCode != http.StatusFound {
		t.Errorf("the standby answers %s", resp.Status)
	}
	want := Asked{Lists: 2, Apps: 2, Versions: 1, Streams: 1, Others: 1, Refused: 2}
	if got := c.Asked().Since(before); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := before, (Asked{}); got != want {
		t.Errorf("at first %+v", got)
	}
}
