package fakemarathon

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// asks gives the status of an answer to somebody who says who he is.
func asks(t *testing.T, url, authorization string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v2/apps", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", authorization)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// logs in with what a key signed, and gives the answer's status and token.
func logsIn(t *testing.T, g *Login, key *rsa.PrivateKey, alg, uid string, exp time.Time) (int, string) {
	t.Helper()
	text := segment([]byte(`{"alg":"`+alg+`"}`)) + "." + segment(fmt.Appendf(nil, `{"uid":%q,"exp":%d}`, uid, exp.Unix()))
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(g.URL(), "application/json", strings.NewReader(fmt.Sprintf(`{"uid":%q,"token":%q}`, uid, text+"."+segment(signature))))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer.Token
}

func TestLogin(t *testing.T) {
	c, replicas := start(t, GenD)
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.Login("127.0.0.1:0", nil, "me", &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(time.Minute)
	for name, status := range map[string]int{
		"another key":       first(logsIn(t, g, other, "RS256", "me", soon)),
		"another algorithm": first(logsIn(t, g, key, "none", "me", soon)),
		"somebody else":     first(logsIn(t, g, key, "RS256", "you", soon)),
		"too late":          first(logsIn(t, g, key, "RS256", "me", time.Now().Add(-time.Minute))),
	} {
		if status != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, status)
		}
	}
	status, token := logsIn(t, g, key, "RS256", "me", soon)
	url := replicas[0].URL()
	got := fmt.Sprint(status, asks(t, url, "token="+token), asks(t, url, "Bearer "+token), asks(t, url, "token=x"), asks(t, url, ""))
	if got != "200 200 401 401 401" {
		t.Errorf("got %s", got)
	}
	g.Expire()
	if status := asks(t, url, "token="+token); status != http.StatusUnauthorized {
		t.Errorf("after the end of the token: %d", status)
	}
	g.SetLife(-time.Hour)
	if status, token := logsIn(t, g, key, "RS256", "me", soon); status != http.StatusOK || asks(t, url, "token="+token) != http.StatusUnauthorized {
		t.Errorf("a token that has ended is taken")
	}
	g.SetStatus(http.StatusServiceUnavailable)
	if status := first(logsIn(t, g, key, "RS256", "me", soon)); status != http.StatusServiceUnavailable || g.Attempts() != 7 || len(g.Tokens()) != 2 {
		t.Errorf("status %d, %d attempts, tokens %q", status, g.Attempts(), g.Tokens())
	}
}

func first(status int, _ string) int { return status }

func TestBearer(t *testing.T) {
	c, replicas := start(t, GenD)
	c.SetFaults(func(f *Faults) { f.Bearer = "abc" })
	url := replicas[0].URL()
	if got := fmt.Sprint(asks(t, url, "Bearer abc"), asks(t, url, "token=abc"), asks(t, url, "")); got != "200 401 401" {
		t.Errorf("got %s", got)
	}
}
