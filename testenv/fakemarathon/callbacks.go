package fakemarathon

import (
	"context"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// callback is a subscriber that events are posted to.
type callback struct {
	failures  int
	skipUntil time.Time
}

// Callbacks gives the URLs that events are posted to, in order.
func (c *Cluster) Callbacks() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.callbacks))
}

// SetCallbacks puts other subscribers in the place of those that there are, without a past: as a leader that has just begun
// finds them in ZooKeeper.
func (c *Cluster) SetCallbacks(urls ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.callbacks = map[string]*callback{}
	for _, url := range urls {
		c.callbacks[url] = &callback{}
	}
}

// CutCallbacks makes all posts fail, as a firewall in between would, or lets them through again.
func (c *Cluster) CutCallbacks(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
}

// SkipsCallback reports whether events are not posted to a subscriber now, because it failed before.
func (c *Cluster) SkipsCallback(url string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	sub := c.callbacks[url]
	return sub != nil && time.Now().Before(sub.skipUntil)
}

func (c *Cluster) subscriptions(req *http.Request, f Faults) answer {
	if f.NoCallbacks {
		return message(http.StatusBadRequest, "http event callback system is not running on this Marathon instance. "+
			"Please re-start this instance with \"--event_subscriber http_callback\".")
	}
	url := req.URL.Query().Get("callbackUrl")
	event := object{"clientIp": "127.0.0.1", "callbackUrl": url, "eventType": "subscribe_event", "timestamp": c.now()}
	switch {
	case req.Method == http.MethodGet:
		return ok(object{"callbackUrls": append([]string{}, slices.Sorted(maps.Keys(c.callbacks))...)})
	case url == "":
		return message(http.StatusBadRequest, "Missing callbackUrl")
	case req.Method == http.MethodPost:
		if c.callbacks[url] == nil {
			c.callbacks[url] = &callback{}
		}
	case req.Method == http.MethodDelete:
		delete(c.callbacks, url)
		event["eventType"] = "unsubscribe_event"
	default:
		return answer{status: http.StatusMethodNotAllowed}
	}
	c.emit(event["eventType"].(string), object{"clientIp": "127.0.0.1", "callbackUrl": url})
	return ok(event)
}

// post sends an event to all subscribers in parallel, so without any order. Only a leader that lives does.
func (c *Cluster) post(event string) {
	if c.closed || c.leader < 0 || c.leader >= len(c.replicas) || c.replicas[c.leader].closed {
		return
	}
	for url, sub := range c.callbacks {
		if time.Now().Before(sub.skipUntil) {
			continue
		}
		cut := c.cut
		c.wg.Go(func() { c.report(sub, !cut && c.deliver(url, event)) })
	}
}

func (c *Cluster) deliver(url, event string) bool {
	ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(event))
	if err != nil {
		return false
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	if c.v == 103 {
		req.Header.Set("Content-Type", "text/plain") // 1.3.10 to 1.3.13
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode/100 == 2
}

// report skips a failing subscriber for 2, 4, 8 ... s, as Marathon does from 0.13 on; events in between are lost.
func (c *Cluster) report(sub *callback, success bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if success {
		*sub = callback{}
		return
	}
	if c.v >= 13 {
		sub.failures = min(sub.failures+1, 30)
		sub.skipUntil = time.Now().Add(time.Second << sub.failures)
	}
}
