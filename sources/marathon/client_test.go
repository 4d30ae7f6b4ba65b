package marathon

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestURLs(t *testing.T) {
	for raw, want := range map[string]string{
		"http://m:8080":                 "http://m:8080",
		" http://m:8080/ ":              "http://m:8080",
		"https://m/marathon//":          "https://m/marathon",
		"http://u:secret@[::1]:8080/":   "http://[::1]:8080",
		"http://u:s%2Fecret@m/a%2Fb/":   "http://m/a%2Fb",
		"":                              `error marathon URL "": it should begin with http:// or https://`,
		"m:8080":                        `error marathon URL "m:8080": it should begin with http:// or https://`,
		"zk://u:secret@m:2181/x":        `error marathon URL "zk://m:2181/x": it should begin with http:// or https://`,
		"http:///v2":                    `error marathon URL "http:///v2": it has no host`,
		"http://u:secret@":              `error marathon URL "http://": it has no host`,
		"http://u:sec/ret@m:8080":       `error marathon URL "http://m:8080": it cannot be parsed; special characters in a password are written as %XX`,
		"http://u:12/secret@m:8080":     `error marathon URL "http://m:8080": special characters in a password are written as %XX`,
		"http://u:12?secret@m:8080":     `error marathon URL "http://m:8080": special characters in a password are written as %XX`,
		"http://u:12#secret@m:8080":     `error marathon URL "http://m:8080": special characters in a password are written as %XX`,
		"u:secret@m:8080":               `error marathon URL "m:8080": it should begin with http:// or https://`,
		"http://m:8080/?x=1":            `error marathon URL "http://m:8080/?x=1": it should have no ? and no #`,
		"http://u:secret@m:99x99/\x7f@": `error marathon URL "http://": it cannot be parsed; special characters in a password are written as %XX`,
	} {
		got := ""
		if r, err := parseReplica(raw); err != nil {
			got = "error " + err.Error()
		} else {
			got = r.String()
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", raw, got, want)
		}
	}
}

func TestConfigurationErrors(t *testing.T) {
	for _, c := range []Config{{}, {URLs: []string{"http://m", "nonsense"}}, {URLs: []string{"http://m"}, GroupSize: -1}} {
		if s, err := New(c); err == nil {
			t.Errorf("New(%+v) = %v without an error", c, s)
		}
	}
}

// serve starts a replica on a loopback address of its own.
func serve(t *testing.T, ip string, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

func mustNew(t *testing.T, urls ...string) *Source {
	t.Helper()
	s, err := New(Config{URLs: urls, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.client.http.CloseIdleConnections)
	return s
}

const goodAnswer = `{"apps":[{"id":"/a","version":"v1","ports":[8300],"tasks":[{"id":"a.1","host":"10.0.0.7","ports":[31000],"version":"v1"}]}]}`

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func TestOddAnswersAreErrorsAndTheNextReplicaIsAsked(t *testing.T) {
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		want    string
	}{
		{"empty", answer(200, ""), "the answer is empty"},
		{"blank", answer(200, "\r\n "), "the answer is empty"},
		{"a page", answer(200, "<html>"), "the answer is not the JSON that is wanted: invalid character '<' looking for beginning of value"},
		{"no apps", answer(200, `{"tasks":[]}`), `the answer has no "apps"`},
		{"truncated JSON", answer(200, goodAnswer[:50]), "the answer is not the JSON that is wanted: unexpected end of JSON input"},
		{"503", answer(503, `{"message":"Could not determine\u000a the current leader"}`), "503 Service Unavailable: Could not determine the current leader"},
		{"502, no JSON", answer(502, `oops`), "502 Bad Gateway"},
		{"404", answer(404, `{}`), "404 Not Found"},
		{"too large", answer(200, `{"apps":[]}`+strings.Repeat(" ", 5<<20)), "the answer has more than 4 MB"},
		{"shorter than announced", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, goodAnswer[:20])
		}, "read the answer: unexpected EOF"},
		{"redirects for ever", func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, req.URL.Path, http.StatusFound) }, "5 redirects in a row"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad, good := serve(t, "127.0.0.2", c.handler), serve(t, "127.0.0.3", answer(200, goodAnswer))
			alone := mustNew(t, bad)
			alone.client.maxBody = 4 << 20
			if _, err := alone.Read(t.Context()); err == nil || err.Error() != "read marathon: "+bad+": "+c.want {
				t.Errorf("alone: got error %v, want one that ends in %s", err, c.want)
			}
			both := mustNew(t, bad, good)
			both.client.maxBody = 4 << 20
			if got, err := both.Read(t.Context()); err != nil || len(got.Services) != 1 {
				t.Errorf("with a good replica: got %v, %v", got, err)
			}
		})
	}
}

func TestEachReplicasFailureIsNamedInOrder(t *testing.T) {
	first, second := serve(t, "127.0.0.2", answer(503, "")), serve(t, "127.0.0.3", answer(200, ""))
	s := mustNew(t, first, second)
	s.client.preferred.Store(1)
	_, err := s.Read(t.Context())
	want := fmt.Sprintf("read marathon: %s: 503 Service Unavailable; %s: the answer is empty", first, second)
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestASilentReplicaLeavesTimeForTheNext(t *testing.T) {
	end := make(chan struct{})
	silent := serve(t, "127.0.0.2", func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-req.Context().Done():
		case <-end:
		}
	})
	t.Cleanup(func() { close(end) })
	good := serve(t, "127.0.0.3", answer(200, goodAnswer))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := mustNew(t, silent, good).Read(ctx); err != nil {
		t.Errorf("got %v, want the second replica's answer", err)
	}
	s := mustNew(t, silent)
	s.client.timeout = 10 * time.Millisecond
	if _, err := s.Read(t.Context()); err == nil || err.Error() != "read marathon: "+silent+": no whole answer in time" {
		t.Errorf("got error %v", err)
	}
}

func TestTheQuestionAndItsHeaders(t *testing.T) {
	got := make(chan *http.Request, 1)
	at := serve(t, "127.0.0.2", func(w http.ResponseWriter, req *http.Request) {
		got <- req
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		io.WriteString(z, goodAnswer)
		z.Close()
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(packed.Bytes())
	})
	snapshot, err := mustNew(t, strings.Replace(at, "http://", "http://user:sec%2Fret@", 1)+"/proxied/").Read(t.Context())
	if err != nil || len(snapshot.Services) != 1 || snapshot.Priority != 300 || snapshot.Source != "marathon" || snapshot.Succeeded.IsZero() || snapshot.Heard.IsZero() {
		t.Errorf("got %+v, %v from a compressed answer", snapshot, err)
	}
	req := <-got
	user, password, _ := req.BasicAuth()
	line := fmt.Sprintf("%s %s accept=%s encoding=%s %s:%s", req.Method, req.RequestURI, req.Header.Get("Accept"), req.Header.Get("Accept-Encoding"), user, password)
	want := "GET /proxied/v2/apps?embed=apps.tasks&embed=apps.deployments&embed=apps.readiness accept=application/json encoding=gzip user:sec/ret"
	if line != want {
		t.Errorf("asked  %s\nwanted %s", line, want)
	}
}

func TestNoErrorShowsThePassword(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	unauthorized := strings.TrimPrefix(serve(t, "127.0.0.3", answer(401, `{"message":"Invalid username or password."}`)), "http://")
	cut := strings.TrimPrefix(serve(t, "127.0.0.4", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), "http://")
	page := strings.TrimPrefix(serve(t, "127.0.0.5", func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, "ftp://"+req.Host, http.StatusFound)
	}), "http://")
	var urls []string
	for _, host := range []string{closed, unauthorized, cut, page} {
		urls = append(urls, "http://uzer:zecret@"+host)
	}
	_, err = mustNew(t, urls...).Read(t.Context())
	if err == nil || strings.Contains(err.Error(), "zecret") || strings.Contains(err.Error(), "uzer") || strings.Count(err.Error(), ";") != 3 {
		t.Errorf("got %v, want four failures without user and password", err)
	}
}

// mustNewClient gives a client that nobody asks who it is.
func mustNewClient(t *testing.T, replicas ...replica) *client {
	t.Helper()
	c, err := newClient(replicas, Access{}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
