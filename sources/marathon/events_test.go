package marathon

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"
)

// packets gives its data in pieces of one size.
type packets struct {
	data []byte
	size int
}

func (p *packets) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.data)
	p.data = p.data[n:]
	return n, nil
}

// eventsOf gives the events of a stream as text.
func eventsOf(r io.Reader, limit int) string {
	var b strings.Builder
	if err := readEvents(r, limit, func(e event) { fmt.Fprintf(&b, "%s/%s ", e.Type, e.Status) }); err != io.EOF {
		fmt.Fprintf(&b, "error %v", err)
	}
	return b.String()
}

func TestFramesOfAllMarathons(t *testing.T) {
	const body = `{"eventType":"status_update_event","taskStatus":"TASK_KILLED"}`
	const killed = "status_update_event/TASK_KILLED "
	big := `{"eventType":"deployment_info","plan":"` + strings.Repeat("x", 2<<20) + `"}`
	for _, c := range []struct{ name, stream, want string }{
		{"CRLF", "event: status_update_event\r\ndata: " + body + "\r\n\r\n", killed},
		{"LF", "event: status_update_event\ndata: " + body + "\n\n", killed},
		{"CR", "event: status_update_event\rdata: " + body + "\r\r", killed},
		{"no event line (0.9, 0.10)", "data: " + body + "\r\n\r\n", killed},
		{"no space", "data:" + body + "\n\n", killed},
		{"the JSON's type goes before the event line's", "event: other\ndata: " + body + "\n\n", killed},
		{"two objects on one line", "data: " + body + body + "\r\n\r\n", killed + killed},
		{"an object over two lines", "data: {\"eventType\":\r\ndata: \"x\"}\r\n\r\n", "x/ "},
		{"keep-alives between", "\r\n\r\n\r\ndata: " + body + "\r\n\r\n\r\n\r\n", killed},
		{"comments and unknown fields", ": hello\nid: 7\nretry: 1\nnonsense\ndata: " + body + "\n\n", killed},
		{"no JSON: the event line counts", "event: app_terminated_event\ndata: <html>\n\n", "app_terminated_event/ "},
		{"no JSON and no event line: anything may have happened", "data: <html>\n\n", "/ "},
		{"fields of other types", "event: e\ndata: {\"eventType\":7,\"taskStatus\":null}\n\n", "e/ "},
		{"an event line alone", "event: status_update_event\n\n", ""},
		{"cut off before its end", "data: " + body + "\n", ""},
		{"2 MB on one line", "data: " + big + "\r\n\r\ndata: " + body + "\r\n\r\n", "deployment_info/ " + killed},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, size := range []int{1, 7, 1 << 20} {
				if got := eventsOf(&packets{data: []byte(c.stream), size: size}, maxEvent); got != c.want {
					t.Errorf("in packets of %d: %.200q gave %q, want %q", size, c.stream, got, c.want)
				}
			}
		})
	}
}

func TestAnEventBeyondTheLimitIsSkippedButForItsName(t *testing.T) {
	const next = "data: {\"eventType\":\"next\"}\n\n"
	long := strings.Repeat("x", 3000)
	for stream, want := range map[string]string{
		"event: deployment_info\ndata: {\"eventType\":\"y\",\"z\":\"" + long + "\"}\n\n" + next:                       "deployment_info/ next/ ",
		"data: {\"eventType\":\"y\",\"z\":\"" + long + "\"}\n\n" + next:                                               "/ next/ ",
		"event: e\ndata: {\"eventType\":\"y\",\"z\":[0" + strings.Repeat("\ndata: ,1", 900) + "\ndata: ]}\n\n" + next: "e/ next/ ",
	} {
		if got := eventsOf(strings.NewReader(stream), 1000); got != want {
			t.Errorf("%.80q gave %q, want %q", stream, got, want)
		}
	}
}

func TestWhichEventsMatter(t *testing.T) {
	for _, c := range []struct {
		event event
		want  bool
	}{
		{event{Type: "status_update_event", Status: "TASK_RUNNING"}, true},
		{event{Type: "status_update_event", Status: "TASK_KILLING"}, true},
		{event{Type: "status_update_event"}, true},
		{event{Type: "status_update_event", Status: "TASK_STAGING"}, false},
		{event{Type: "status_update_event", Status: "TASK_STARTING"}, false},
		{event{Type: "health_status_changed_event"}, true},
		{event{Type: "instance_health_changed_event"}, true},
		{event{Type: "unhealthy_task_kill_event"}, true},
		{event{Type: "unhealthy_instance_kill_event"}, true},
		{event{Type: "api_post_event"}, true},
		{event{Type: "app_terminated_event"}, true},
		{event{Type: "add_health_check_event"}, true},
		{event{Type: "remove_health_check_event"}, true},
		{event{Type: "group_change_success"}, true},
		{event{Type: "deployment_success"}, true},
		{event{Type: "deployment_failed"}, true},
		{event{}, true},
		{event{Type: "event_stream_attached"}, false},
		{event{Type: "failed_health_check_event"}, false},
		{event{Type: "deployment_info"}, false},
	} {
		if got := c.event.matters(); got != c.want {
			t.Errorf("%+v matters: %v, want %v", c.event, got, c.want)
		}
	}
}

func TestWhichAppsAnEventNames(t *testing.T) {
	for frame, want := range map[string]string{
		`{"eventType":"status_update_event","appId":"/a/b"}`:                "[/a/b] false",
		`{"eventType":"instance_health_changed_event","runSpecId":"/a"}`:    "[/a] false",
		`{"eventType":"app_terminated_event","appId":"/a"}`:                 "[/a] false",
		`{"eventType":"api_post_event","appDefinition":{"id":"/a"}}`:        "[/a] false",
		`{"eventType":"group_change_success","groupId":"/","version":"v1"}`: "[] false",
		`{"eventType":"deployment_success","id":"x","plan":{"id":"x"}}`:     "[] false",
		`{"eventType":"deployment_failed","plan":{"steps":[{"actions":[{"action":"StartApplication","app":"/a"},{"type":"x","pod":"/p"}]},
			{"actions":[{"app":"/b"},{"app":"/a"}]},{"actions":[]}]}}`: "[/a /b] false",
		`{"eventType":"status_update_event","appId":7}`: "[] true",
		`{"appId":"/a"}`: "[/a] true",
		`7`:              "[] true",
	} {
		var got []string
		frame = strings.ReplaceAll(frame, "\n", "\ndata: ")
		if err := readEvents(strings.NewReader("data: "+frame+"\n\n"), maxEvent, func(e event) { got = append(got, fmt.Sprint(e.apps(), e.odd)) }); err != io.EOF {
			t.Fatal(err)
		}
		if len(got) != 1 || got[0] != want {
			t.Errorf("%s names %q, want %q", frame, got, want)
		}
	}
}

func TestTheEventsThatMarathonIsAskedFor(t *testing.T) {
	const want = "/v2/events?plan-format=light&event_type=event_stream_attached" +
		"&event_type=status_update_event&event_type=health_status_changed_event&event_type=instance_health_changed_event" +
		"&event_type=unhealthy_task_kill_event&event_type=unhealthy_instance_kill_event&event_type=api_post_event" +
		"&event_type=app_terminated_event&event_type=add_health_check_event&event_type=remove_health_check_event" +
		"&event_type=group_change_success&event_type=deployment_success&event_type=deployment_failed"
	if got := eventsPath(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestALineNeverTakesMoreMemoryThanItsLimit(t *testing.T) {
	l := lineReader{r: bufio.NewReader(strings.NewReader(strings.Repeat("x", 1<<20) + "\nshort\n")), limit: 1000}
	for _, want := range []int{1000, 5} {
		if line, err := l.next(); err != nil || len(line) != want || cap(l.line) > 4096 {
			t.Errorf("got a line of %d bytes in %d bytes of memory, %v; want %d bytes", len(line), cap(l.line), err, want)
		}
	}
}
