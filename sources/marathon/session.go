package marathon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/meltwater/proxymatic/sources/hostname"
)

const (
	loginPatience = 5 * time.Second
	// How long a token is used: nine tenths of its life, but a day at most, and a few minutes if it does not tell its life.
	// One that is refused sooner is replaced then.
	maxUse     = 24 * time.Hour
	unknownUse = 3 * time.Minute
)

// session has a token of an account, and gets another one when it is about to expire, or was refused. All who need one
// share it.
type session struct {
	account account
	http    *http.Client
	turn    chan struct{} // has room for one: who logs in

	lock    sync.Mutex // of what follows
	token   string     // empty for none
	renew   time.Time  // when to get another one
	expires time.Time  // until when it can be used if none is to be had
	failed  error      // of the last login
	retry   time.Time  // after failed logins: when to try again
	pause   backoff
	patient time.Time // until then a token that is refused stays: another one was refused just before
	doubt   backoff
}

func newSession(a account, transport http.RoundTripper) *session {
	return &session{account: a, turn: make(chan struct{}, 1),
		pause: backoff{first: time.Second}, doubt: backoff{first: time.Second},
		// A login is for one place only.
		http: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// get gives a token that should be good now.
func (s *session) get(ctx context.Context) (string, error) {
	if token, err, known := s.known(time.Now()); known {
		return token, err
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if token, err, known := s.known(time.Now()); known { // from who had the turn before
		return token, err
	}
	token, err := s.login(ctx)
	if err != nil && ctx.Err() != nil {
		return "", err // who asked did not wait, which says nothing about the endpoint
	}
	return s.learn(token, err, time.Now())
}

// known gives what can be said without a login.
func (s *session) known(now time.Time) (string, error, bool) {
	s.lock.Lock()
	defer s.lock.Unlock()
	switch {
	case s.token != "" && now.Before(s.renew):
		return s.token, nil, true
	case !now.Before(s.retry):
		return "", nil, false
	case s.token != "" && now.Before(s.expires):
		return s.token, nil, true
	}
	return "", s.failed, true
}

// learn takes the outcome of a login. While the token before it is good, a failure does no harm.
func (s *session) learn(token string, err error, now time.Time) (string, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.failed = err
	switch {
	case err == nil:
		s.pause.reset()
		s.token, s.retry = token, time.Time{}
		s.renew, s.expires = now.Add(unknownUse), now.Add(maxUse)
		if left := life(token, now); left > 0 {
			s.renew, s.expires = now.Add(min(left/10*9, maxUse)), now.Add(left)
		}
		return token, nil
	case s.token != "" && now.Before(s.expires):
		s.retry = now.Add(s.pause.next())
		return s.token, nil
	}
	s.token, s.retry = "", now.Add(s.pause.next())
	return "", err
}

// refused takes note that Marathon did not accept an Authorization, and reports whether another one may do better. It does
// not let every refusal be a login: an account without rights is refused again and again.
func (s *session) refused(header string) bool {
	token, ours := strings.CutPrefix(header, tokenPrefix)
	s.lock.Lock()
	defer s.lock.Unlock()
	now := time.Now()
	switch {
	case !ours:
		return false
	case token != s.token: // it was replaced meanwhile
		return true
	case now.Before(s.patient):
		return false
	case now.Sub(s.patient) > time.Minute:
		s.doubt.reset()
	}
	s.token, s.patient = "", now.Add(s.doubt.next())
	return true
}

// loginError names the endpoint, and nothing secret.
type loginError struct {
	endpoint *url.URL
	reason   string
}

func (e loginError) Error() string {
	return fmt.Sprintf("log in at %s: %s", e.endpoint, e.reason)
}

func (s *session) login(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, loginPatience, errors.New("no answer in time"))
	defer cancel()
	failed := func(reason string) (string, error) { return "", loginError{s.account.endpoint, reason} }
	body, err := s.account.request(time.Now())
	if err != nil {
		return failed("sign: " + err.Error())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.account.endpoint.String(), bytes.NewReader(body))
	if err != nil {
		return failed("the request has no valid URL")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "proxymatic")
	resp, err := s.http.Do(req)
	if err != nil {
		return failed(hostname.Reason(explained(timeoutCause(ctx, err))))
	}
	defer finish(resp)
	var answer struct {
		Token string `json:"token"`
	}
	switch err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return failed(fmt.Sprintf("%d %s; look at --marathon-service-account", resp.StatusCode, http.StatusText(resp.StatusCode)))
	case resp.StatusCode != http.StatusOK:
		return failed(fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
	case err != nil && ctx.Err() != nil:
		return failed(context.Cause(ctx).Error())
	case err != nil || !usable(answer.Token):
		return failed("the answer has no token")
	}
	return answer.Token, nil
}

// usable reports whether a token can stand in a header.
func usable(token string) bool {
	return token != "" && !strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })
}
