package marathon

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPathsOfVersions(t *testing.T) {
	for _, c := range []struct {
		key  versionKey
		want string
		ok   bool
	}{
		{versionKey{"/shop/cart", "2015-06-02T09:14:07.331Z"}, "/v2/apps/shop/cart/versions/2015-06-02T09:14:07.331Z", true},
		{versionKey{"/a b?#%", "v/1"}, "/v2/apps/a%20b%3F%23%25/versions/v/1", true},
		{versionKey{"/../../leader", "v"}, "", false},
		{versionKey{"/a", ".."}, "", false},
		{versionKey{"/a", ""}, "", false},
	} {
		if got, ok := apiPath(c.key.app, "versions", c.key.version); got != c.want || ok != c.ok {
			t.Errorf("%v: got %q %v, want %q %v", c.key, got, ok, c.want, c.ok)
		}
	}
}

func TestVersionsAreReadOnceAndForever(t *testing.T) {
	asked := make(map[string]int) // one goroutine at a time: there is one version of each kind
	status, body := 200, `{"id":"/a","ports":[9000]}`
	at := serve(t, "127.0.0.2", func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/v2/apps" {
			io.WriteString(w, `{"apps":[{"id":"/a","version":"v2","ports":[8300],"tasks":[{"id":"a.1","host":"10.0.0.7","ports":[31000],"version":"v1"}]}]}`)
			return
		}
		asked[req.URL.Path]++
		w.WriteHeader(status)
		io.WriteString(w, body)
	})
	read := func(r *reader) string { return readText(t, r) }
	const without = "8300/tcp a mode=tcp source=marathon\n"
	known := mustNew(t, at).reader()
	for range 3 {
		if got := read(known); got != without+"9000/tcp a mode=tcp source=marathon\n  10.0.0.7:31000 check on-host\n" {
			t.Errorf("got %s", got)
		}
	}
	lost := without + "! a.1: the task is left out: the definition of its version v1 has its ports, but "
	status = 404
	pruned := mustNew(t, at).reader()
	for range 3 {
		if got := read(pruned); got != lost+"Marathon no longer knows it\n" {
			t.Errorf("got %s", got)
		}
	}
	status, body = 200, `{"id":"/a","ports":"x"}`
	if got := read(mustNew(t, at).reader()); got != lost+"ports cannot be of type string\n" {
		t.Errorf("got %s", got)
	}
	if n := asked["/v2/apps/a/versions/v1"]; n != 3 {
		t.Errorf("the version was asked for %d times, want once by each reader", n)
	}
}

// versioned is a Marathon with two tasks of /a, whose answers on versions are broken.
type versioned struct {
	current  string            // the version of the app's definition, whose service port is 8300
	tasks    []string          // the tasks' versions
	versions map[string]string // host to its answer on any version: a status, or another error
	asked    int
}

func (v *versioned) RoundTrip(req *http.Request) (*http.Response, error) {
	answer := func(status int, body string) (*http.Response, error) {
		return &http.Response{Request: req, StatusCode: status, Body: io.NopCloser(strings.NewReader(body))}, nil
	}
	if req.URL.Path == "/v2/apps" {
		var tasks []string
		for i, version := range v.tasks {
			tasks = append(tasks, fmt.Sprintf(`{"id":"a.%d","host":"10.0.0.%d","ports":[31000],"version":%q}`, i, i, version))
		}
		return answer(200, fmt.Sprintf(`{"apps":[{"id":"/a","version":%q,"ports":[8300],"tasks":[%s]}]}`, v.current, strings.Join(tasks, ",")))
	}
	v.asked++
	status, err := strconv.Atoi(v.versions[req.URL.Host])
	if err != nil {
		return nil, errors.New(v.versions[req.URL.Host])
	}
	return answer(status, `{"message":"no"}`)
}

func TestAVersionThatIsRefusedCostsItsOwnTasksOnly(t *testing.T) {
	const served = "8300/tcp a mode=tcp source=marathon\n  10.0.0.0:31000 check on-host\n"
	const who = " (no credentials are given; see --marathon-user)"
	const left = served + "! a.1: the task is left out: the definition of its version v1 has its ports, but Marathon does not tell it: "
	for _, c := range []struct{ name, m1, m2, want string }{
		{"all break on it", "500", "500", left + "http://m1: 500 Internal Server Error: no; http://m2: 500 Internal Server Error: no\n"},
		{"an election", "502", "503", "error http://m1: 502 Bad Gateway: no; http://m2: 503 Service Unavailable: no"},
		{"one calls it bad", "cut off", "400", left + "http://m1: cut off; http://m2: 400 Bad Request: no\n"},
		{"forbidden", "403", "403", left + "http://m1: 403 Forbidden: no" + who + "; http://m2: 403 Forbidden: no" + who + "\n"},
		{"one does not know it", "500", "404", served + "! a.1: the task is left out: the definition of its version v1 has its ports, but Marathon no longer knows it\n"},
		{"one breaks, one cannot be reached", "500", "cut off", "error http://m1: 500 Internal Server Error: no; http://m2: cut off"},
		{"wrong credentials", "401", "403", "error http://m1: 401 Unauthorized: no" + who + "; http://m2: 403 Forbidden: no" + who},
		{"no answer at all", "cut off", "cut off", "error http://m1: cut off; http://m2: cut off"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &versioned{current: "v2", tasks: []string{"v2", "v1"}, versions: map[string]string{"m1": c.m1, "m2": c.m2}}
			s := mustNew(t, "http://m1", "http://m2")
			s.client.http.Transport = v
			if got := readText(t, s.reader()); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestARefusedVersionIsAskedForAgainEachRefreshInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &versioned{current: "v2", tasks: []string{"v1"}, versions: map[string]string{"m1": "500"}}
		s := mustNew(t, "http://m1")
		s.client.http.Transport = v
		r := s.reader()
		for i, want := range []int{1, 1, 2, 2, 3} {
			readText(t, r)
			if v.asked != want {
				t.Errorf("after %d half intervals: asked %d times, want %d", i, v.asked, want)
			}
			time.Sleep(s.config.RefreshInterval / 2) // synctest's time
		}
	})
}

func TestTasksThatWereServedKeepTheirDefinitionWhenMarathonDoesNotTellIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const served = "8300/tcp a mode=tcp source=marathon\n  10.0.0.0:31000 check on-host\n"
		v := &versioned{current: "v1", tasks: []string{"v1"}, versions: map[string]string{"m1": "500"}}
		s := mustNew(t, "http://m1")
		s.client.http.Transport = v
		r := s.reader()
		for i, step := range []versioned{
			{current: "v1", tasks: []string{"v1"}},
			{current: "v2", tasks: []string{"v1"}}, // upgraded, the old task still runs
			{current: "v2"},                        // a list that lacks it for a moment
			{current: "v2", tasks: []string{"v1"}},
		} {
			v.current, v.tasks = step.current, step.tasks
			if got := readText(t, r); len(step.tasks) > 0 && got != served {
				t.Errorf("step %d: got %s", i, got)
			}
			time.Sleep(time.Second) // synctest's time
		}
		v.tasks = nil
		for range 7 {
			readText(t, r)
			time.Sleep(time.Minute)
		}
		if len(r.versions) != 0 {
			t.Errorf("definitions that nobody needs are kept: %v", r.versions)
		}
	})
}
