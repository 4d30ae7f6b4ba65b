package haproxy

import (
	"strings"
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
	pass(gone, time.Second) // soon after a try, of which there are few while it lives
	pass(gone, d.config.Drain-time.Second)
	if old.conns != 1 {
		t.Fatal("the connections were cut before the drain time")
	}
	pass(gone, 2*time.Second)
	if old.conns != 0 {
		t.Error("the connections outlive the drain time")
	}
}

// An operator reads once that the drain time is over, even where the server stays.
func TestTheEndOfTheDrainTimeIsTold(t *testing.T) {
	a := addrs("10.0.0.1:1", "10.0.0.2:2")
	s, d, _ := simulated(t, service(80, a...))
	leaves := s.worker.proxies[0].servers[0]
	leaves.conns, leaves.pinned = 1, true
	told := func(after time.Duration) (actions []string) {
		t.Helper()
		s.pass(after)
		r, err := d.Apply(t.Context(), []*catalog.Service{service(80, a[1])})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Changes {
			actions = append(actions, c.Action+" "+c.Service+" "+c.Server)
		}
		return actions
	}
	for _, c := range []struct {
		after time.Duration
		want  string
	}{
		{0, "remove server s80.test-80 80/tcp 10.0.0.1:1"},
		{d.config.Drain / 2, ""},
		{d.config.Drain / 2, "end drain s80.test-80 80/tcp 10.0.0.1:1"},
		{time.Minute, ""},
	} {
		if got := strings.Join(told(c.after), ", "); got != c.want {
			t.Errorf("after %s more: told %q, want %q", c.after, got, c.want)
		}
	}
}
