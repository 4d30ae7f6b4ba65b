package fakeregistrator

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// Store is one of etcd's two stores. Its methods may be called from any goroutine, and with any key and value, also those
// that no registrator would write.
type Store interface {
	// Set sets a key, whether it is there or not. It goes away after ttl, in whole seconds, parts rounded up; 0 means never.
	Set(ctx context.Context, key, value string, ttl time.Duration) error
	// Delete deletes a key; it is no error that there is none.
	Delete(ctx context.Context, key string) error

	services(ctx context.Context, prefix string) ([]entry, error)
}

// Open reads a URL: etcd2:// or etcd3:// for the store, where etcd is, with commas between several addresses, and the prefix
// of all keys, which is /services where the URL has none.
func Open(rawURL string) (store Store, prefix string, err error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, "", err
	}
	if u.Host == "" {
		return nil, "", fmt.Errorf("%s: want host:port of etcd", rawURL)
	}
	prefix = strings.TrimRight(u.Path, "/")
	if prefix == "" {
		prefix = "/services"
	}
	switch u.Scheme {
	case "etcd2":
		return V2(u.Host), prefix, nil
	case "etcd3":
		return V3(u.Host), prefix, nil
	}
	return nil, "", fmt.Errorf("%s: want etcd2:// or etcd3://", rawURL)
}

// patience is how long one member may take for an answer.
const patience = 5 * time.Second

// client asks the members of a cluster over HTTP: first the one that answered last.
type client struct {
	http  *http.Client
	addrs []string
	last  atomic.Int64 // index of the member that answered last
}

// newClient keeps a connection for each of many registrators that share a store.
func newClient(addrs string) *client {
	transport := &http.Transport{MaxIdleConns: 100, MaxIdleConnsPerHost: 100, IdleConnTimeout: 10 * time.Second}
	return &client{http: &http.Client{Transport: transport, Timeout: patience}, addrs: strings.Split(addrs, ",")}
}

// request is what a member is asked. A member that does not answer, or answers 5xx, may have done it all the same, so it has
// to be something that can be repeated.
type request struct {
	method, path string // escaped
	contentType  string
	body         string
}

// ask gives the first answer of a member, with its status.
func (c *client) ask(ctx context.Context, r request) (status int, body []byte, err error) {
	first := c.last.Load()
	for i := range int64(len(c.addrs)) {
		member := (first + i) % int64(len(c.addrs))
		status, body, err = c.askMember(ctx, c.addrs[member], r)
		if err == nil {
			c.last.Store(member)
			return status, body, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return 0, nil, err
}

func (c *client) askMember(ctx context.Context, addr string, r request) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, "http://"+addr+r.path, strings.NewReader(r.body))
	if err != nil {
		return 0, nil, err
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= http.StatusInternalServerError {
		err = refused(resp.StatusCode, body)
	}
	return resp.StatusCode, body, err
}

func refused(status int, body []byte) error {
	return fmt.Errorf("etcd answers %d %.300s", status, strings.TrimSpace(string(body)))
}

func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }
