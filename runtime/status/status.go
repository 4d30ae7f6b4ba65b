// Package status answers HTTP requests about the latest pass of the loop. It asks nobody and changes nothing: what it
// says is as old as that pass.
package status

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/meltwater/proxymatic/runtime/reconcile"
)

const (
	firstPause = 250 * time.Millisecond // before an address that cannot be bound is tried again
	lastPause  = 30 * time.Second
	goodbye    = time.Second // for requests under way when the server ends
)

// Config is what a Server works with.
type Config struct {
	Addr    string                 // host and port to listen on, such as "127.0.0.1:9090"
	Pass    func() *reconcile.Pass // the latest pass; called by several requests at a time, never nil
	Version string                 // of proxymatic, such as "1.2.0"
	Commit  string                 // that it was built from; may be empty
	Warn    func(err error)        // called when the address cannot be bound, once for each different reason; may be nil
}

// Server serves the status endpoint.
type Server struct {
	cfg         Config
	handler     http.Handler
	terminating atomic.Bool
}

// New prepares a server. It listens only in Run.
func New(cfg Config) *Server {
	if cfg.Warn == nil {
		cfg.Warn = func(error) {}
	}
	s := &Server{cfg: cfg}
	s.handler = s.routes()
	return s
}

// SetTerminating makes /status and /readyz answer 503 TERMINATING from now on.
func (s *Server) SetTerminating() { s.terminating.Store(true) }

// ServeHTTP answers one request, as the server that Run starts does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Run serves until ctx ends. An address that cannot be bound is tried again for ever: a status that nobody can read is
// no reason not to proxy. It returns nil.
func (s *Server) Run(ctx context.Context) error {
	var warned string
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		served, err := s.serve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if served {
			pause = firstPause
		}
		if text := err.Error(); text != warned || served {
			warned = text
			s.cfg.Warn(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause + rand.N(pause/4)):
		}
	}
}

// serve listens and answers until ctx ends or the listener breaks. It tells whether it could listen.
func (s *Server) serve(ctx context.Context) (bool, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Addr)
	if err != nil {
		return false, fmt.Errorf("status endpoint: %w", err)
	}
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // what clients do wrong is not for our log
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err = <-done:
		server.Close()
		return true, fmt.Errorf("status endpoint: %w", err)
	case <-ctx.Done():
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	if server.Shutdown(limited) != nil {
		server.Close()
	}
	<-done
	return true, ctx.Err()
}

// Healthcheck asks the status endpoint at addr, as the command of that name does. Nil means that it answered OK.
func Healthcheck(ctx context.Context, addr string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+dialable(addr)+"/status", nil)
	if err != nil {
		return fmt.Errorf("status endpoint %s: %w", addr, err)
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // and no proxy from the environment
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("redirected: not proxymatic's endpoint") },
	}
	response, err := client.Do(request)
	if err != nil {
		return err // names the address already
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if err != nil {
		return fmt.Errorf("status endpoint %s: %w", addr, err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status endpoint %s: %s: %s", addr, response.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// dialable gives the address to ask for what listens on addr: a wildcard cannot be dialed everywhere.
func dialable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr // dialing says what is wrong with it
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "", err == nil && ip.IsUnspecified() && ip.Is4():
		host = "127.0.0.1"
	case err == nil && ip.IsUnspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}
