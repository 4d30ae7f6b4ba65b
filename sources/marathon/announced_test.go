package marathon_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meltwater/proxymatic/sources/marathon"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

func TestAnEventCostsOneSmallRequest(t *testing.T) {
	for _, gen := range []fakemarathon.Generation{"0.11", "1.0", "1.5", "1.8"} {
		t.Run(string(gen), func(t *testing.T) {
			c, _, urls := cluster(t, gen, "127.0.0.2")
			c.PutApp(web(0))
			c.PutApp(fakemarathon.App{ID: "/z", Ports: []fakemarathon.PortMapping{{ServicePort: 9000}}})
			c.AddTask("/z", fakemarathon.Task{ID: "z.1", Host: "10.0.0.9", Ports: []int{31009}})
			const z = "9000/tcp z mode=tcp source=marathon\n  10.0.0.9:31009 check on-host\n"
			w := start(t, marathon.Config{URLs: urls})
			w.serves(webAlone + z)
			before := c.Requests()
			c.AddTask("/shop/web", task("1", "10.0.0.1"))
			w.serves(webAlone + "  10.0.0.1:31000 check on-host\n" + z)
			if err := c.WaitRequest(t.Context(), "GET /v2/apps/shop/web", 1); err != nil {
				t.Fatal(err)
			}
			before["GET /v2/apps/shop/web"]++
			if diff := cmp.Diff(before, c.Requests()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestAnAnswerFromBeforeTheEventIsReadAgain(t *testing.T) {
	c, _, urls := cluster(t, "0.11", "127.0.0.2")
	c.PutApp(web(0))
	w := start(t, marathon.Config{URLs: urls, Settle: time.Second})
	w.serves(webAlone)
	c.SetFaults(func(f *fakemarathon.Faults) { f.Stale = true })
	c.AddTask("/shop/web", task("1", "10.0.0.1"))
	if err := c.WaitRequest(t.Context(), "GET /v2/apps/shop/web", 1); err != nil {
		t.Fatal(err)
	}
	c.SetFaults(func(f *fakemarathon.Faults) { f.Stale = false })
	w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
}
