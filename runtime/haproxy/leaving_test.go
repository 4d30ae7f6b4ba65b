package haproxy

import (
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// The end of the drain time is a time to try, however short before it somebody has: or else the pass that comes for it does nothing,
// and is asked for again at once.
func TestLeavingServersAreTriedAgain(t *testing.T) {
	since := time.Unix(1000, 0)
	const drain = time.Minute
	for name, c := range map[string]struct {
		tried, again time.Duration // since it leaves
		lives        bool
	}{
		"at first":                {tried: 0, again: deleteAgain},
		"later":                   {tried: 700 * time.Millisecond, again: 1400 * time.Millisecond},
		"at last":                 {tried: 10 * time.Second, again: 10*time.Second + deleteSlowest},
		"just before the end":     {tried: drain - time.Millisecond, again: drain},
		"after the end":           {tried: drain, again: drain + deleteSlowest},
		"its connections go on":   {tried: 2 * drain, again: 2*drain + livesSlowest, lives: true},
		"they do, before the end": {tried: drain / 2, again: drain/2 + deleteSlowest, lives: true},
	} {
		l := leaving{since: since, tried: since.Add(c.tried), lives: c.lives}
		if got := l.again(drain).Sub(since); got != c.again {
			t.Errorf("%s: again after %s, want %s", name, got, c.again)
		}
	}
}

func TestServerThatIsPutBackWhileItLeavesIsTakenOut(t *testing.T) {
	a := addrs("10.0.0.1:1", "10.0.0.2:2")
	s, d, _ := simulated(t, service(80, a...))
	leaves, want := s.worker.proxies[0].servers[0], []*catalog.Service{service(80, a[1])}
	leaves.conns = 1
	for range 2 {
		if _, err := d.Apply(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		leaves.admin = leaves.admin &^ adminMaint
		s.pass(deleteAgain)
	}
	if _, err := d.Apply(t.Context(), want); err != nil || leaves.admin&adminMaint == 0 {
		t.Errorf("%v; traffic goes to %v", err, s.worker.traffic())
	}
}
