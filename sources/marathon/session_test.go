package marathon

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// gate is a login endpoint that gives tokens named by their number.
type gate struct {
	lock   sync.Mutex
	status int // 0 is 200
	life   time.Duration
	delay  time.Duration
	begun  time.Time
	log    []string // when somebody logged in
}

func (g *gate) RoundTrip(req *http.Request) (*http.Response, error) {
	g.lock.Lock()
	defer g.lock.Unlock()
	g.log = append(g.log, fmt.Sprintf("%.0f", time.Since(g.begun).Seconds()))
	select {
	case <-time.After(g.delay): // synctest's time
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	token := fmt.Sprint("token", len(g.log))
	if g.life != 0 {
		claims := fmt.Sprintf(`{"exp":%d}`, time.Now().Add(g.life).Unix())
		token += "." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	status := max(g.status, 200)
	return &http.Response{Request: req, StatusCode: status, Body: io.NopCloser(strings.NewReader(fmt.Sprintf(`{"token":%q}`, token)))}, nil
}

// play runs a test of a session in fake time.
func play(t *testing.T, test func(t *testing.T, g *gate, s *session)) {
	t.Helper()
	a, err := parseAccount(accountJSON(t, newKey(t), "https://login"))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		g := &gate{begun: time.Now()}
		test(t, g, newSession(a, g))
	})
}

// takes gives the token's name, or the error.
func takes(t *testing.T, s *session) string {
	t.Helper()
	token, err := s.get(t.Context())
	if err != nil {
		return err.Error()
	}
	name, _, _ := strings.Cut(token, ".")
	return name
}

func (g *gate) wants(t *testing.T, want string) {
	t.Helper()
	if got := strings.Join(g.log, " "); got != want {
		t.Errorf("logins at %s s, want %s", got, want)
	}
}

func TestOneLoginServesAllWhoWait(t *testing.T) {
	play(t, func(t *testing.T, g *gate, s *session) {
		g.delay = time.Second
		var wait sync.WaitGroup
		for range 20 {
			wait.Go(func() {
				if got := takes(t, s); got != "token1" {
					t.Errorf("got %s", got)
				}
			})
		}
		wait.Wait()
		g.wants(t, "0")
	})
}

func TestTokensAreRenewedBeforeTheyExpire(t *testing.T) {
	for life, want := range map[time.Duration]string{
		100 * time.Second: "0 90 180 270",
		0:                 "0 180", // it does not say
		time.Hour:         "0",
	} {
		play(t, func(t *testing.T, g *gate, s *session) {
			g.life = life
			for range 300 {
				takes(t, s)
				time.Sleep(time.Second)
			}
			g.wants(t, want)
		})
	}
}

func TestALoginThatFailsIsNotRepeatedAtOnceAndDoesNotSpoilATokenThatIsGood(t *testing.T) {
	play(t, func(t *testing.T, g *gate, s *session) {
		g.life = 100 * time.Second
		takes(t, s)
		time.Sleep(95 * time.Second)
		g.status = 503
		for range 40 { // for 4 s
			if got := takes(t, s); got != "token1" {
				t.Fatalf("got %s, want the token that is still good", got)
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(20 * time.Second)
		before := len(g.log)
		for range 600 {
			if got := takes(t, s); got != "log in at https://login: 503 Service Unavailable" {
				t.Fatalf("got %s", got)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(g.log) - before; n < 3 || n > 10 {
			t.Errorf("%d attempts in a minute of failures, want a few: %v", n, g.log)
		}
		g.status = 0
		time.Sleep(15 * time.Second)
		if got := takes(t, s); !strings.HasPrefix(got, "token") {
			t.Errorf("got %s after the endpoint is well again", got)
		}
	})
}

func TestTokensThatAreRefusedAreReplacedOnce(t *testing.T) {
	play(t, func(t *testing.T, g *gate, s *session) {
		takes(t, s)
		for range 2 { // requests that had it
			if !s.refused("token=token1") {
				t.Error("a refused token is not replaced")
			}
		}
		if got := takes(t, s); got != "token2" {
			t.Errorf("got %s", got)
		}
		if !s.refused("token=token1") {
			t.Error("a late refusal of the old token is no reason to try the new one")
		}
		if got := takes(t, s); got != "token2" {
			t.Errorf("got %s, want the token that came after the refused one", got)
		}
		if s.refused("token=token2") {
			t.Error("the new one is refused at once too, and there was another login")
		}
		if s.refused("") || s.refused("Basic token2") {
			t.Error("what is not ours is replaced")
		}
		g.wants(t, "0 0")
		time.Sleep(time.Hour)
		if !s.refused("token=token2") {
			t.Error("after an hour a refusal makes no login")
		}
	})
}

func TestAnAccountWithoutRightsDoesNotLogInEachTime(t *testing.T) {
	play(t, func(t *testing.T, g *gate, s *session) {
		for range 600 {
			token, err := s.get(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s.refused(tokenPrefix + token)
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(g.log); n < 3 || n > 12 {
			t.Errorf("%d logins in a minute, want a few: %v", n, g.log)
		}
	})
}

func TestASilentEndpoint(t *testing.T) {
	play(t, func(t *testing.T, g *gate, s *session) {
		g.delay = time.Hour
		if got := takes(t, s); got != "log in at https://login: no answer in time" || time.Since(g.begun) != loginPatience {
			t.Errorf("got %s after %s", got, time.Since(g.begun))
		}
	})
}

func TestOddAnswersToLogins(t *testing.T) {
	a, err := parseAccount(accountJSON(t, newKey(t), "https://login"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status     int
		body, want string
	}{
		{401, `{"token":"x","description":"zecret"}`, "401 Unauthorized; look at --marathon-service-account"},
		{302, ``, "302 Found"},
		{200, ``, "the answer has no token"},
		{200, `{"token":""}`, "the answer has no token"},
		{200, `{"token":"a\r\nHost: zecret"}`, "the answer has no token"},
		{200, `{"token":"ä"}`, "the answer has no token"},
		{200, `["zecret"]`, "the answer has no token"},
	} {
		s := newSession(a, oneAnswer{c.status, c.body})
		if _, err := s.get(t.Context()); err == nil || err.Error() != "log in at https://login: "+c.want || !errors.As(err, new(loginError)) {
			t.Errorf("%d %s: got %v", c.status, c.body, err)
		}
	}
}

// oneAnswer is a server that gives one answer to everything.
type oneAnswer struct {
	status int
	body   string
}

func (a oneAnswer) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{Request: req, StatusCode: a.status, Header: http.Header{"Location": {"https://evil/"}}, Body: io.NopCloser(strings.NewReader(a.body))}, nil
}
