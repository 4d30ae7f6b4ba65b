package marathon

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/meltwater/proxymatic/sources/hostname"
)

// Access says who we are to Marathon, and what its certificate is checked against. The zero value is nobody, and the
// system's certificates. At most one of User, Token and ServiceAccount is given; where a URL has a user and a password, those
// count at that replica.
type Access struct {
	User, Password string
	// Token goes into the Authorization header, as TokenScheme says: SchemeToken, which an empty one means, or SchemeBearer.
	Token, TokenScheme string
	// ServiceAccount is one of DC/OS, in the JSON that its secret store has: uid, private_key, login_endpoint and scheme.
	ServiceAccount string
	// CAFile has the certificates that Marathon's own, and the login endpoint's, are checked against.
	CAFile string
	// CertFile and KeyFile have the certificate to show, and its key. They are read for each connection.
	CertFile, KeyFile string
	// Insecure takes any certificate for Marathon's.
	Insecure bool
}

// The ways to write a token.
const (
	SchemeToken  = "token"  // Authorization: token=TOKEN, as DC/OS wants it
	SchemeBearer = "Bearer" // Authorization: Bearer TOKEN
)

// setting is the name of a setting, and whether it is given.
type setting struct {
	name  string
	given bool
}

// both gives an error when more than one of the settings is given.
func both(all ...setting) error {
	var given []string
	for _, s := range all {
		if s.given {
			given = append(given, s.name)
		}
	}
	if len(given) > 1 {
		return fmt.Errorf("%s and %s contradict each other; keep one", given[0], given[1])
	}
	return nil
}

// needs gives an error when the first setting is given without the second.
func needs(s, other setting) error {
	if s.given && !other.given {
		return fmt.Errorf("%s is given without %s", s.name, other.name)
	}
	return nil
}

// Check finds settings that do not go together; urls are those of all Marathons that they are for. The error names settings,
// never their values.
func (a Access) Check(urls []string) error {
	user, password := setting{"--marathon-user", a.User != ""}, setting{"--marathon-password", a.Password != ""}
	token := setting{"--marathon-token", a.Token != ""}
	account := setting{"--marathon-service-account", a.ServiceAccount != ""}
	ca, insecure := setting{"--marathon-ca", a.CAFile != ""}, setting{"--marathon-insecure", a.Insecure}
	cert, key := setting{"--marathon-cert", a.CertFile != ""}, setting{"--marathon-key", a.KeyFile != ""}
	err := errors.Join(both(user, token, account), both(ca, insecure), needs(user, password), needs(password, user),
		needs(cert, key), needs(key, cert), needs(setting{"--marathon-token-scheme " + SchemeBearer, a.TokenScheme == SchemeBearer}, token))
	if err != nil {
		return err
	}
	if strings.Contains(a.User, ":") {
		return errors.New("--marathon-user: a user name has no colon")
	}
	if account.given {
		if _, err := parseAccount(a.ServiceAccount); err != nil {
			return err
		}
	}
	for _, s := range []setting{ca, insecure, cert} {
		if s.given && !a.encrypted(urls) {
			return fmt.Errorf("%s is about https, and no URL of --marathon has that", s.name)
		}
	}
	return nil
}

// encrypted reports whether anybody is spoken to over TLS.
func (a Access) encrypted(urls []string) bool {
	for _, raw := range urls {
		if r, err := parseReplica(raw); err == nil && r.base.Scheme == "https" {
			return true
		}
	}
	account, err := parseAccount(a.ServiceAccount)
	return err == nil && account.endpoint.Scheme == "https"
}

// header is the Authorization that stays the same, and the settings that it comes from.
func (a Access) header() (header, from string) {
	switch {
	case a.User != "":
		return basic(a.User, a.Password), "--marathon-user and --marathon-password"
	case a.Token != "" && a.TokenScheme == SchemeBearer:
		return "Bearer " + a.Token, "--marathon-token"
	case a.Token != "":
		return tokenPrefix + a.Token, "--marathon-token and --marathon-token-scheme"
	case a.ServiceAccount != "":
		return "", "--marathon-service-account"
	}
	return "", ""
}

const tokenPrefix = "token="

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// authorization gives the header for a replica, empty for none. It logs in where that is needed.
func (c *client) authorization(ctx context.Context, r replica) (string, error) {
	switch {
	case r.authorization != "":
		return r.authorization, nil
	case c.session == nil:
		return c.header, nil
	}
	token, err := c.session.get(ctx)
	if err != nil {
		return "", err
	}
	return tokenPrefix + token, nil
}

// do sends a request, which has no body, to a replica, as who we are to it. When a token that can be had anew is refused, one
// is had, and the request sent again. What is refused after all is an error, which names the settings to look at.
func (c *client) do(r replica, req *http.Request) (*http.Response, error) {
	resp, err := c.try(r, req)
	if err == nil && resp.StatusCode == http.StatusUnauthorized && c.session != nil && c.session.refused(resp.Request.Header.Get("Authorization")) {
		finish(resp)
		resp, err = c.try(r, req)
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		defer resp.Body.Close()
		return nil, c.denied(r, resp)
	}
	return resp, nil
}

func (c *client) try(r replica, req *http.Request) (*http.Response, error) {
	header, err := c.authorization(req.Context(), r)
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	if header != "" {
		req.Header.Set("Authorization", header)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, explained(err)
	}
	c.learn(resp)
	return resp, nil
}

// finish reads what is left of a short answer, so that its connection can be used again.
func finish(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // a connection that broke is not used again
	_ = resp.Body.Close()
}

// denied is the error for an answer of 401 or 403.
func (c *client) denied(r replica, resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // half a message will do
	err := quoting(resp, body)
	from := c.from
	if to, ok := c.configured(resp.Request.URL); ok {
		r = to
	}
	if r.authorization != "" {
		from = "the user and password in --marathon"
	}
	switch {
	case from == "":
		err.text += " (no credentials are given; see --marathon-user)"
	case resp.Request.Header.Get("Authorization") == "":
		err.text += fmt.Sprintf(" (a redirect led to %s, where our credentials do not go)", origin(resp.Request.URL))
	default:
		err.text += " (look at " + from + ")"
	}
	return err
}

// quoting is statusError for an answer to a request of ours: one that says back what we are known by is not quoted.
func quoting(resp *http.Response, body []byte) refusal {
	if echoes(resp.Request, body) {
		body = nil
	}
	return statusError(resp.StatusCode, body)
}

func echoes(req *http.Request, text []byte) bool {
	header := req.Header.Get("Authorization")
	if i := strings.IndexAny(header, " ="); i >= 0 && bytes.Contains(text, []byte(header[i+1:])) {
		return true
	}
	_, password, ok := req.BasicAuth()
	quoted, _ := json.Marshal(password) // a string always can be
	return ok && password != "" && (bytes.Contains(text, []byte(password)) || bytes.Contains(text, quoted))
}

// explained adds to an error which setting may help.
func explained(err error) error {
	reason := hostname.Reason(err)
	switch {
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return errors.New(reason + " (see --marathon-ca)")
	case strings.Contains(reason, "Location header"): // net/http quotes it, whatever it has
		return errors.New("it redirects to what is no URL")
	case strings.Contains(reason, "unknown certificate authority"): // ours is refused
		return errors.New(reason + " (see --marathon-cert)")
	case strings.Contains(reason, "tls: certificate required"): // crypto/tls has no type for what the other side says
		return errors.New(reason + " (see --marathon-cert and --marathon-key)")
	}
	return err
}

// origin is what of a URL can be shown, whoever made it.
func origin(u *url.URL) string { return u.Scheme + "://" + u.Host }
