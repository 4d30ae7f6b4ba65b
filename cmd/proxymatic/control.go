package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// planLimit is how long a run works on a plan for a client that sets no limit itself.
const planLimit = time.Minute

// handOverWait is how long a successor waits for a run that is just reading its configuration.
const handOverWait = 5 * time.Second

// control is what others may ask of a run.
type control struct {
	plan   func(context.Context) planned
	ack    func(context.Context) acked
	leases chan<- *lease
}

// serve answers GET /plan and POST /ack on a Unix socket, and gives those who want to take over to leases, until stop is called, after
// which the socket is gone and nobody is given to leases. The caller holds the lock of the directory, so that a socket that is there
// already is a dead one.
func (c control) serve(path string) (stop func(), err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the old control socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("open the control socket: %w", err), listener.Close())
	}
	stopped := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /plan", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), planLimit)
		defer cancel()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(c.plan(ctx)) // a client that left misses its answer, nobody else does
	})
	mux.HandleFunc("POST /ack", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), planLimit)
		defer cancel()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(c.ack(ctx)) // as above
	})
	mux.HandleFunc("POST "+leasePath, func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return // the client is gone
		}
		unix, ok := conn.(*net.UnixConn)
		if ok {
			_, err = buffered.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: lease\r\n\r\n")
			err = errors.Join(err, buffered.Flush())
		}
		if !ok || err != nil {
			_ = conn.Close() // as above
			return
		}
		l := newLease(unix, buffered.Reader)
		select {
		case c.leases <- l:
		case <-time.After(handOverWait):
			l.refuse("another one takes over, or it is ending; try again")
		case <-stopped:
			l.refuse("it has ended, or another one has taken over; try again")
		}
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // always ends with ErrServerClosed, by stop
	}()
	return func() {
		close(stopped)
		_ = server.Close() // also removes the socket
		<-done
	}, nil
}

// askRun asks the run that listens on the control socket, and reads its answer. running is false when there is none.
func askRun(ctx context.Context, path, method, what string, answer any) (running bool, err error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://proxymatic"+what, nil)
	if err != nil {
		return false, err
	}
	response, err := transport.RoundTrip(request)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return false, nil
	case errors.Is(err, fs.ErrPermission):
		return true, fmt.Errorf("ask the running proxymatic: %w; be its user or root", err)
	case err != nil:
		return true, fmt.Errorf("ask the running proxymatic at %s: %w", path, err)
	}
	err = json.NewDecoder(response.Body).Decode(answer)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return true, fmt.Errorf("read the answer of the running proxymatic: %w", err)
	}
	return true, nil
}
