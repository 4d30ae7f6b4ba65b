package registrator

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/meltwater/proxymatic/sources/hostname"
)

// maxBody bounds an answer. 5,000 keys are about 1 MB.
const maxBody = 256 << 20

// web asks the members of a cluster over HTTP.
type web struct {
	members        []string // "http://host:port"
	user, password string
	patience       time.Duration // for one answer of one member
	http           *http.Client
	preferred      atomic.Int64 // the member that is asked first; it counts on
}

// answer is what a member said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func newWeb(where location, secure *tls.Config, timeout time.Duration) *web {
	scheme := "http://"
	if secure != nil {
		scheme = "https://"
	}
	w := &web{user: where.user, password: where.password, patience: timeout / time.Duration(len(where.addrs))}
	for _, addr := range where.addrs {
		w.members = append(w.members, scheme+addr)
	}
	w.http = &http.Client{
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: w.patience, KeepAlive: 15 * time.Second}).DialContext,
			TLSClientConfig:       secure,
			TLSHandshakeTimeout:   w.patience,
			ResponseHeaderTimeout: w.patience,
			IdleConnTimeout:       30 * time.Second,
			ReadBufferSize:        64 << 10,
		},
		// etcd redirects to no other place; whoever does would get our password.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return w
}

func (w *web) member() string {
	return w.members[int(w.preferred.Load()%int64(len(w.members)))]
}

// failover makes the next member the preferred one.
func (w *web) failover() { w.preferred.Add(1) }

// each calls ask for one member after another until one has no error. It is errAbsent when a member had that and none
// anything better, and errRefused when there is no connection to any.
func (w *web) each(ctx context.Context, ask func() error) error {
	var failures []string
	absent, refused := false, 0
	for range w.members {
		err := ask()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		absent = absent || errors.Is(err, errAbsent)
		if refuses(err) {
			refused++
		}
		failures = append(failures, hostname.Reason(err))
		w.failover()
	}
	if absent {
		return errAbsent
	}
	text := strings.Join(failures, "; ")
	if refused == len(failures) {
		return unreachable(text)
	}
	return errors.New(text)
}

// errRefused says that no member takes a connection of ours.
var errRefused = errors.New("there is no connection")

// unreachable is errRefused with each member's reason.
type unreachable string

func (u unreachable) Error() string { return string(u) }

// Is makes it errRefused.
func (u unreachable) Is(target error) bool { return target == errRefused }

// refuses reports whether an error is about the connection or its TLS, whatever protocol would be spoken on it.
func refuses(err error) bool {
	var op *net.OpError
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &op) && op.Op != "read" || errors.As(err, &certificate) || errors.Is(err, errSilent)
}

// get asks the preferred member, for a whole answer.
func (w *web) get(ctx context.Context, path string) (answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, w.patience, errSilent)
	defer cancel()
	resp, err := w.begin(ctx, path)
	if err != nil {
		return answer{}, causeOf(ctx, err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(io.LimitReader(resp.Body, maxBody+1)); err != nil {
		return answer{}, causeOf(ctx, fmt.Errorf("read the answer: %w", err))
	}
	if body.Len() > maxBody {
		return answer{}, fmt.Errorf("the answer has more than %d MB", maxBody>>20)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: body.Bytes()}, nil
}

// begin asks the preferred member, and gives its answer to be read until ctx ends.
func (w *web) begin(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.member()+path, nil)
	if err != nil {
		return nil, errors.New("the request has no valid URL")
	}
	req.Header.Set("User-Agent", "proxymatic")
	if w.user != "" {
		req.SetBasicAuth(w.user, w.password)
	}
	return w.http.Do(req)
}

// version gives etcd's version, such as "3.4.23".
func (w *web) version(ctx context.Context) (version string, err error) {
	err = w.each(ctx, func() error {
		got, err := w.get(ctx, "/version")
		if err != nil {
			return err
		}
		var v struct {
			Server string `json:"etcdserver"`
		}
		if json.Unmarshal(got.body, &v) != nil || v.Server == "" {
			_, v.Server, _ = strings.Cut(string(got.body), "etcd ") // up to 0.4 it is a line of text
		}
		version = v.Server
		return nil
	})
	return version, err
}
