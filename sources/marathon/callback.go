package marathon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/meltwater/proxymatic/sources/hostname"
)

const (
	// maxPosts is how many connections are open at a time; further ones wait in the kernel. Marathon itself has a few.
	maxPosts = 128
	// maxHead is as much of an event as is looked at. Only those about deployments are longer.
	maxHead = 64 << 10
	// headerTime is for the header of a POST, and postTime for the whole of it. Marathon gives up after 10 s.
	headerTime = 2 * time.Second
	postTime   = 10 * time.Second
	// burst is how long events may go on coming before they are looked into all the same.
	burst = time.Second
)

// callbacks has Marathon post its events to us, and takes each for a hint to look, whatever it says. What cannot have
// callbacks follows the event stream.
type callbacks struct {
	client  *client
	url     string // where Marathon posts to
	port    string
	path    string // without a slash at its end
	refresh time.Duration
	retry   time.Duration
	quiet   time.Duration         // without an event: then a burst is over
	follow  func(context.Context) // follows the event stream until ctx ends
	alive   func()                // an event came

	hints  chan struct{} // holds one mark: everything is to be read
	posted chan struct{} // holds one: an event came that matters
	again  chan struct{} // holds one: the subscription may be lost

	lock       sync.Mutex // of the rest
	subscribed bool
	trouble    string // why there is no subscription, or empty
	reach      reach
}

// parseCallback gives the port and the path of a callback URL. The error says what it should be.
func parseCallback(raw string) (port, path string, err error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", "", errors.New("callback URL: want one such as http://this-host:5090, with nothing but a path after the port")
	}
	port = cmp.Or(u.Port(), "80")
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", errors.New("callback URL: want a port from 1 to 65535")
	}
	return port, strings.TrimRight(u.Path, "/"), nil
}

// newCallbacks needs a URL that parseCallback takes.
func newCallbacks(config Config, client *client, follow func(context.Context), alive func()) *callbacks {
	port, path, _ := parseCallback(config.Callback)
	return &callbacks{client: client, url: config.Callback, port: port, path: path,
		refresh: config.RefreshInterval, retry: config.RetryPause, quiet: config.Settle, follow: follow, alive: alive,
		hints: make(chan struct{}, 1), posted: make(chan struct{}, 1), again: make(chan struct{}, 1)}
}

// run listens and keeps the subscription until ctx ends; then it unsubscribes.
func (c *callbacks) run(ctx context.Context) {
	stream := fallback{follow: c.follow}
	defer stream.stop()
	pause := backoff{first: c.retry}
	for ctx.Err() == nil {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", ":"+c.port)
		if err == nil {
			pause.reset()
			err = c.serve(ctx, listener, &stream)
		}
		if ctx.Err() != nil {
			return
		}
		c.tell(fmt.Sprintf("no callbacks, so the event stream is followed: %s; it is tried again; free the port, or give "+
			"--marathon-callback another one", hostname.Reason(err)))
		stream.start(ctx)
		sleep(ctx, pause.next())
	}
}

// serve takes events and keeps the subscription until ctx ends or the listener breaks, which is the error.
func (c *callbacks) serve(ctx context.Context, listener net.Listener, stream *fallback) error {
	defer stream.stop()
	ctx, cancel := context.WithCancelCause(ctx)
	server := &http.Server{Handler: http.HandlerFunc(c.receive), ReadHeaderTimeout: headerTime, ReadTimeout: postTime,
		WriteTimeout: 2 * postTime, MaxHeaderBytes: 16 << 10, ErrorLog: log.New(io.Discard, "", 0)}
	// A connection that is kept may be closed just when Marathon uses it again, which to Marathon is a failure of ours.
	server.SetKeepAlivesEnabled(false)
	var wait sync.WaitGroup
	wait.Go(func() { cancel(server.Serve(netutil.LimitListener(listener, maxPosts))) })
	wait.Go(func() { c.gather(ctx) })
	c.subscribe(ctx, stream)
	_ = server.Close() // all it can say is that the listener is closed already
	wait.Wait()
	return context.Cause(ctx)
}

// receive takes one event and answers at once: Marathon skips whom it finds slow or failing for seconds, then minutes.
func (c *callbacks) receive(w http.ResponseWriter, req *http.Request) {
	switch {
	case strings.TrimRight(req.URL.Path, "/") != c.path:
		w.WriteHeader(http.StatusNotFound)
		return
	case req.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	e, status := readPost(http.MaxBytesReader(w, req.Body, maxEvent))
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(status)
	_ = http.NewResponseController(w).Flush() // a client that left needs no answer
	c.arrived(e)
}

// readPost reads an event to its end, and gives the status to answer with. An event that is too long to look at, or no
// JSON, may be any. Its content type means nothing: 1.3.10 to 1.3.13 say text/plain.
func readPost(body io.Reader) (event, int) {
	head, err := io.ReadAll(io.LimitReader(body, maxHead))
	var rest int64
	if err == nil {
		rest, err = io.Copy(io.Discard, body)
	}
	tooLong := new(http.MaxBytesError)
	switch {
	case errors.As(err, &tooLong):
		return event{}, http.StatusRequestEntityTooLarge
	case err != nil:
		return event{}, http.StatusBadRequest
	}
	var e event
	if rest > 0 || json.Unmarshal(head, &e) != nil {
		return event{}, http.StatusOK
	}
	return e, http.StatusOK
}

// arrived notes an event. Only what can change no route is left out: that saves a reading, and trusts nobody.
func (c *callbacks) arrived(e event) {
	c.alive()
	c.lock.Lock()
	told := c.reach.lost()
	c.reach = reach{heard: true}
	c.lock.Unlock()
	if told || e.matters() {
		mark(c.posted)
	}
}

// gather makes one hint of each burst of events, until ctx ends.
func (c *callbacks) gather(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.posted:
			c.settle(ctx)
			mark(c.hints)
		}
	}
}

// settle waits until no event came for a while, which is also how long Marathon up to 1.2 may take to show what an event
// said. It does not wait for ever.
func (c *callbacks) settle(ctx context.Context) {
	end := time.NewTimer(burst)
	defer end.Stop()
	quiet := time.NewTimer(c.quiet)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case <-quiet.C:
			return
		case <-c.posted:
			quiet.Reset(c.quiet)
		}
	}
}

// polled says that everything was read, whether an event asked for it or not, and whether services had changed since the
// reading before. Nil callbacks take no notice.
func (c *callbacks) polled(changed bool) {
	if c == nil {
		return
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	if !c.subscribed {
		return
	}
	before := c.reach
	if c.reach = before.read(changed); c.reach.missed > before.missed {
		mark(c.again)
	}
}

// complaint tells why changes are not announced, or nothing. Nil callbacks have none.
func (c *callbacks) complaint() string {
	if c == nil {
		return ""
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.trouble == "" && c.reach.lost() {
		return "changes were found by polling that no callback announced: Marathon may not reach " + c.url +
			"; give --marathon-callback a URL that it reaches"
	}
	return c.trouble
}

// tell says why there is no subscription, or with an empty trouble that there is one, and has everything read when that
// is news: then the trouble is told, and what was missed is seen.
func (c *callbacks) tell(trouble string) {
	c.lock.Lock()
	defer c.lock.Unlock()
	subscribed := trouble == ""
	if subscribed == c.subscribed && trouble == c.trouble {
		return
	}
	c.subscribed, c.trouble = subscribed, trouble
	c.reach = reach{heard: true} // what changed before now could not be announced
	mark(c.hints)
}

// posted notes the time of an event that was posted.
func (p *pulse) posted() {
	p.alive()
	p.event.Store(time.Now().UnixNano())
}

// reach finds out whether events come, for Marathon tells nobody that it cannot post.
type reach struct {
	heard  bool // since the last reading
	missed int  // readings in a row that found a change, without any event in between
}

// read is what a reading says.
func (r reach) read(changed bool) reach {
	switch {
	case r.heard:
		return reach{}
	case changed:
		return reach{missed: r.missed + 1}
	}
	return r
}

// lost reports that events do not come. One missed event proves nothing: a reading may just be before it.
func (r reach) lost() bool { return r.missed >= 2 }

// mark puts a mark into a channel that holds one, unless it is there already.
func mark(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
