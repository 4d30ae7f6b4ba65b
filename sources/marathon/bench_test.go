package marathon

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// BenchmarkEvent measures what an event costs among 5,000 apps with 5 tasks each, up to the new list of services: a task that
// is killed, or that is there again.
func BenchmarkEvent(b *testing.B) {
	f := newFleet(Name, 1)
	for i := range 5000 {
		var tasks []string
		for n := range 5 {
			tasks = append(tasks, fmt.Sprintf(`{"id":"a%d.instance-u%d._app.1","host":"10.0.0.%d","ports":[31000],"state":"TASK_RUNNING","version":"v1","healthCheckResults":[{"alive":true}]}`, i, n, n+1))
		}
		apps, _, err := parseApps(fmt.Appendf(nil, `{"apps":[{"id":"/a%d","version":"v1","ports":[%d],"healthChecks":[{}],"tasks":[%s]}]}`, i, 10000+i, strings.Join(tasks, ",")))
		if err != nil {
			b.Fatal(err)
		}
		f.set(entry{app: apps[0]}, start())
	}
	said := func(frame string) event {
		var e event
		if err := readEvents(strings.NewReader("data: "+frame+"\n\n"), maxEvent, func(got event) { e = got }); e.Type == "" {
			b.Fatal(err)
		}
		return e
	}
	events := []event{
		said(`{"eventType":"status_update_event","appId":"/a2500","taskId":"a2500.instance-u9._app.1","taskStatus":"TASK_RUNNING","host":"10.0.0.9","ports":[31000],"version":"v1"}`),
		said(`{"eventType":"health_status_changed_event","appId":"/a2500","instanceId":"a2500.instance-u9","version":"v1","alive":true}`),
		said(`{"eventType":"status_update_event","appId":"/a2500","taskId":"a2500.instance-u9._app.1","taskStatus":"TASK_KILLED","version":"v1"}`),
	}
	b.ReportAllocs()
	now, servers := start(), 0
	for b.Loop() {
		for _, e := range events {
			now = now.Add(goneHolds)
			f.hear(e, now)
			f.settle(now)
			servers += catalog.CountServers(f.board.all())
		}
	}
	if got := servers - b.N*75000; got != b.N {
		b.Fatalf("one more server in %d of %d rounds", got, b.N)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(b.Elapsed())/float64(time.Microsecond)/float64(3*b.N), "µs/event")
}
