package registrator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// v2stream is one long answer with an event on each line. etcd ends it after five minutes. When more than 100 events happen
// before it has sent them, as when the keys of a host expire, it sends those 100 and nothing any more, and does not end it (seen
// with 3.4).
type v2stream struct {
	store *v2
	body  io.Closer
	lines *bufio.Reader
	long  []byte // a line that is longer than the buffer
	after uint64 // what happened up to this was listed
	rate  counter

	shown   atomic.Uint64 // the last event that came, or what was listed
	moved   uint64        // shown at the last call of lost
	whole   uint64        // nothing was left out up to this, and nothing happened behind it
	missing uint64        // an event that had happened at the last call of lost but one, and had not come; 0 for none
}

// maxLine bounds an event. etcd takes values of up to 1.5 MB, and tells the old one with the new one.
const maxLine = 16 << 20

// snack is how long events may heap up while there are many: each read of the connection costs more than ten events.
const snack = 50 * time.Millisecond

// next gives all events that have come.
func (w *v2stream) next(ctx context.Context, stale int) (events []event, err error) {
	w.rate.saw(stale, time.Now())
	for len(events) == 0 || w.ahead() {
		if w.rate.many && w.lines.Buffered() == 0 {
			sleep(ctx, snack)
		}
		line, err := w.line()
		if err != nil {
			w.body.Close()
			if ctx.Err() == nil {
				w.store.web.failover()
			}
			return nil, fmt.Errorf("the stream ended: %w", err)
		}
		if e, ok := w.store.parse(line); ok && e.at > w.after {
			events = append(events, e)
			w.shown.Store(e.at)
		}
	}
	return events, nil
}

// ahead reports whether a line can be read without waiting.
func (w *v2stream) ahead() bool {
	waiting, _ := w.lines.Peek(w.lines.Buffered())
	return bytes.IndexByte(waiting, '\n') >= 0
}

// line gives the next line, which is overwritten by the one after it.
func (w *v2stream) line() ([]byte, error) {
	line, err := w.lines.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	for w.long = w.long[:0]; errors.Is(err, bufio.ErrBufferFull); line, err = w.lines.ReadSlice('\n') {
		if w.long = append(w.long, line...); len(w.long) > maxLine {
			return nil, fmt.Errorf("an event has more than %d MB", maxLine>>20)
		}
	}
	return append(w.long, line...), err
}

// lags is false: what does not come through ends the connection, and position asks the same member.
func (w *v2stream) lags(uint64) bool { return false }

// lost looks for events that did not come, when some came and no more do.
func (w *v2stream) lost(ctx context.Context) bool {
	shown := w.shown.Load()
	came := shown != w.moved
	w.moved = shown
	switch {
	case came || shown == w.whole:
		w.missing = 0
		return false
	case w.missing != 0:
		return true
	}
	next, err := w.store.after(ctx, shown)
	switch {
	case errors.Is(err, errForgotten):
		return true
	case err == nil && next == 0:
		w.whole = shown
	case err == nil:
		w.missing = next // it may be on its way
	}
	return false
}

// after gives the index of the first event after another, 0 when there is none. It is errForgotten when that is too long ago.
func (s *v2) after(ctx context.Context, index uint64) (uint64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(s.web.patience, func() { cancel(errSilent) })
	defer limit.Stop()
	resp, err := s.web.begin(ctx, s.path+"?wait=true&recursive=true&waitIndex="+strconv.FormatUint(index+1, 10))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, errForgotten
	}
	if resp.Header.Get("X-Etcd-Index") == strconv.FormatUint(index, 10) {
		return 0, nil
	}
	if !limit.Stop() {
		return 0, errSilent
	}
	limit.Reset(known) // etcd has looked before it sent the header
	line, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil // the event would be one to come
	}
	e, _ := s.parse(line)
	return e.at, nil
}

// known is how long etcd may take to send an event that it has.
const known = time.Second

// parse reads one event, and tells whether it is one of ours.
func (s *v2) parse(line []byte) (event, bool) {
	if e, ok := s.parseSet(line); ok {
		return e, true
	}
	var got struct {
		Action string `json:"action"`
		Node   node   `json:"node"`
	}
	if json.Unmarshal(line, &got) != nil {
		return event{}, false
	}
	e := event{at: got.Node.Index, directory: got.Node.Dir, change: change{value: got.Node.Value}}
	switch got.Action {
	case "delete", "expire", "compareAndDelete":
		e.gone = true
	case "set", "create", "update", "compareAndSwap":
		e.gone = got.Node.Dir // a directory is no key, though it may have been one
		e.directory = false
	default:
		return event{}, false
	}
	key, below := strings.CutPrefix(got.Node.Key, s.prefix+"/")
	switch {
	case below:
		e.path = key
		return e, true
	default: // the prefix itself or a directory above it
		return e, e.gone && e.directory && strings.HasPrefix(s.prefix+"/", strings.TrimSuffix(got.Node.Key, "/")+"/")
	}
}

// parseSet reads what etcd sends for every rewrite of a key, at a tenth of the cost of encoding/json, if nothing in it is
// escaped:
//
//	{"action":"set","node":{"key":"KEY","value":"VALUE", ... "modifiedIndex":N, ...
func (s *v2) parseSet(line []byte) (event, bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"action":"set","node":{"key":"`))
	if !ok {
		return event{}, false
	}
	key, rest, ok := bytes.Cut(rest, []byte(`","value":"`))
	if !ok {
		return event{}, false
	}
	value, rest, ok := bytes.Cut(rest, []byte(`"`))
	if !ok || bytes.ContainsAny(key, `"\\`) || bytes.IndexByte(value, '\\') >= 0 {
		return event{}, false
	}
	node, _, _ := bytes.Cut(rest, []byte("}"))
	_, index, ok := bytes.Cut(node, []byte(`"modifiedIndex":`))
	if !ok {
		return event{}, false
	}
	digits, _, _ := bytes.Cut(index, []byte(","))
	at, err := strconv.ParseUint(string(digits), 10, 64)
	path, below := strings.CutPrefix(string(key), s.prefix+"/")
	return event{at: at, change: change{path: path, value: string(value)}}, err == nil && below
}

// refused reads the reason why there is no stream.
func refused(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	_, _, err = where(answer{status: resp.StatusCode, header: resp.Header, body: body})
	if err == nil {
		err = fmt.Errorf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return err
}
