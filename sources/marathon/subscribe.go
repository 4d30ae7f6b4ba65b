package marathon

import (
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
	// enrollTime is for one subscription, all replicas together.
	enrollTime = 15 * time.Second
	// farewellTime is for unsubscribing at the end, all replicas together.
	farewellTime = 3 * time.Second
)

// subscribe keeps Marathon posting to us until ctx ends, and then ends it: Marathon would go on posting to dead
// subscribers for ever, and get slow by it.
func (c *callbacks) subscribe(ctx context.Context, stream *fallback) {
	pause := backoff{first: c.retry}
	var no declined
	fresh := true
	for ctx.Err() == nil {
		wait := c.refresh // Marathon keeps subscriptions, unless it lost all that it knew
		err := c.enroll(ctx, fresh)
		switch {
		case ctx.Err() != nil:
		case err == nil:
			pause.reset()
			no = declined{}
			c.tell("")
			stream.stop()
		case errors.As(err, &no):
			c.tell(fmt.Sprintf("Marathon has no callbacks, so its event stream is followed; remove --marathon-callback, "+
				"or before 1.5 start Marathon with --event_subscriber http_callback: %s", err))
			stream.start(ctx)
		default:
			wait = min(pause.next(), c.refresh)
			c.tell(fmt.Sprintf("no subscription to callbacks: %s; it is tried again", err))
		}
		fresh = c.await(ctx, wait) || err != nil
	}
	if no.text == "" {
		c.unsubscribe(context.WithoutCancel(ctx))
	}
}

// await waits, and reports whether a lost subscription was the end of it.
func (c *callbacks) await(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-c.again:
		return true
	}
	return false
}

// enroll subscribes; Marathon has one subscription of a URL, however often it is asked for. A fresh one is without the past
// of an old one: since 0.13 Marathon skips whom it could not reach for seconds, then minutes, until it has unsubscribed.
func (c *callbacks) enroll(ctx context.Context, fresh bool) error {
	ctx, cancel := context.WithTimeout(ctx, enrollTime)
	defer cancel()
	err := c.client.submit(ctx, http.MethodPost, c.subscription())
	if err != nil || !fresh {
		return err
	}
	_ = c.client.submit(ctx, http.MethodDelete, c.subscription()) // whatever came of it, what follows tells
	return c.client.submit(ctx, http.MethodPost, c.subscription())
}

func (c *callbacks) unsubscribe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, farewellTime)
	defer cancel()
	_ = c.client.submit(ctx, http.MethodDelete, c.subscription()) // a Marathon that is away cannot be told
}

func (c *callbacks) subscription() string {
	return "/v2/eventSubscriptions?callbackUrl=" + url.QueryEscape(c.url)
}

// declined says that a replica answered that it does not do what was asked, so that asking again is of little use.
type declined struct{ text string }

func (d declined) Error() string { return d.text }

// declines tells such an answer from one that another time, or with other credentials, would not be given.
func declines(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	}
	return status >= 400 && status < 500
}

// submit asks one replica after another to do something, until one has. The error names every replica, in the order of
// the configuration.
func (c *client) submit(ctx context.Context, method, path string) error {
	n := len(c.replicas)
	failures, no := make([]string, n), false
	for i := range n {
		at := (int(c.preferred.Load()) + i) % n
		err := c.send(ctx, c.replicas[at], method, path, c.patience(ctx, n-i))
		if err == nil {
			return nil
		}
		failures[at] = fmt.Sprintf("%s: %s", c.replicas[at], hostname.Reason(err))
		if answer := (refusal{}); errors.As(err, &answer) && declines(answer.status) {
			no = true
		}
	}
	text := strings.Join(failures, "; ")
	if no {
		return declined{text}
	}
	return errors.New(text)
}

// send asks one replica, and takes only JSON for success: a standby of 0.8 says 200 with an empty body when it cannot
// reach its leader.
func (c *client) send(ctx context.Context, r replica, method, path string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errors.New("no whole answer in time"))
	defer cancel()
	req, err := r.request(ctx, path, "application/json")
	if err != nil {
		return err
	}
	req.Method = method
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.do(r, req)
	if err != nil {
		return timeoutCause(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxHead))
	switch {
	case err != nil:
		return timeoutCause(ctx, fmt.Errorf("read the answer: %w", err))
	case resp.Request.Method != method: // 301 and 302 make a GET of it
		return fmt.Errorf("it sends us to %s by a redirect that only GET can follow; give --marathon that address", resp.Request.URL.Host)
	case resp.StatusCode != http.StatusOK:
		return quoting(resp, body)
	case !json.Valid(body):
		return errors.New("the answer is no JSON")
	}
	return nil
}

// fallback follows the event stream while there are no callbacks. It is for one goroutine.
type fallback struct {
	follow func(context.Context)
	end    func() // nil while it does not run
}

func (f *fallback) start(ctx context.Context) {
	if f.end != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	wait.Go(func() { f.follow(ctx) })
	f.end = func() { cancel(); wait.Wait() }
}

func (f *fallback) stop() {
	if f.end != nil {
		f.end()
		f.end = nil
	}
}
