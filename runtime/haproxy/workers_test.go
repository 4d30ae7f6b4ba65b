package haproxy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// An old worker's connections are cut for a load that is made, and for nothing else.
func TestOldWorkerIsEndedOnlyForALoad(t *testing.T) {
	a := addrs("10.0.0.1:1")[0]
	more := []*catalog.Service{service(80, a), service(82, a)}
	for name, c := range map[string]struct {
		want  []*catalog.Service
		thief uint16
		left  int // old workers
		loads int
	}{
		"a load":                       {more, 0, 0, 3},
		"a port that somebody took":    {more, 82, 1, 2},
		"a trial that HAProxy refuses": {[]*catalog.Service{service(80, a), httpService(service(81, a))}, 0, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			p, d := pickySim(t, func(c *Config) { c.MaxOldWorkers = 1 }, service(80, a))
			if _, err := d.Apply(t.Context(), []*catalog.Service{service(80, a), httpService(service(81, a))}); err != nil { // refused
				t.Fatal(err)
			}
			p.aged = []int{7}
			d.Resync()
			if _, err := d.Apply(t.Context(), []*catalog.Service{service(80, a), httpService(service(81, a))}); err != nil {
				t.Fatal(err)
			}
			p.pass(time.Hour)
			if c.thief != 0 {
				p.thieves[c.thief] = false // a connection, which only a bind finds
			}
			r, err := d.Apply(t.Context(), c.want)
			if err != nil || len(p.aged) != c.left || p.loads != c.loads {
				t.Errorf("%v, %d old workers, %d loads, want %d and %d; changes %+v", err, len(p.aged), p.loads, c.left, c.loads, r.Changes)
			}
		})
	}
}

// mute is a HAProxy whose master is stopped.
type mute struct{ *picky }

func (m mute) elders(ctx context.Context, _ int) ([]int, error) {
	select {
	case <-ctx.Done():
	case <-time.After(batchTimeout):
	}
	return nil, errUnanswered
}

// A master that does not answer holds up no change of servers.
func TestCountOfOldWorkersDoesNotWaitForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := pickySim(t, nil, service(80, addrs("10.0.0.1:1")[0]))
		d.process = mute{p}
		d.Resync()
		began := time.Now()
		_, err := d.Apply(t.Context(), []*catalog.Service{service(80, addrs("10.0.0.2:2")[0])})
		if took := time.Since(began); err != nil || took > time.Second {
			t.Errorf("%v after %s", err, took)
		}
	})
}
