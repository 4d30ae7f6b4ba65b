package marathon

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/meltwater/proxymatic/sources/hostname"
)

// maxBody bounds an answer after unpacking. 10,000 tasks are about 8 MB.
const maxBody = 256 << 20

var errNotFound = errors.New("404 Not Found")

// refusal is an answer of HTTP other than 200.
type refusal struct {
	status int
	text   string
}

func (r refusal) Error() string { return r.text }

// unanswered is what ask gives when no replica had a usable answer.
type unanswered struct {
	text string // each replica's failure, in the order of the configuration
	// refused says that it is about the question, so that other questions may do: a replica calls it bad, or all of them
	// break on it. Wrong credentials are not about the question.
	refused bool
}

func (u unanswered) Error() string { return u.text }

// refused: around an election replicas answer 502, 503 and 504 to everything, and a busy one 408 or 429.
func refused(statuses []int) bool {
	about := func(s int) bool {
		return s >= 400 && s < 500 && s != http.StatusRequestTimeout && s != http.StatusTooManyRequests
	}
	if slices.Contains(statuses, http.StatusUnauthorized) {
		return false
	}
	return slices.ContainsFunc(statuses, about) ||
		!slices.ContainsFunc(statuses, func(s int) bool { return s != http.StatusInternalServerError })
}

// client asks the replicas of one Marathon.
type client struct {
	replicas  []replica
	http      *http.Client
	timeout   time.Duration // for one answer of one replica
	maxBody   int64
	preferred atomic.Int64            // the replica that answered last
	named     atomic.Pointer[url.URL] // the leader, as it was named last; nil for none

	header  string   // the Authorization for replicas without one of their own; empty for none
	session *session // gives one that changes; nil for none
	from    string   // the settings that one of the two comes from
}

// replica is one address of a Marathon. Its credentials are kept apart from its URL, so that no error can show them.
type replica struct {
	base          *url.URL // without user info and without a slash at the end
	authorization string   // the header that its URL's user and password make; empty for none
}

func (r replica) String() string { return r.base.String() }

// parseReplica checks a URL. Its errors show the URL without user name and password, and no cause from the parser,
// which quotes what stands where a port should be: a piece of the password, when that has a slash in it.
func parseReplica(raw string) (replica, error) {
	raw = strings.TrimSpace(raw)
	bad := func(reason string) (replica, error) {
		return replica{}, fmt.Errorf("marathon URL %q: %s", withoutUser(raw), reason)
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return bad("it cannot be parsed; special characters in a password are written as %XX")
	case u.Scheme != "http" && u.Scheme != "https":
		return bad("it should begin with http:// or https://")
	case u.Hostname() == "":
		return bad("it has no host")
	case strings.Contains(u.Path+u.RawQuery+u.Fragment, "@"):
		return bad("special characters in a password are written as %XX")
	case u.RawQuery != "" || u.Fragment != "":
		return bad("it should have no ? and no #")
	}
	r := replica{}
	if password, _ := u.User.Password(); password != "" || u.User.Username() != "" {
		r.authorization = basic(u.User.Username(), password)
	}
	u.User = nil
	r.base = u
	r.base.Path = strings.TrimRight(r.base.Path, "/")
	r.base.RawPath = strings.TrimRight(r.base.RawPath, "/")
	return r, nil
}

// withoutUser cuts everything between the scheme and the last @.
func withoutUser(raw string) string {
	at := strings.LastIndex(raw, "@")
	if at < 0 {
		return raw
	}
	scheme, _, ok := strings.Cut(raw[:at], "://")
	if !ok {
		return raw[at+1:]
	}
	return scheme + "://" + raw[at+1:]
}

// newClient reads the files that access names. The error names a setting, without its value.
func newClient(replicas []replica, access Access, timeout time.Duration) (*client, error) {
	secure, err := access.tlsConfig()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     secure,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     20 * time.Second, // Marathon closes idle connections after 30 s
		MaxIdleConnsPerHost: 8,
	}
	c := &client{replicas: replicas, timeout: timeout, maxBody: maxBody}
	c.http = &http.Client{Transport: transport, CheckRedirect: c.redirect}
	c.header, c.from = access.header()
	if access.ServiceAccount != "" {
		account, err := parseAccount(access.ServiceAccount)
		if err != nil {
			return nil, err
		}
		c.session = newSession(account, transport)
	}
	return c, nil
}

// request gives a GET. Who we are is added when it is sent.
func (r replica) request(ctx context.Context, path, accept string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base.String()+path, nil)
	if err != nil {
		return nil, errors.New("the request has no valid URL")
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", "proxymatic")
	return req, nil
}

// question is one GET that any replica may answer.
type question struct {
	path  string
	first int                // the replica that is asked first
	use   func([]byte) error // reads the body; an error makes the next replica be asked
	most  int64              // bytes of the answer; 0 means what is usual
	// missing makes a 404 the answer, which is errNotFound, rather than a replica's failure.
	missing bool
}

// ask puts the question to one replica after another until one gives a usable answer, and tells which one it was. The
// error names every replica, in the order of the configuration.
func (c *client) ask(ctx context.Context, q question) (int, error) {
	n := len(c.replicas)
	failures, statuses := make([]string, n), make([]int, n)
	for i := range n {
		at := (q.first + i) % n
		body, err := c.get(ctx, c.replicas[at], q, c.patience(ctx, n-i))
		if err == nil {
			err = q.use(body)
		}
		switch {
		case err == nil:
			return at, nil
		case ctx.Err() != nil:
			return 0, fmt.Errorf("%s: %w", c.replicas[at], ctx.Err())
		case q.missing && errors.Is(err, errNotFound):
			return at, errNotFound
		}
		failures[at] = fmt.Sprintf("%s: %s", c.replicas[at], hostname.Reason(err))
		if answer := (refusal{}); errors.As(err, &answer) {
			statuses[at] = answer.status
		}
	}
	return 0, unanswered{text: strings.Join(failures, "; "), refused: refused(statuses)}
}

// patience is how long one replica may take, so that a silent one leaves time for the others before the caller's
// deadline.
func (c *client) patience(ctx context.Context, left int) time.Duration {
	end, ok := ctx.Deadline()
	if !ok || left == 1 {
		return c.timeout
	}
	return min(c.timeout, time.Until(end)/time.Duration(left))
}

// get reads one answer of one replica. Compression is the transport's affair.
func (c *client) get(ctx context.Context, r replica, q question, timeout time.Duration) ([]byte, error) {
	most := cmp.Or(q.most, c.maxBody)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errors.New("no whole answer in time"))
	defer cancel()
	req, err := r.request(ctx, q.path, "application/json")
	if err != nil {
		return nil, err
	}
	resp, err := c.do(r, req)
	if err != nil {
		return nil, timeoutCause(ctx, err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(io.LimitReader(resp.Body, most+1)); err != nil {
		return nil, timeoutCause(ctx, fmt.Errorf("read the answer: %w", err))
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, errNotFound
	case resp.StatusCode != http.StatusOK:
		return nil, quoting(resp, body.Bytes())
	case int64(body.Len()) > most:
		return nil, fmt.Errorf("the answer has more than %d MB", most>>20)
	case len(bytes.TrimSpace(body.Bytes())) == 0:
		// Marathon 0.8 says 200 with an empty body when a standby cannot reach its leader.
		return nil, errors.New("the answer is empty")
	}
	return body.Bytes(), nil
}

// timeoutCause tells our own deadline from the caller's end.
func timeoutCause(ctx context.Context, err error) error {
	if errors.As(err, new(loginError)) { // says more
		return err
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return cause
	}
	return err
}

// statusError quotes Marathon's own {"message":"..."}.
func statusError(status int, body []byte) refusal {
	text := fmt.Sprintf("%d %s", status, http.StatusText(status))
	var answer struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &answer) == nil && answer.Message != "" {
		text += fmt.Sprintf(": %.200s", clean(answer.Message))
	}
	return refusal{status: status, text: text}
}
