package registrator

import (
	"fmt"
	"strings"
	"testing"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/etcd"
)

// A v2 stream that 100 events wait for is left by etcd without a word.
func TestBurstsOfExpiriesAreSeen(t *testing.T) {
	w := newWorld(t, etcd.Config{V2: true})
	store := writer2{w}
	r := &refresher{keys: 2000, write: write2(w.Members[0].URL(), 3)}
	r.all(t)
	store.put("web/vm:c:80", "10.0.0.1:31000")
	o := observe(t, w.config("etcd2://CLUSTER"))
	o.until("all keys", func(string) bool { return catalog.CountServers(o.last.Services) == r.keys+1 })
	o.wants(oneWeb)
	store.put("api/vm:d:81", "10.0.0.2:31001")
	o.wants(oneWeb+oneApi, oneWeb)
}

// Only what was written below the prefix can be lost.
func TestWhatIsLost(t *testing.T) {
	w := newWorld(t, etcd.Config{V2: true})
	store := writer2{w}
	store.put("web/vm:c:80", "10.0.0.1:31000")
	s := newStore(storeV2, location{addrs: strings.Split(w.Addrs(), ","), prefix: "/services"}, nil, patience).(*v2)
	_, stream, err := s.open(w.ctx)
	w.must(err)
	come := func() {
		store.put("web/vm:c:80", "10.0.0.1:31001")
		_, err := stream.next(w.ctx, 0)
		w.must(err)
	}
	for _, c := range []struct {
		what string
		do   []func()
		want string
	}{
		{"nothing", nil, "false false false"},
		{"an event", []func(){come}, "false false false"},
		{"an event, then others", []func(){come, func() { store.other(3) }}, "false false false"},
		{"an event, then others beyond the history", []func(){come, func() { store.other(1100) }}, "false true true"},
		{"an event, then one that does not come", []func(){come, func() { store.put("web/vm:c:80", "10.0.0.1:31002") }}, "false false true"},
	} {
		for _, do := range c.do {
			do()
		}
		if said := fmt.Sprint(stream.lost(w.ctx), stream.lost(w.ctx), stream.lost(w.ctx)); said != c.want {
			t.Errorf("%s: lost is %s, want %s", c.what, said, c.want)
		}
	}
}
