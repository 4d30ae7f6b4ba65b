package marathon

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
)

// maxEvent bounds one event. Before 1.8 a deployment's event holds the whole group of apps twice: megabytes.
const maxEvent = 64 << 20

// routeEvents are the events that can change a route. Marathon is asked for them, and they are what counts of what it
// sends all the same.
func routeEvents() []string {
	return []string{
		"status_update_event",
		"health_status_changed_event",
		"instance_health_changed_event",
		"unhealthy_task_kill_event",
		"unhealthy_instance_kill_event",
		"api_post_event",
		"app_terminated_event",
		"add_health_check_event",
		"remove_health_check_event",
		"group_change_success",
		"deployment_success",
		"deployment_failed",
	}
}

// eventsPath asks for those events, and for the one that says that a subscription counts. Marathon filters from 1.3.7
// on and leaves plans out from 1.6 on; older ones ignore the words.
func eventsPath() string {
	return "/v2/events?plan-format=light&event_type=event_stream_attached&event_type=" + strings.Join(routeEvents(), "&event_type=")
}

// event is one event of the stream, as far as it is of use.
type event struct {
	Type string `json:"eventType"`

	AppID      string `json:"appId"`
	RunSpecID  string `json:"runSpecId"` // the app of an instance_health_changed_event
	TaskID     string `json:"taskId"`
	InstanceID string `json:"instanceId"` // from 1.4 on, in place of the task's id or beside it
	Version    string `json:"version"`

	Status    string    `json:"taskStatus"`
	Host      string    `json:"host"`
	Ports     []int     `json:"ports"`
	Addresses []address `json:"ipAddresses"`

	Alive   *bool `json:"alive"`
	Healthy *bool `json:"healthy"` // of an instance_health_changed_event; null is "not known"

	AppDefinition struct {
		ID string `json:"id"`
	} `json:"appDefinition"`
	Plan *struct {
		Steps []struct {
			Actions []struct {
				App string `json:"app"`
			} `json:"actions"`
		} `json:"steps"`
	} `json:"plan"`

	odd bool // not all of it could be read
}

// matters reports whether an event can change a route. One that could not be read may be anything.
func (e event) matters() bool {
	if e.Type == "status_update_event" && (e.Status == "TASK_STAGING" || e.Status == "TASK_STARTING") {
		return false
	}
	return e.Type == "" || slices.Contains(routeEvents(), e.Type)
}

// apps gives the apps that an event is about; none is any.
func (e event) apps() []string {
	one := cmp.Or(e.AppID, e.RunSpecID)
	switch e.Type {
	case "api_post_event":
		one = e.AppDefinition.ID
	case "group_change_success":
		one = ""
	case "deployment_success", "deployment_failed":
		return e.deployed()
	}
	if one == "" {
		return nil
	}
	return []string{one}
}

// deployed gives the apps of a deployment.
func (e event) deployed() []string {
	if e.Plan == nil {
		return nil
	}
	var apps []string
	for _, step := range e.Plan.Steps {
		for _, action := range step.Actions {
			if action.App != "" && !slices.Contains(apps, action.App) {
				apps = append(apps, action.App)
			}
		}
	}
	return apps
}

// instance is what tells the tasks of an app apart; empty when the event names none.
func (e event) instance() string {
	if e.TaskID != "" {
		return instanceOf(e.TaskID)
	}
	return e.InstanceID
}

// readEvents reads a stream of server-sent events until it ends, and hands each event on. An event of more than limit
// bytes is skipped but for its name.
func readEvents(r io.Reader, limit int, on func(event)) error {
	lines := lineReader{r: bufio.NewReaderSize(r, 32<<10), limit: limit}
	var f frame
	for {
		line, err := lines.next()
		if err != nil {
			return err
		}
		if len(line) > 0 {
			f.add(line, limit)
			continue
		}
		for _, e := range f.events() {
			on(e)
		}
		f = frame{data: f.data[:0]}
		if cap(f.data) > 1<<20 { // one large event should not be held for ever
			f.data, lines.line = nil, nil
		}
	}
}

// frame is the event that is being read: lines up to an empty one.
type frame struct {
	name string
	data []byte
	any  bool // there was a data line
	full bool // there was more data than the limit: only the name is of use
}

func (f *frame) add(line []byte, limit int) {
	field, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(field) {
	case "event":
		f.name = string(value[:min(len(value), 100)])
	case "data":
		f.any = true
		f.full = f.full || len(f.data)+len(line) >= limit
		if !f.full {
			f.data = append(append(f.data, value...), '\n')
		}
	}
}

// events decodes the data of a frame: one JSON object, or several, as old Marathons ran them together. The type comes
// from the JSON, for 0.9 and 0.10 send no event line; that line stands in where the JSON has none.
func (f *frame) events() []event {
	if !f.any {
		return nil
	}
	if f.full {
		return []event{{Type: f.name, odd: true}}
	}
	var out []event
	decoder := json.NewDecoder(bytes.NewReader(f.data))
	for {
		var e event
		err := decoder.Decode(&e)
		if errors.Is(err, io.EOF) && len(out) > 0 {
			return out
		}
		e.Type = cmp.Or(e.Type, f.name)
		e.odd = err != nil || e.Type == ""
		out = append(out, e)
		if err != nil {
			return out
		}
	}
}

// lineReader gives lines that end in CR, LF or both, also when these two come in different packets: Marathon writes
// its keep-alive so.
type lineReader struct {
	r       *bufio.Reader
	limit   int
	line    []byte
	afterCR bool
}

// next gives the next line without its end, valid until the following call. What exceeds the limit is cut off.
func (l *lineReader) next() ([]byte, error) {
	l.line = l.line[:0]
	for {
		if _, err := l.r.Peek(1); err != nil {
			return nil, err
		}
		chunk, err := l.r.Peek(l.r.Buffered())
		if err != nil {
			return nil, err
		}
		if l.afterCR && chunk[0] == '\n' {
			l.afterCR = false
			l.r.Discard(1) // cannot fail: it is buffered
			continue
		}
		l.afterCR = false
		end := bytes.IndexAny(chunk, "\r\n")
		if end < 0 {
			l.take(chunk)
			l.r.Discard(len(chunk))
			continue
		}
		l.take(chunk[:end])
		l.afterCR = chunk[end] == '\r'
		l.r.Discard(end + 1)
		return l.line, nil
	}
}

func (l *lineReader) take(chunk []byte) {
	l.line = append(l.line, chunk[:min(len(chunk), max(0, l.limit-len(l.line)))]...)
}

// isEventStream goes by the content type, so that another server's page of 200 is a failure.
func isEventStream(contentType string) bool {
	return strings.HasPrefix(strings.ToLower(contentType), "text/event-stream")
}
