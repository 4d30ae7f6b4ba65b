package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/meltwater/proxymatic/runtime/haproxy"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// lease is the connection between a run and its successor, over the control socket. While it lasts the run is frozen. It breaks
// when either of them ends, however that comes.
//
// The successor asks by HTTP; then lines go to and fro: the offer; wordReady, and the same back; wordCommit, or wordGiveUp. wordCommit is
// the point of no return for both: what was sent is read, since a run that loses patience closes its end for reading first, and then
// reads what had come until then. It answers wordReady once more, to find out whether the successor has died since.
type lease struct {
	conn  *net.UnixConn
	lines chan string // what the other one says; closed when it is gone
	done  chan struct{}

	gaveUp bool // the successor has said so
}

const (
	wordReady  = "ready"   // are you there? I am
	wordCommit = "commit"  // close your ports and let go of the run directory
	wordGiveUp = "give up" // go on; my proxies end, and then I do

	leasePath = "/take-over"
	leaseTry  = 5 * time.Second // for the other side to take a line
)

func newLease(conn *net.UnixConn, from *bufio.Reader) *lease {
	l := &lease{conn: conn, lines: make(chan string), done: make(chan struct{})}
	go func() { // ends with the connection, at the latest by end
		defer close(l.lines)
		for {
			line, err := from.ReadString('\n')
			if err != nil {
				return
			}
			select {
			case l.lines <- strings.TrimSuffix(line, "\n"):
			case <-l.done:
				return
			}
		}
	}()
	return l
}

// say sends one line.
func (l *lease) say(word string) error {
	err := l.conn.SetWriteDeadline(time.Now().Add(leaseTry))
	if err == nil {
		_, err = io.WriteString(l.conn, word+"\n")
	}
	return err
}

// offer says what the successor needs to know.
func (l *lease) offer(o offer) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return l.say(string(text))
}

// refuse says why nothing is handed over, and ends the lease.
func (l *lease) refuse(why string) {
	_ = l.offer(offer{Error: why}) // it may be gone
	l.end()
}

// hear waits for a line. Not ok is the end of the connection, or of the time.
func (l *lease) hear(within time.Duration) (line string, ok bool) {
	select {
	case line, ok = <-l.lines:
	case <-time.After(within):
	}
	return line, ok
}

// lastWord tells whether the other one has committed, and makes sure that it cannot any more.
func (l *lease) lastWord() bool {
	if l.conn.CloseRead() != nil {
		return false // the connection is gone, and nothing of it was read
	}
	for line := range l.lines {
		if line == wordCommit {
			return true
		}
	}
	return false
}

// end closes the connection and waits for its reader.
func (l *lease) end() {
	close(l.done)
	_ = l.conn.Close() // there is nothing to lose
	for range l.lines {
	}
}

// offer is what a run that is frozen tells its successor.
type offer struct {
	Place     place          `json:"place"` // for the successor's proxies
	From      place          `json:"from"`  // of the run's own
	HAProxy   *haproxyOffer  `json:"haproxy,omitempty"`
	Pens      []catalog.Key  `json:"pens"` // the services whose pens answer
	Snapshots []snapshotJSON `json:"snapshots"`
	Error     string         `json:"error,omitempty"` // why it hands nothing over
}

// haproxyOffer is about HAProxy.
type haproxyOffer struct {
	Socket  string          `json:"socket"` // its stats socket, from the run directory on where it lies in it
	Serving haproxy.Serving `json:"serving"`
}

// snapshotJSON carries a source's snapshot.
type snapshotJSON struct {
	Source    string            `json:"source"`
	Priority  int               `json:"priority"`
	Services  []serviceJSON     `json:"services"`
	Problems  []catalog.Problem `json:"problems,omitempty"`
	Succeeded time.Time         `json:"succeeded"`
	Heard     time.Time         `json:"heard"`
	Event     time.Time         `json:"event"`
	Err       string            `json:"err,omitempty"`
}

// serviceJSON is a service with what its outside shape leaves out, for each server.
type serviceJSON struct {
	catalog.ServiceJSON
	Check  []bool `json:"check"`
	OnHost []bool `json:"on_host"`
}

func snapshotToJSON(s catalog.Snapshot) snapshotJSON {
	out := snapshotJSON{Source: s.Source, Priority: s.Priority, Problems: s.Problems, Succeeded: s.Succeeded, Heard: s.Heard, Event: s.Event, Err: s.Err}
	for _, service := range s.Services {
		j := serviceJSON{ServiceJSON: service.JSON()}
		for _, server := range service.Servers {
			j.Check, j.OnHost = append(j.Check, server.Check), append(j.OnHost, server.OnHost)
		}
		out.Services = append(out.Services, j)
	}
	return out
}

func (j snapshotJSON) snapshot() (catalog.Snapshot, error) {
	s := catalog.Snapshot{Source: j.Source, Priority: j.Priority, Problems: j.Problems, Succeeded: j.Succeeded, Heard: j.Heard, Event: j.Event, Err: j.Err}
	for _, one := range j.Services {
		service, err := one.Service()
		if err == nil && (len(one.Check) != len(service.Servers) || len(one.OnHost) != len(service.Servers)) {
			err = errors.New("not all is said of its servers")
		}
		if err != nil {
			return s, fmt.Errorf("service %s of %s: %w", one.Name, j.Source, err)
		}
		for i := range service.Servers {
			service.Servers[i].Check, service.Servers[i].OnHost = one.Check[i], one.OnHost[i]
		}
		s.Services = append(s.Services, service)
	}
	return s, nil
}

// askLease asks the run that holds the control socket to freeze, and gives its offer when it has.
func askLease(path string, within time.Duration) (*lease, offer, error) {
	fail := func(err error) (*lease, offer, error) {
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
			err = fmt.Errorf("%w: it is starting, or ending; try again", err)
		case errors.Is(err, fs.ErrPermission):
			err = fmt.Errorf("%w: be its user or root", err)
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = fmt.Errorf("no answer on %s within %s: it hangs; end it", path, within)
		}
		return nil, offer{}, fmt.Errorf("ask the proxymatic that holds the run directory to hand over: %w", err)
	}
	conn, err := (&net.Dialer{Timeout: within}).Dial("unix", path)
	if err != nil {
		return fail(err)
	}
	o, from, err := readOffer(conn, within)
	unix, ok := conn.(*net.UnixConn)
	if err == nil && !ok {
		err = errors.ErrUnsupported
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		_ = conn.Close() // which lets the run go on
		return fail(err)
	}
	return newLease(unix, from), o, nil
}

func readOffer(conn net.Conn, within time.Duration) (offer, *bufio.Reader, error) {
	var o offer
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		return o, nil, err
	}
	if _, err := io.WriteString(conn, "POST "+leasePath+" HTTP/1.1\r\nHost: proxymatic\r\nConnection: Upgrade\r\nUpgrade: lease\r\n\r\n"); err != nil {
		return o, nil, err
	}
	from := bufio.NewReader(conn)
	response, err := http.ReadResponse(from, nil)
	if err != nil {
		return o, nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1000)) // the status says enough
		if response.StatusCode == http.StatusNotFound {
			return o, nil, errors.New("it is of a version that cannot hand over")
		}
		return o, nil, fmt.Errorf("it answers %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	line, err := from.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &o)
	}
	if err == nil && o.Error != "" {
		err = errors.New(o.Error)
	}
	return o, from, err
}
