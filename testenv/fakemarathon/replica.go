package fakemarathon

import (
	"compress/gzip"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Replica is one Marathon process of the cluster: an HTTP listener. Its fields change under the cluster's lock only.
type Replica struct {
	cluster  *Cluster
	index    int
	scheme   string
	addr     string
	server   *http.Server
	faults   Faults
	frozen   state // what is answered while Faults.Stale is on
	closed   bool
	requests map[string]int
	asked    Asked
}

// Replica starts a listener, such as on "127.0.0.2:0". The first replica is the leader.
func (c *Cluster) Replica(addr string) (*Replica, error) { return c.replica(addr, nil) }

func (c *Cluster) replica(addr string, secure *tls.Config) (*Replica, error) {
	l, scheme, err := listen(addr, secure)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.Join(errors.New("fake Marathon: the cluster is closed"), l.Close())
	}
	r := &Replica{cluster: c, index: len(c.replicas), scheme: scheme, addr: l.Addr().String(), faults: c.faults, requests: map[string]int{}}
	if r.faults.Stale {
		r.frozen = c.clone()
	}
	r.server = &http.Server{Handler: r, ErrorLog: quiet()}
	c.replicas = append(c.replicas, r)
	c.wg.Go(func() { _ = r.server.Serve(l) }) // ends with ErrServerClosed, always
	return r, nil
}

// URL is where the replica listens, without a slash at the end.
func (r *Replica) URL() string { return r.scheme + "://" + r.addr }

// Close ends the replica as a kill would: the listener, all connections, all streams. The leader stays the leader until
// FailOver.
func (r *Replica) Close() {
	r.cluster.mu.Lock()
	r.closed = true
	proxied := r.cluster.leader == r.index // by standbys
	r.cluster.closeStreams(func(s *stream) bool { return proxied || s.replica == r })
	r.cluster.mu.Unlock()
	_ = r.server.Close() // a listener that is closed already is closed
}

// Requests counts the requests of all replicas by method and path, such as "GET /v2/apps"; queries and the control
// interface do not count.
func (c *Cluster) Requests() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	total := map[string]int{}
	for _, r := range c.replicas {
		for k, n := range r.requests {
			total[k] += n
		}
	}
	return total
}

// Requests counts the requests that reached this replica.
func (r *Replica) Requests() map[string]int {
	r.cluster.mu.Lock()
	defer r.cluster.mu.Unlock()
	return maps.Clone(r.requests)
}

// WaitRequest waits until all replicas together have seen n requests of a kind such as "GET /v2/apps". At that moment
// the answer is read from the state, though perhaps not yet sent.
func (c *Cluster) WaitRequest(ctx context.Context, kind string, n int) error {
	return c.wait(ctx, func() bool {
		total := 0
		for _, r := range c.replicas {
			total += r.requests[kind]
		}
		return total >= n
	})
}

func (c *Cluster) wait(ctx context.Context, done func() bool) error {
	for {
		c.mu.Lock()
		ok, changed := done(), c.changed
		c.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *Cluster) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// answer is what a request gets; it is decided under the lock and sent outside it.
type answer struct {
	status int
	header http.Header
	body   any  // nil: none; a string: text; else JSON
	slow   bool // it lists tasks
	whole  bool // those of all apps
	stream bool
	faults Faults // as they were for this request
}

// ServeHTTP answers as the replica would, faults included.
func (r *Replica) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if strings.HasPrefix(req.URL.Path, "/fake/") {
		r.cluster.control(w, req)
		return
	}
	_, _ = io.Copy(io.Discard, req.Body) // bodies mean nothing to what is served here
	a := r.decide(req)
	if a.stream {
		r.stream(w, req, a.header, a.faults)
		return
	}
	maps.Copy(w.Header(), a.header)
	if a.slow && !a.hold(req.Context()) {
		return
	}
	a.send(w, req, r.cluster.v)
}

// hold keeps an answer back, and reports false when the client left meanwhile.
func (a answer) hold(ctx context.Context) bool {
	for _, held := range []<-chan struct{}{a.faults.Hold, a.faults.HoldLists} {
		if held == nil {
			continue
		}
		select {
		case <-held:
		case <-ctx.Done():
			return false
		}
	}
	select {
	case <-time.After(a.faults.Delay):
		return true
	case <-ctx.Done():
		return false
	}
}

func (a answer) send(w http.ResponseWriter, req *http.Request, v release) {
	h := w.Header()
	text, isText := a.body.(string)
	isJSON := !isText && a.body != nil
	if isJSON {
		text = mustJSON(a.body)
		h.Set("Content-Type", "application/json")
		if v >= 10 && v <= 105 {
			h.Set("Content-Type", "application/json;qs=2")
		}
		if a.faults.PlainType != 0 {
			h.Set("Content-Type", "text/plain")
		}
	} else if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "text/plain")
	}
	if a.faults.Truncated != 0 && isJSON {
		text = text[:len(text)/2]
	}
	if isJSON && v >= 103 && !a.faults.NoGzip && strings.Contains(req.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		h.Set("Vary", "Accept-Encoding")
		text = zipped(text)
	}
	if a.faults.CutOff == 0 {
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, text) // a client that left needs no answer
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, text[:len(text)/2])
	_ = http.NewResponseController(w).Flush() // what is buffered would not be sent
	panic(http.ErrAbortHandler)
}

func zipped(text string) string {
	var b strings.Builder
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, text)
	_ = z.Close() // a strings.Builder takes everything
	return b.String()
}

func message(status int, format string, args ...any) answer {
	return answer{status: status, body: object{"message": fmt.Sprintf(format, args...)}}
}

// decide counts the request and computes its answer in one critical section, so that whoever waited for the count knows
// which state the answer shows.
func (r *Replica) decide(req *http.Request) answer {
	c := r.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	r.requests[req.Method+" "+req.URL.Path]++
	c.notify()
	header := http.Header{"Cache-Control": {"no-cache, no-store, must-revalidate"}, "Pragma": {"no-cache"}, "Expires": {"0"}}
	a := r.admit(req, header)
	if a.status == 0 {
		a = r.spoil(r.route(req, r.visible()), req)
	}
	r.asked.count(req, a.status)
	for k, value := range a.header {
		header[k] = value
	}
	a.header = header
	if a.stream {
		a.faults.StreamEOF = strike(&r.faults.StreamEOF)
	}
	return a
}

func (r *Replica) visible() state {
	switch {
	case r.faults.Stale:
		return r.frozen
	case r.faults.Standby == StandbyOwnAnswer && r.cluster.leader != r.index:
		return state{}
	case r.faults.HalfTasks.take():
		return r.cluster.half()
	}
	return r.cluster.state
}

// admit is everything between the socket and the API: credentials, overload, and who is the leader. A zero status
// means that the request goes on.
func (r *Replica) admit(req *http.Request, header http.Header) answer {
	c, f := r.cluster, &r.faults
	switch {
	case !f.authorized(req) || !c.admits(req):
		a := message(http.StatusUnauthorized, "Invalid username or password.")
		a.header = http.Header{"Www-Authenticate": {`basic realm="Mesosphere"`}}
		return a
	case f.Unavailable.take() || time.Now().Before(f.UnavailableUntil):
		return message(http.StatusServiceUnavailable, "Service Unavailable")
	case c.leader == r.index || f.Standby == StandbyOwnAnswer:
		c.v.name(header, r)
		return answer{}
	case f.Standby == StandbyEmptyAnswer:
		return answer{status: http.StatusOK}
	case c.leader < 0 || c.leader >= len(c.replicas):
		if c.v >= 107 {
			return message(http.StatusBadGateway, "Could not determine the current leader")
		}
		return message(http.StatusServiceUnavailable, "Could not determine the current leader")
	}
	return r.forward(req, header, c.replicas[c.leader])
}

// forward is what a standby does: it redirects, or answers as if it had asked the leader.
func (r *Replica) forward(req *http.Request, header http.Header, leader *Replica) answer {
	redirect := r.faults.Standby == StandbyRedirects ||
		r.faults.Standby == StandbyByRelease && r.cluster.v >= 107 && req.URL.Path == "/v2/events"
	switch {
	case redirect:
		return answer{status: http.StatusFound, header: http.Header{"Location": {leader.URL() + req.URL.RequestURI()}}}
	case leader.closed:
		return message(http.StatusServiceUnavailable, "Connection to leader refused.")
	}
	r.cluster.v.name(header, leader)
	header.Set("X-Marathon-Via", "1.1 "+r.addr)
	return answer{}
}

// name says who the leader is, as 0.9 and later do.
func (v release) name(header http.Header, leader *Replica) {
	if v >= 9 {
		header.Set("X-Marathon-Leader", leader.URL())
	}
}

func (f *Faults) authorized(req *http.Request) bool {
	if f.BasicAuth != "" {
		user, password, _ := req.BasicAuth()
		return subtle.ConstantTimeCompare([]byte(user+":"+password), []byte(f.BasicAuth)) == 1
	}
	if f.Bearer != "" {
		return req.Header.Get("Authorization") == "Bearer "+f.Bearer
	}
	return f.Token == "" || req.Header.Get("Authorization") == "token="+f.Token
}

// spoil applies the faults of answers.
func (r *Replica) spoil(a answer, req *http.Request) answer {
	a.faults = r.faults
	_, isText := a.body.(string)
	isList := a.slow && a.status == http.StatusOK && !isText
	if a.stream || isText || a.body == nil || req.Method != http.MethodGet {
		return a
	}
	switch {
	case isList && strings.HasSuffix(req.URL.Path, "tasks") && r.faults.EmptyLists.take():
		a.body = object{"tasks": []any{}}
	case isList && req.URL.Path == "/v2/apps" && r.faults.EmptyLists.take():
		a.body = object{"apps": []any{}}
	case r.faults.EmptyBody.take():
		a.body = nil
		a.header = http.Header{"Content-Type": {"application/json"}}
	case r.faults.WrongType.take():
		a.body = page
		a.header = http.Header{"Content-Type": {"text/html;charset=utf-8"}}
	default:
		a.faults.Truncated, a.faults.CutOff, a.faults.PlainType = strike(&r.faults.Truncated), strike(&r.faults.CutOff), strike(&r.faults.PlainType)
		if !a.whole {
			a.faults.HoldLists = nil
		}
		// Rendered under the lock: raw values are the caller's, the rest is replaced and never written to.
		a.body = rendered(mustJSON(a.body))
	}
	return a
}

// page is what somebody else's server says.
const page = "<html><body>It works!</body></html>"

// strike takes one and gives 1 when the fault strikes now.
func strike(t *Times) Times {
	if t.take() {
		return 1
	}
	return 0
}
