package stage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// patience is how long a client waits for an answer.
const patience = 5 * time.Second

// Request asks a service once, over a connection of its own, and gives the name that answered.
func Request(ctx context.Context, port int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: stage\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

// Load is clients that ask services again and again, each time over a new connection.
type Load struct {
	ports    []int
	judge    func(port int, name string, began, ended time.Time) string
	stop     chan struct{}
	clients  sync.WaitGroup
	began    time.Time
	requests atomic.Int64

	mu     sync.Mutex
	failed []Failure
}

// Failure is a request that was not answered as it should be.
type Failure struct {
	Port   int
	Began  time.Time
	Ended  time.Time
	Reason string
}

// String gives a line for messages.
func (f Failure) String() string {
	return fmt.Sprintf("%s :%d %s", f.Began.Format("15:04:05.000"), f.Port, f.Reason)
}

// clients is how many requests are under way at a time, at most.
const clients = 16

// StartLoad begins to ask the services at the given ports in turn, so many times a second altogether. judge tells what is
// wrong with an answer, "" for nothing; nil takes every answer.
func StartLoad(ports []int, perSecond int, judge func(port int, name string, began, ended time.Time) string) *Load {
	l := &Load{ports: ports, judge: judge, stop: make(chan struct{}), began: time.Now()}
	interval := time.Second * clients / time.Duration(perSecond)
	for i := range clients {
		l.clients.Go(func() { l.client(i, interval) })
	}
	return l
}

// client asks once each interval. When it is late, as on a busy machine, it catches up.
func (l *Load) client(i int, interval time.Duration) {
	next := l.began.Add(interval * time.Duration(i) / clients)
	for n := i; ; n += clients {
		select {
		case <-l.stop:
			return
		case <-time.After(time.Until(next)):
		}
		next = next.Add(interval)
		if behind := time.Now().Add(-time.Second); next.Before(behind) {
			next = behind
		}
		l.ask(l.ports[n%len(l.ports)])
	}
}

func (l *Load) ask(port int) {
	began := time.Now()
	name, err := Request(context.Background(), port)
	ended := time.Now()
	l.requests.Add(1)
	complaint := ""
	switch {
	case err != nil:
		complaint = fmt.Sprintf("%v (after %s)", err, ended.Sub(began))
	case l.judge != nil:
		complaint = l.judge(port, name, began, ended)
	}
	if complaint == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, Failure{port, began, ended, complaint})
}

// Requests is how many requests have ended so far.
func (l *Load) Requests() int { return int(l.requests.Load()) }

// WaitRequests waits until n more requests have ended.
func (l *Load) WaitRequests(ctx context.Context, n int) error {
	goal := l.Requests() + n
	return Until(ctx, func() error {
		if done := l.Requests(); done < goal {
			return fmt.Errorf("%d requests are still to come", goal-done)
		}
		return nil
	})
}

// Result is what a load came to.
type Result struct {
	Requests int
	Elapsed  time.Duration
	Failed   []Failure
}

// Rate is how many requests were made in a second.
func (r Result) Rate() float64 { return float64(r.Requests) / r.Elapsed.Seconds() }

// Stop ends the load and waits for the requests under way.
func (l *Load) Stop() Result {
	close(l.stop)
	elapsed := time.Since(l.began)
	l.clients.Wait()
	return Result{l.Requests(), elapsed, l.failed}
}
