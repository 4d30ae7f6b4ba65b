package stage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Flows are clients of UDP services, each with one socket all the time, that send numbered datagrams. Backends of package backend
// give them back with their names, so that each answer is known by the datagram it belongs to.
type Flows struct {
	flows    []*flow
	tag      string // tells the datagrams from those of other clients that had the same port
	stop     chan struct{}
	sending  sync.WaitGroup
	reading  sync.WaitGroup
	sent     atomic.Int64
	answered atomic.Int64
	strange  atomic.Int64
}

// Datagram is one that was sent, and what became of it.
type Datagram struct {
	Flow     int
	Sent     time.Time
	Answered time.Time // zero when no answer came
	By       string    // the name that answered
}

// String gives a line for messages.
func (d Datagram) String() string {
	if d.Answered.IsZero() {
		return fmt.Sprintf("%s flow %d: lost", d.Sent.Format("15:04:05.000"), d.Flow)
	}
	return fmt.Sprintf("%s flow %d: answered by %s after %s", d.Sent.Format("15:04:05.000"), d.Flow, d.By, d.Answered.Sub(d.Sent))
}

type flow struct {
	id   int
	conn net.Conn

	mu   sync.Mutex
	sent []Datagram
}

const (
	// flowGrace is how long answers are waited for at the end.
	flowGrace = time.Second
	// flowBehind is how far a sender that was late catches up: more at once would overflow pen's socket, which holds some 200.
	flowBehind = 30 * time.Millisecond
)

// StartFlows begins to send from so many clients, which have the ports in turn, so many datagrams a second altogether.
func StartFlows(ports []int, flows, perSecond int) (*Flows, error) {
	f := &Flows{tag: strconv.FormatInt(time.Now().UnixNano(), 36), stop: make(chan struct{})}
	for i := range flows {
		conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", ports[i%len(ports)]))
		if err != nil {
			f.close()
			return nil, err
		}
		f.flows = append(f.flows, &flow{id: i, conn: conn})
	}
	for _, c := range f.flows {
		f.reading.Go(func() { f.read(c) })
	}
	f.sending.Go(func() { f.send(time.Second / time.Duration(perSecond)) })
	return f, nil
}

func (f *Flows) close() {
	for _, c := range f.flows {
		_ = c.conn.Close() // ends its reader
	}
}

// send lets the clients send in turn, one each interval.
func (f *Flows) send(interval time.Duration) {
	next := time.Now()
	for i := 0; ; i++ {
		if wait := time.Until(next); wait > 0 {
			time.Sleep(wait)
		}
		select {
		case <-f.stop:
			return
		default:
		}
		next = next.Add(interval)
		if behind := time.Now().Add(-flowBehind); next.Before(behind) {
			next = behind
		}
		f.flows[i%len(f.flows)].send(f.tag)
		f.sent.Add(1)
	}
}

func (c *flow) send(tag string) {
	c.mu.Lock()
	number := len(c.sent)
	c.sent = append(c.sent, Datagram{Flow: c.id, Sent: time.Now()})
	c.mu.Unlock()
	text := []byte(tag + "-" + strconv.Itoa(c.id) + "-" + strconv.Itoa(number))
	// The kernel tells a sender that nobody had listened by refusing the next datagram, unsent.
	if _, err := c.conn.Write(text); errors.Is(err, syscall.ECONNREFUSED) {
		_, _ = c.conn.Write(text) // what is not sent is lost
	}
}

// read takes answers until the socket is closed.
func (f *Flows) read(c *flow) {
	packet := make([]byte, 1024)
	for {
		n, err := c.conn.Read(packet)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // nobody listened just now
			continue
		}
		if c.take(f.tag, string(packet[:n])) {
			f.answered.Add(1)
		} else {
			f.strange.Add(1)
		}
	}
}

// take notes an answer. It is false for one that belongs to no datagram of this flow, or was there already.
func (c *flow) take(tag, answer string) bool {
	at := time.Now()
	name, text, _ := strings.Cut(answer, " ")
	digits, ours := strings.CutPrefix(text, tag+"-"+strconv.Itoa(c.id)+"-")
	number, err := strconv.Atoi(digits)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ours || err != nil || number >= len(c.sent) || !c.sent[number].Answered.IsZero() {
		return false
	}
	c.sent[number].Answered, c.sent[number].By = at, name
	return true
}

// Born waits until each client has had an answer. Until then its datagrams may reach several backends, or other clients.
func (f *Flows) Born(ctx context.Context) error {
	return Until(ctx, func() error {
		for _, c := range f.flows {
			if !c.answered() {
				return fmt.Errorf("flow %d was never answered", c.id)
			}
		}
		return nil
	})
}

func (c *flow) answered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.sent, func(d Datagram) bool { return !d.Answered.IsZero() })
}

// Wait waits until n more datagrams have been sent.
func (f *Flows) Wait(ctx context.Context, n int) error {
	goal := f.sent.Load() + int64(n)
	return Until(ctx, func() error {
		if left := goal - f.sent.Load(); left > 0 {
			return fmt.Errorf("%d datagrams are still to be sent", left)
		}
		return nil
	})
}

// Stop ends the flows, after a moment in which the last answers may come.
func (f *Flows) Stop() FlowsResult {
	close(f.stop)
	f.sending.Wait()
	for deadline := time.Now().Add(flowGrace); f.answered.Load() < f.sent.Load() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	f.close()
	f.reading.Wait()
	r := FlowsResult{Misdelivered: int(f.strange.Load())}
	for _, c := range f.flows {
		r.Flows = append(r.Flows, c.sent)
	}
	return r
}

// FlowsResult is what flows came to.
type FlowsResult struct {
	Flows        [][]Datagram // of each flow, in the order of sending
	Misdelivered int          // answers that belong to no datagram of the client that got them
}

// Sent counts the datagrams that were sent from a moment on.
func (r FlowsResult) Sent(from time.Time) int {
	n := 0
	for _, flow := range r.Flows {
		for _, d := range flow {
			if !d.Sent.Before(from) {
				n++
			}
		}
	}
	return n
}

// Lost gives the datagrams that were sent from a moment on and never answered, in the order of sending.
func (r FlowsResult) Lost(from time.Time) []Datagram {
	var out []Datagram
	for _, flow := range r.Flows {
		for _, d := range flow {
			if d.Answered.IsZero() && !d.Sent.Before(from) {
				out = append(out, d)
			}
		}
	}
	slices.SortFunc(out, func(a, b Datagram) int { return a.Sent.Compare(b.Sent) })
	return out
}

// Never is longer than anything that happened.
const Never = time.Duration(math.MaxInt64)

// Reach is how a flow came to a backend after some moment.
type Reach struct {
	Sent  time.Duration // from the moment until it sent the first datagram that a current backend answered; Never when there was none
	After time.Duration // from the moment to that answer
	Lost  int           // datagrams that it sent since the moment and lost before
}

// Reached tells for each flow how it came, with a datagram sent after a moment, to a backend that is current.
func (r FlowsResult) Reached(from time.Time, current func(name string) bool) []Reach {
	out := make([]Reach, 0, len(r.Flows))
	for _, flow := range r.Flows {
		out = append(out, reached(flow, from, current))
	}
	return out
}

func reached(flow []Datagram, from time.Time, current func(name string) bool) Reach {
	reach := Reach{Sent: Never, After: Never}
	for _, d := range flow {
		switch {
		case !d.Sent.After(from):
		case d.Answered.IsZero():
			reach.Lost++
		case current(d.By):
			reach.Sent, reach.After = d.Sent.Sub(from), d.Answered.Sub(from)
			return reach
		}
	}
	return reach
}

// Slowest gives the longest time of all.
func Slowest(all []Reach) time.Duration {
	var slowest time.Duration
	for _, r := range all {
		slowest = max(slowest, r.After)
	}
	return slowest
}
