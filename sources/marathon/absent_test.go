package marathon

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/hostname"
)

// placesOf gives places as text, sorted.
func placesOf(p catalog.Places) string {
	var services []*catalog.Service
	for key, addrs := range p {
		s := &catalog.Service{Key: key}
		for a := range addrs {
			s.Servers = append(s.Servers, catalog.Server{Addr: a, Weight: catalog.DefaultWeight})
		}
		services = append(services, s)
	}
	catalog.Sort(services)
	var out []string
	for _, s := range services {
		for _, v := range s.Servers {
			out = append(out, s.Key.String()+" "+v.String())
		}
	}
	return strings.Join(out, ", ")
}

func TestWhatAnswersLackThoughNothingSaidThatItEndedIsMissing(t *testing.T) {
	const (
		one     = "8300/tcp 10.0.0.1:31000"
		killed  = `{"eventType":"status_update_event","appId":"/a","taskStatus":"TASK_KILLED","taskId":"a.u1"}`
		failed  = `{"eventType":"status_update_event","appId":"/a","taskStatus":"TASK_FAILED","instanceId":"a.marathon-u1"}`
		sick    = `{"eventType":"health_status_changed_event","appId":"/a","taskId":"a.u1","alive":false}`
		another = `{"eventType":"status_update_event","appId":"/a","taskStatus":"TASK_KILLED","taskId":"a.u2"}`
		ended   = `{"eventType":"app_terminated_event","appId":"/a"}`
	)
	none := plainA[:strings.Index(plainA, `"tasks":`)] + `"tasks":[]}`
	for name, c := range map[string]struct {
		before string // an event before the answer
		answer string
		after  string // and after it
		then   string // a list at last
		want   string
	}{
		"a task":                         {answer: none, want: one},
		"a task of one":                  {answer: strings.Replace(none, `"tasks"`, `"instances":1,"tasks"`, 1), want: one},
		"a task of none":                 {answer: strings.Replace(none, `"tasks"`, `"instances":0,"tasks"`, 1)},
		"one that was absent, of none":   {answer: none, then: strings.Replace(none, `"tasks"`, `"instances":0,"tasks"`, 1)},
		"an app":                         {answer: "", want: one},
		"a task that is listed":          {answer: plainA},
		"one that was killed":            {before: killed, answer: none},
		"one that is killed later":       {answer: none, after: killed},
		"one that is sick later":         {answer: none, after: sick},
		"one that fails, by instance":    {answer: none, after: failed},
		"another one is killed":          {answer: none, after: another, want: one},
		"an app that ended":              {before: ended, answer: ""},
		"an app that ends later":         {answer: "", after: ended},
		"one that is listed as killed":   {answer: strings.Replace(plainA, "TASK_RUNNING", "TASK_KILLED", 1)},
		"one that comes back":            {answer: none, then: plainA},
		"one that comes back as dead":    {answer: none, then: strings.Replace(plainA, "TASK_RUNNING", "TASK_LOST", 1)},
		"one that stays away":            {answer: none, then: none, want: one},
		"one whose address is another's": {answer: none, then: strings.ReplaceAll(plainA, "a.u1", "a.u9")},
	} {
		t.Run(name, func(t *testing.T) {
			now := start()
			f := fleetOf(t, plainA, now)
			tell := func(e string) {
				if e != "" {
					told(t, f, e, now)
				}
			}
			tell(c.before)
			now = now.Add(time.Second)
			f, _ = f.renewed(list(t, c.answer, now), now)
			tell(c.after)
			if c.then != "" {
				now = now.Add(time.Second)
				f, _ = f.renewed(list(t, c.then, now), now)
			}
			if diff := cmp.Diff(c.want, placesOf(f.missing())); diff != "" {
				t.Errorf("list: -want +got:\n%s", diff)
			}
			if c.answer == "" {
				return
			}
			f = fleetOf(t, plainA, start())
			tell(c.before)
			f.visited(visitOf(t, c.answer, now), now)
			tell(c.after)
			if c.then != "" {
				now = now.Add(time.Second)
				f.visited(visitOf(t, c.then, now), now)
			}
			if diff := cmp.Diff(c.want, placesOf(f.missing())); diff != "" {
				t.Errorf("visit: -want +got:\n%s", diff)
			}
		})
	}
}

func TestAbsentTasksAreForgottenAfterADay(t *testing.T) {
	now := start()
	f, _ := fleetOf(t, plainA, now).renewed(list(t, "", now.Add(time.Second)), now.Add(time.Second))
	for _, c := range []struct {
		after time.Duration
		want  string
	}{{longestAbsence, "8300/tcp 10.0.0.1:31000"}, {longestAbsence + time.Second, ""}} {
		at := now.Add(c.after)
		f, _ = f.renewed(list(t, "", at), at)
		if got := placesOf(f.missing()); got != c.want {
			t.Errorf("after %s %q is missing, want %q", c.after, got, c.want)
		}
	}
}

func TestServicesOfAppsThatLackTasksArePartial(t *testing.T) {
	wants := func(n int) string {
		return strings.Replace(plainA, `"tasks"`, fmt.Sprintf(`"instances":%d,"tasks"`, n), 1)
	}
	key := catalog.Key{Port: 8300, Proto: catalog.TCP}
	f, now := fleetOf(t, wants(1), start()), start()
	for _, c := range []struct {
		answer string
		want   bool
	}{{wants(1), false}, {wants(2), true}, {wants(2), true}, {wants(1), false}, {plainA, true}, {"", false}} {
		now = now.Add(time.Second)
		if c.answer != "" {
			f.visited(visitOf(t, c.answer, now), now)
			if got := f.partials()[key]; got != c.want {
				t.Errorf("after a visit %s is partial: %t, want %t", key, got, c.want)
			}
		}
		f, _ = f.renewed(list(t, c.answer, now), now)
		if got := f.partials()[key]; got != c.want || f.partials() == nil {
			t.Errorf("after a list %s is partial: %t, want %t", key, got, c.want)
		}
	}
}

// After a failover running tasks have no health results: nobody knows then how many of them there are to serve.
func TestServicesOfTasksWithoutHealthArePartial(t *testing.T) {
	checked := strings.Replace(plainA, `"tasks"`, `"instances":1,"healthChecks":[{"protocol":"HTTP","path":"/"}],"tasks"`, 1)
	sick := strings.Replace(checked, `"id":"a.u1"`, `"id":"a.u1","healthCheckResults":[{"taskId":"a.u1","alive":false}]`, 1)
	for answer, want := range map[string]bool{checked: true, sick: false} {
		f := newFleet("marathon", 1)
		f, _ = f.renewed(list(t, answer, start()), start())
		if got := f.partials()[catalog.Key{Port: 8300, Proto: catalog.TCP}]; got != want {
			t.Errorf("partial: %t, want %t, after\n%s", got, want, answer)
		}
	}
}

func TestServicesOfTasksWhoseHostHasNoAddressArePartial(t *testing.T) {
	named := strings.Replace(strings.Replace(plainA, `"tasks"`, `"instances":1,"tasks"`, 1), `"host":"10.0.0.1"`, `"host":"h1"`, 1)
	for _, answer := range []hostname.Answer{{Reason: "it has none"}, {Addr: netip.MustParseAddr("10.0.0.1")}} {
		got := list(t, named, start())
		got.hosts = map[string]hostname.Answer{"h1": answer}
		f, _ := newFleet("marathon", 1).renewed(got, start())
		if partial := f.partials()[catalog.Key{Port: 8300, Proto: catalog.TCP}]; partial != !answer.Addr.IsValid() {
			t.Errorf("the host's address is %+v: partial %t", answer, partial)
		}
	}
}
