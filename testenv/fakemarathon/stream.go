package fakemarathon

import (
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"time"
)

// stream is one reader of /v2/events. Its fields change under the cluster's lock only.
type stream struct {
	replica   *Replica
	conn      net.Conn
	types     map[string]bool // nil: all
	light     bool
	room      int
	keepAlive time.Duration
	queue     [][]byte
	frozen    bool
	closed    bool
	wake      chan struct{}
	done      chan struct{}
}

// Streams is the number of open event streams on all replicas.
func (c *Cluster) Streams() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams)
}

// WaitStream waits until at least one event stream is open. FailOver closes all before it returns, so a wait after it
// is for a new one.
func (c *Cluster) WaitStream(ctx context.Context) error {
	return c.wait(ctx, func() bool { return len(c.streams) > 0 })
}

// CloseStreams cuts all event streams, as a network would.
func (c *Cluster) CloseStreams() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeStreams(func(*stream) bool { return true })
}

// FreezeStreams makes all open event streams silent for ever, as a network does that has forgotten their connections. They
// stay open; new ones work.
func (c *Cluster) FreezeStreams() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		s.frozen, s.queue = true, nil
	}
}

func (c *Cluster) closeStreams(which func(*stream) bool) {
	c.streams = slices.DeleteFunc(c.streams, func(s *stream) bool {
		if which(s) {
			s.close()
		}
		return s.closed
	})
	c.notify()
}

func (s *stream) close() {
	if !s.closed {
		s.closed = true
		close(s.done)
		_ = s.conn.Close() // the reader on the other side sees it; there is nobody to tell
	}
}

// enqueue gives each stream its frame. For want of room Marathon up to 1.7 loses it, later ones close the stream.
func (c *Cluster) enqueue(frame func(*stream) []byte) {
	drop := map[*Replica]bool{}
	for _, r := range c.replicas {
		drop[r] = r.faults.DropEvents.take()
	}
	slow := map[*stream]bool{}
	for _, s := range c.streams {
		if s.frozen || s.replica.faults.Silent || drop[s.replica] {
			continue
		}
		b := frame(s)
		switch {
		case b == nil:
		case len(s.queue) < s.room:
			s.queue = append(s.queue, b)
			s.signal()
		case c.v >= 108:
			slow[s] = true
		}
	}
	if len(slow) > 0 {
		c.closeStreams(func(s *stream) bool { return slow[s] })
	}
}

func (s *stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// stream takes the connection over, because Marathon's answer is neither chunked nor of known length.
func (r *Replica) stream(w http.ResponseWriter, req *http.Request, header http.Header, f Faults) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	header.Set("Content-Type", "text/event-stream;charset=utf-8")
	header.Set("Connection", "close")
	c := r.cluster
	s := &stream{replica: r, conn: conn, room: f.Queue, keepAlive: cmp.Or(f.KeepAlive, 10*time.Second),
		wake: make(chan struct{}, 1), done: make(chan struct{})}
	c.v.options(s, req)
	// Attached before the client can know of it: what changes after the client saw the header reaches its stream.
	attached := c.attach(s, f)
	_, _ = io.WriteString(buffered, "HTTP/1.1 200 OK\r\n")
	_ = header.Write(buffered)
	_, _ = io.WriteString(buffered, "\r\n")
	err = buffered.Flush() // has the errors of the writes before, too
	if !attached {
		return
	}
	defer c.wg.Done()
	defer c.detach(s)
	c.wg.Go(func() { // nothing comes from the client but the end
		_, _ = io.Copy(io.Discard, conn)
		c.detach(s)
	})
	if err == nil {
		s.write()
	}
}

// options reads the query as the release does: older ones ignore what they do not know.
func (v release) options(s *stream, req *http.Request) {
	q := req.URL.Query()
	if types := q["event_type"]; v >= 103 && len(types) > 0 {
		s.types = map[string]bool{}
		for _, t := range types {
			s.types[t] = true
		}
	}
	plan := q.Get("plan-format")
	s.light = v >= 108 || v == 107 && plan != "heavy" || v == 106 && plan == "light"
	if s.room == 0 {
		s.room = 50
		if v >= 106 {
			s.room = 1024
		}
	}
}

// attach registers the stream, or reports that it is to end at once.
func (c *Cluster) attach(s *stream, f Faults) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.replica.closed || f.StreamEOF != 0 {
		return false
	}
	c.wg.Add(1) // the listener of a replica that is not closed counts too, so nobody's Wait is over yet
	c.streams = append(c.streams, s)
	c.emit("event_stream_attached", object{"remoteAddress": s.conn.RemoteAddr().String()})
	c.notify()
	return true
}

func (c *Cluster) detach(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.closed {
		c.closeStreams(func(o *stream) bool { return o == s })
		c.emit("event_stream_detached", object{"remoteAddress": s.conn.RemoteAddr().String()})
	}
}

// write sends frames until the stream is closed, and an empty line in two packets now and then.
func (s *stream) write() {
	tick := time.NewTicker(s.keepAlive)
	defer tick.Stop()
	for {
		frame := s.next()
		if frame == nil {
			select {
			case <-s.done:
				return
			case <-s.wake:
				continue
			case <-tick.C:
				frame = s.emptyLine()
			}
		}
		for _, packet := range frame {
			if _, err := s.conn.Write(packet); err != nil {
				return
			}
		}
	}
}

// next takes the oldest frame that waits, as one packet; nil if none does.
func (s *stream) next() [][]byte {
	s.replica.cluster.mu.Lock()
	defer s.replica.cluster.mu.Unlock()
	if len(s.queue) == 0 || s.closed {
		return nil
	}
	frame := s.queue[:1:1]
	s.queue = s.queue[1:]
	return frame
}

func (s *stream) emptyLine() [][]byte {
	s.replica.cluster.mu.Lock()
	defer s.replica.cluster.mu.Unlock()
	if s.frozen || s.replica.faults.Silent {
		return nil
	}
	return [][]byte{[]byte("\r"), []byte("\n")}
}
