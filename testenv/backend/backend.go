// Package backend has small servers that name themselves, so that a test sees which of them answered.
package backend

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// Server is a listening backend. Its methods may be called from any goroutine.
type Server struct {
	addr     string
	hung     chan struct{} // closed by Hang
	hang     sync.Once
	stop     func() error
	wg       sync.WaitGroup
	conns    atomic.Int64
	requests atomic.Int64

	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
	done   chan struct{} // closed by Close
}

func newServer(addr string, stop func() error) *Server {
	return &Server{addr: addr, stop: stop, hung: make(chan struct{}), done: make(chan struct{}), open: map[net.Conn]bool{}}
}

// Addr is where the server listens, as "ip:port".
func (s *Server) Addr() string { return s.addr }

// Connections counts the connections accepted so far; 0 for UDP.
func (s *Server) Connections() int64 { return s.conns.Load() }

// Requests counts what was asked so far: HTTP requests, TCP lines or UDP packets, those left unanswered included.
func (s *Server) Requests() int64 { return s.requests.Load() }

// Hang makes the server accept but never answer: no new connection, no HTTP request that comes from now on, no packet.
// Lines of TCP connections that were open before are still answered.
func (s *Server) Hang() { s.hang.Do(func() { close(s.hung) }) }

func (s *Server) hangs() bool {
	select {
	case <-s.hung:
		return true
	default:
		return false
	}
}

// Close ends the server with all its connections and waits for it.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.done)
	}
	for c := range s.open {
		_ = c.Close() // its handler ends with it
	}
	s.mu.Unlock()
	_ = s.stop() // stops listening; closed twice is closed
	s.wg.Wait()
}

// ListenHTTP starts an HTTP server on addr, such as "127.0.0.1:0", that answers every request with name.
func ListenHTTP(addr, name string) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", name, err)
	}
	web := &http.Server{}
	s := newServer(l.Addr().String(), web.Close)
	web.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	web.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		s.requests.Add(1)
		if s.hangs() {
			select {
			case <-s.done:
			case <-req.Context().Done():
			}
			panic(http.ErrAbortHandler) // no answer, not even an empty one
		}
		_, _ = io.WriteString(w, name) // a client that left needs no answer
	})
	s.wg.Go(func() { _ = web.Serve(l) }) // ends with ErrServerClosed, always
	return s, nil
}

// ListenTCP starts a server on addr that answers every line with a line that is name.
func ListenTCP(addr, name string) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", name, err)
	}
	s := newServer(l.Addr().String(), l.Close)
	s.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			if !s.track(conn) {
				return
			}
			hung := s.hangs()
			s.wg.Go(func() { s.lines(conn, name, hung) })
		}
	})
	return s, nil
}

// track remembers an open connection, or closes it when the server is closed.
func (s *Server) track(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close()
		return false
	}
	s.open[conn] = true
	return true
}

func (s *Server) lines(conn net.Conn, name string, hung bool) {
	defer func() {
		s.mu.Lock()
		delete(s.open, conn)
		s.mu.Unlock()
		_ = conn.Close()
	}()
	in := bufio.NewScanner(conn)
	for in.Scan() {
		s.requests.Add(1)
		if hung {
			continue
		}
		if _, err := io.WriteString(conn, name+"\n"); err != nil {
			return
		}
	}
}

// ListenUDP starts a server on addr that answers every packet with name, a blank and the packet.
func ListenUDP(addr, name string) (*Server, error) {
	conn, err := listenUDP(addr)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", name, err)
	}
	s := newServer(conn.LocalAddr().String(), conn.Close)
	s.wg.Go(func() { s.packets(conn, name) })
	return s, nil
}

func listenUDP(addr string) (*net.UDPConn, error) {
	at, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	return net.ListenUDP("udp", at)
}

func (s *Server) packets(conn *net.UDPConn, name string) {
	answer := append(make([]byte, 0, 64<<10), name+" "...)
	prefix := len(answer)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(answer[prefix:cap(answer)])
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			continue // an earlier answer met nobody
		}
		s.requests.Add(1)
		if !s.hangs() {
			_, _ = conn.WriteToUDPAddrPort(answer[:prefix+n], from) // UDP promises nothing
		}
	}
}
