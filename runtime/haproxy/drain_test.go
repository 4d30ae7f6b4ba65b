package haproxy

import (
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// The connections of a task that got another name have the whole drain time when the task is removed, however long ago that was.
func TestDrainTimeOfAnOldFormBeginsWhenItStopsLiving(t *testing.T) {
	a := addrs("10.0.0.1:1", "10.0.0.2:2")
	p, d := pickySim(t, nil, service(80, a...))
	old := p.worker.proxies[0].server(a[0].String())
	old.conns = 1
	checked := service(80, a...)
	for i := range checked.Servers {
		checked.Servers[i].Check = checked.Servers[i].Addr == a[0]
	}
	pass := func(want *catalog.Service, after time.Duration) {
		t.Helper()
		p.pass(after)
		if _, err := d.Apply(t.Context(), []*catalog.Service{want}); err != nil {
			t.Fatal(err)
		}
	}
	for range 60 {
		pass(checked, time.Minute)
	}
	gone := service(80, a[1])
	pass(gone, time.Minute)
	pass(gone, d.config.Drain-time.Second)
	if old.conns != 1 {
		t.Fatal("the connections were cut before the drain time")
	}
	pass(gone, 2*time.Second)
	if old.conns != 0 {
		t.Error("the connections outlive the drain time")
	}
}
