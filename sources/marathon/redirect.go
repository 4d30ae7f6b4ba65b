package marathon

import (
	"cmp"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// redirect follows a standby's way to its leader. Go drops the credentials on the way to another host and keeps them for
// subdomains; here they go to hosts that are known to be Marathon's.
func (c *client) redirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return errors.New("5 redirects in a row")
	}
	c.learn(req.Response)
	req.Header.Del("Authorization")
	req.Header.Del("Referer")
	req.URL.User = nil // Go would make credentials of it
	header, err := c.forwarded(req, via)
	if header != "" {
		req.Header.Set("Authorization", header)
	}
	return err
}

// forwarded gives the credentials for the place that a redirect leads to: those of the configured replica there, or else
// those that the redirecting one got. None go anywhere but to hosts that were configured, or named as the leader by one that was;
// and none that went over https go over http.
func (c *client) forwarded(req *http.Request, via []*http.Request) (string, error) {
	first := via[0].Header.Get("Authorization")
	plain := req.URL.Scheme != "https"
	if plain && slices.ContainsFunc(via, func(r *http.Request) bool { return r.URL.Scheme == "https" }) {
		return "", nil
	}
	to, ok := c.configured(req.URL)
	if !ok {
		if leader := c.named.Load(); leader != nil && strings.EqualFold(leader.Hostname(), req.URL.Hostname()) {
			return first, nil
		}
		return "", nil
	}
	if plain && to.base.Scheme == "https" {
		return "", nil
	}
	own, err := c.authorization(req.Context(), to)
	return cmp.Or(own, first), err
}

// configured gives the configured replica at a URL: at its port, or else just on its host.
func (c *client) configured(u *url.URL) (replica, bool) {
	i := slices.IndexFunc(c.replicas, func(r replica) bool { return hostPort(r.base) == hostPort(u) })
	if i < 0 {
		i = slices.IndexFunc(c.replicas, func(r replica) bool { return strings.EqualFold(r.base.Hostname(), u.Hostname()) })
	}
	if i < 0 {
		return replica{}, false
	}
	return c.replicas[i], true
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// learn remembers the leader that an answer names. Only the word of hosts that were configured counts.
func (c *client) learn(resp *http.Response) {
	leader, err := url.Parse(resp.Header.Get("X-Marathon-Leader"))
	if err != nil || leader.Hostname() == "" || leader.Scheme != "http" && leader.Scheme != "https" {
		return
	}
	if _, ok := c.configured(resp.Request.URL); ok {
		c.named.Store(leader)
	}
}

// leader gives the index of the replica that the last answer which named a leader named. It gives none when there was no such
// answer, as up to 0.8, or when the leader has no URL here.
func (c *client) leader() (int, bool) {
	leader := c.named.Load()
	if leader == nil {
		return 0, false
	}
	i := slices.IndexFunc(c.replicas, func(r replica) bool { return hostPort(r.base) == hostPort(leader) })
	return max(i, 0), i >= 0
}
