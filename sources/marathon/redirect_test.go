package marathon

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func mustParse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func newTestClient(t *testing.T, access Access, urls ...string) *client {
	t.Helper()
	s, err := New(Config{URLs: urls, Access: access})
	if err != nil {
		t.Fatal(err)
	}
	return s.client
}

func TestWhatARedirectLetsThrough(t *testing.T) {
	shared := Access{Token: "shared"}
	for _, c := range []struct {
		rule   string
		urls   string
		access Access
		leader string
		via    string // URLs that were asked, the first with the credentials of that replica
		to     string
		want   string
	}{
		{"the same host", "http://u:p@m1", Access{}, "", "http://m1", "http://m1/x", basic("u", "p")},
		{"another port of it", "http://u:p@m1", Access{}, "", "http://m1", "http://m1:8080/x", basic("u", "p")},
		{"in other letters", "http://u:p@m1", Access{}, "", "http://m1", "http://M1/x", basic("u", "p")},
		{"a stranger", "http://u:p@m1", shared, "", "http://m1", "http://evil/x", ""},
		{"a host below the configured one", "http://u:p@m1", shared, "", "http://m1", "http://sub.m1/x", ""},
		{"a configured host without credentials", "http://u:p@m1 http://m2", Access{}, "", "http://m1", "http://m2/x", basic("u", "p")},
		{"a configured host with others", "http://u:p@m1 http://v:q@m2", Access{}, "", "http://m1", "http://m2/x", basic("v", "q")},
		{"others on another port", "http://u:p@m1:1 http://v:q@m1:2", Access{}, "", "http://m1:1", "http://m1:2/x", basic("v", "q")},
		{"a configured host, the token of all", "http://u:p@m1 http://m2", shared, "", "http://m1", "http://m2/x", "token=shared"},
		{"back from a stranger", "http://u:p@m1", Access{}, "", "http://m1 http://evil", "http://m1/x", basic("u", "p")},
		{"the named leader", "http://u:p@m1", Access{}, "http://leader:8080", "http://m1", "http://leader:8080/x", basic("u", "p")},
		{"the named leader, a token", "http://m1", shared, "http://leader:8080", "http://m1", "http://leader:8080/x", "token=shared"},
		{"not the named leader", "http://m1", shared, "http://leader:8080", "http://m1", "http://lead:8080/x", ""},
		{"https to https", "https://m1 https://m2", shared, "", "https://m1", "https://m2/x", "token=shared"},
		{"http to https", "http://m1 https://m2", shared, "", "http://m1", "https://m2/x", "token=shared"},
		{"https to http", "https://u:p@m1", shared, "", "https://m1", "http://m1/x", ""},
		{"https to http of another", "https://m1 http://u:p@m2", shared, "", "https://m1", "http://m2/x", ""},
		{"https to http of the named leader", "https://m1", shared, "http://leader", "https://m1", "http://leader/x", ""},
		{"https to http on a detour", "http://m1 https://m2", shared, "", "http://m1 https://m2", "http://m1/x", ""},
		{"http to http of one that is asked by https", "http://m1 https://u:p@m2", shared, "", "http://m1", "http://m2/x", ""},
		{"no credentials at all", "http://m1 http://m2", Access{}, "", "http://m1", "http://m2/x", ""},
	} {
		t.Run(c.rule, func(t *testing.T) {
			client := newTestClient(t, c.access, strings.Fields(c.urls)...)
			if c.leader != "" {
				client.named.Store(mustParse(t, c.leader))
			}
			var via []*http.Request
			for _, u := range strings.Fields(c.via) {
				via = append(via, &http.Request{URL: mustParse(t, u), Header: http.Header{}})
			}
			first, _ := client.authorization(t.Context(), client.replicas[0])
			via[0].Header.Set("Authorization", first)
			req := httptest.NewRequest(http.MethodGet, c.to, nil)
			req.Header.Set("Authorization", "what Go thinks")
			req.Header.Set("Referer", c.via)
			req.Response = &http.Response{Request: via[len(via)-1]}
			if err := client.redirect(req, via); err != nil {
				t.Fatal(err)
			}
			if got := req.Header.Get("Authorization"); got != c.want || req.Header.Get("Referer") != "" {
				t.Errorf("got %q, want %q; headers %v", got, c.want, req.Header)
			}
		})
	}
}

// A redirect is followed for real: Go itself adds and drops headers on the way.
func TestCredentialsFollowARedirect(t *testing.T) {
	for _, c := range []struct {
		rule   string
		access Access
		names  bool // the standby names the leader
		want   string
	}{
		{"to a stranger", Access{Token: "zecret"}, false, ""},
		{"to a stranger, basic", Access{User: "u", Password: "zecret"}, false, ""},
		{"to the leader, token", Access{Token: "zecret"}, true, "token=zecret"},
		{"to the leader, bearer", Access{Token: "zecret", TokenScheme: SchemeBearer}, true, "Bearer zecret"},
		{"to the leader, basic", Access{User: "u", Password: "zecret"}, true, basic("u", "zecret")},
	} {
		t.Run(c.rule, func(t *testing.T) {
			seen := make(chan http.Header, 1)
			leader := serve(t, "127.77.0.3", func(w http.ResponseWriter, req *http.Request) {
				seen <- req.Header
				answer(200, goodAnswer)(w, req)
			})
			standby := serve(t, "127.0.0.2", func(w http.ResponseWriter, req *http.Request) {
				if c.names {
					w.Header().Set("X-Marathon-Leader", leader)
				}
				http.Redirect(w, req, strings.Replace(leader, "http://", "http://from:location@", 1)+req.RequestURI, http.StatusFound)
			})
			s, err := New(Config{URLs: []string{standby}, Access: c.access})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.client.http.CloseIdleConnections)
			if _, err := s.Read(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := <-seen; got.Get("Authorization") != c.want || strings.Contains(got.Get("Referer"), "secret") {
				t.Errorf("the leader saw %v, want %q", got, c.want)
			}
		})
	}
}

func TestTheLeader(t *testing.T) {
	for _, c := range []struct {
		rule, asked, header string
		want                int
		ok                  bool
	}{
		{"none was named", "http://m1", "", 0, false},
		{"a replica", "http://m1", "http://m2:8080", 1, true},
		{"in other letters and with a slash", "http://m1", "http://M2:8080/", 1, true},
		{"at the default port", "http://m1", "http://m3", 2, true},
		{"at the default port, written out", "http://m1", "http://m3:80", 2, true},
		{"at the default port of https", "http://m1", "https://m4:443", 3, true},
		{"another port", "http://m1", "http://m2:8081", 0, false},
		{"no replica", "http://m1", "http://m5", 0, false},
		{"a stranger's word", "http://evil", "http://m2:8080", 0, false},
		{"no URL", "http://m1", "m2:8080", 0, false},
		{"no host", "http://m1", "http://:8080", 0, false},
		{"hostile", "http://m1", "http://%zz", 0, false},
	} {
		client := newTestClient(t, Access{}, "http://m1", "http://m2:8080/", "http://m3", "https://m4/x")
		answered := &http.Request{URL: mustParse(t, c.asked)}
		client.learn(&http.Response{Request: answered, Header: http.Header{"X-Marathon-Leader": {c.header}}})
		if got, ok := client.leader(); got != c.want || ok != c.ok {
			t.Errorf("%s: %s said %q: got %d, %v, want %d, %v", c.rule, c.asked, c.header, got, ok, c.want, c.ok)
		}
	}
}

func TestTheLeaderStaysUntilAnotherOneIsNamed(t *testing.T) {
	names := make(chan string, 3)
	at := serve(t, "127.0.0.2", func(w http.ResponseWriter, req *http.Request) {
		if name := <-names; name != "" {
			w.Header().Set("X-Marathon-Leader", name)
		}
		answer(200, goodAnswer)(w, req)
	})
	s := mustNew(t, at, "http://m2:8080")
	for _, step := range []struct {
		name string
		want int
	}{{"http://m2:8080", 1}, {"", 1}, {at, 0}} {
		names <- step.name
		if _, err := s.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, ok := s.client.leader(); got != step.want || !ok {
			t.Errorf("after %q: got %d, %v, want %d", step.name, got, ok, step.want)
		}
	}
}

// A proxy may put anything into a redirect, credentials among it.
func TestARedirectThatIsNoURLIsNotQuoted(t *testing.T) {
	at := serve(t, "127.0.0.2", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "ht!tp://bob:hunter2@x/")
		w.WriteHeader(http.StatusFound)
	})
	_, err := mustNew(t, at).Read(t.Context())
	if want := "read marathon: " + at + ": it redirects to what is no URL"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
