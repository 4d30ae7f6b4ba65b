package marathon_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/marathon"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

func TestATasksLifeInEachGeneration(t *testing.T) {
	for _, gen := range []fakemarathon.Generation{"0.11", "0.15", "1.0", "1.3", "1.4", "1.5", "1.7", "1.8", "1.10"} {
		t.Run(string(gen), func(t *testing.T) {
			t.Parallel()
			c, _, urls := cluster(t, gen, "127.0.0.2")
			c.PutApp(web(1))
			w := start(t, marathon.Config{URLs: urls})
			w.serves(webAlone)
			c.AddTask("/shop/web", task("shop_web.1", "10.0.0.1"))
			c.SetHealth("shop_web.1", true)
			w.serves(webAlone + "  10.0.0.1:31000 on-host\n")
			c.AddTask("/shop/web", task("shop_web.2", "10.0.0.2"))
			c.SetHealth("shop_web.2", true)
			w.serves(webAlone + "  10.0.0.1:31000 on-host\n  10.0.0.2:31000 on-host\n")
			c.SetHealth("shop_web.1", false)
			w.serves(webAlone + "  10.0.0.2:31000 on-host\n")
			c.Kill("shop_web.2")
			w.serves(webAlone)
			c.PutApp(fakemarathon.App{ID: "/dns", Ports: []fakemarathon.PortMapping{{ServicePort: 53}, {ServicePort: 54}}})
			c.AddTask("/dns", fakemarathon.Task{ID: "dns.1", Host: "10.0.0.3", Ports: []int{31000, 31001}})
			w.serves(`
53/tcp dns mode=tcp source=marathon
  10.0.0.3:31000 check on-host
54/tcp dns mode=tcp source=marathon
  10.0.0.3:31001 check on-host
` + webAlone)
			c.RemoveApp("/shop/web")
			w.serves(`
53/tcp dns mode=tcp source=marathon
  10.0.0.3:31000 check on-host
54/tcp dns mode=tcp source=marathon
  10.0.0.3:31001 check on-host
`)
		})
	}
}

func TestMarathonWithoutAStreamIsPolled(t *testing.T) {
	c, _, urls := cluster(t, "0.8", "127.0.0.2")
	c.PutApp(web(0))
	w := start(t, marathon.Config{URLs: urls, RefreshInterval: 20 * time.Millisecond})
	w.serves(webAlone)
	c.AddTask("/shop/web", task("shop_web.1", "10.0.0.1"))
	w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
	w.until("a Problem that names the stream", func(s catalog.Snapshot) bool {
		return len(s.Problems) == 1 && s.Problems[0].Subject == "event stream"
	})
}

func TestUDPAndContainerNetworks(t *testing.T) {
	for _, gen := range []fakemarathon.Generation{"1.4", "1.5", "1.8"} {
		t.Run(string(gen), func(t *testing.T) {
			c, _, urls := cluster(t, gen, "127.0.0.2")
			dynamic := 0
			c.PutApp(fakemarathon.App{ID: "/c", Mode: fakemarathon.Container, Ports: []fakemarathon.PortMapping{
				{ContainerPort: 80, ServicePort: 8300}, {ContainerPort: 53, HostPort: &dynamic, ServicePort: 8301, Protocol: "udp,tcp"}}})
			c.AddTask("/c", fakemarathon.Task{ID: "c.1", Host: "10.0.0.1", Ports: []int{31000}, IPs: []string{"2001:db8::1", "192.168.0.1"}})
			s, err := marathon.New(marathon.Config{URLs: urls})
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Read(t.Context())
			want := strings.TrimLeft(`
8300/tcp c mode=tcp source=marathon
  192.168.0.1:80 check
8301/tcp c mode=tcp source=marathon
  10.0.0.1:31000 check on-host
8301/udp c mode=tcp source=marathon
  10.0.0.1:31000 check on-host
`, "\n")
			if err != nil || catalog.Format(got.Services) != want || len(got.Problems) != 0 {
				t.Errorf("got\n%s%v %v, want\n%s", catalog.Format(got.Services), got.Problems, err, want)
			}
		})
	}
}

func TestAnUpgradeOfThePortListPairsOldTasksByTheirOwnVersion(t *testing.T) {
	for _, gen := range []fakemarathon.Generation{"0.8", "0.11", "1.3", "1.5", "1.8"} {
		t.Run(string(gen), func(t *testing.T) {
			c, _, urls := cluster(t, gen, "127.0.0.2")
			c.PutApp(web(0))
			c.AddTask("/shop/web", task("old", "10.0.0.1"))
			upgraded := web(0)
			upgraded.Ports = append([]fakemarathon.PortMapping{{ContainerPort: 81, ServicePort: 9000}}, upgraded.Ports...)
			c.PutApp(upgraded)
			c.AddTask("/shop/web", fakemarathon.Task{ID: "new", Host: "10.0.0.2", Ports: []int{31001, 31002}})
			w := start(t, marathon.Config{URLs: urls})
			w.serves(webAlone + `  10.0.0.1:31000 check on-host
  10.0.0.2:31002 check on-host
9000/tcp web.shop mode=tcp source=marathon
  10.0.0.2:31001 check on-host
`)
		})
	}
}

func TestAnotherReplicaTakesOver(t *testing.T) {
	for _, gen := range []fakemarathon.Generation{"0.11", "1.3", "1.5", "1.8"} {
		t.Run(string(gen), func(t *testing.T) {
			c, replicas, urls := cluster(t, gen, "127.0.0.2", "127.0.0.3")
			c.PutApp(web(0))
			c.AddTask("/shop/web", task("1", "10.0.0.1"))
			w := start(t, marathon.Config{URLs: urls})
			w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
			replicas[0].Close()
			c.FailOver(1)
			if err := c.WaitStream(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.AddTask("/shop/web", task("2", "10.0.0.2"))
			w.serves(webAlone + "  10.0.0.1:31000 check on-host\n  10.0.0.2:31000 check on-host\n")
			w.never("less than before", func(s catalog.Snapshot) bool { return catalog.CountServers(s.Services) == 0 })
		})
	}
}

func TestAStandbyRedirectsTheStreamToItsLeaderWithCredentials(t *testing.T) {
	c, _, urls := cluster(t, "1.8", "127.0.0.2", "127.77.0.2")
	c.SetFaults(func(f *fakemarathon.Faults) { f.BasicAuth = "user:sec/ret" })
	c.FailOver(1)
	c.PutApp(web(0))
	for i, u := range urls {
		urls[i] = strings.Replace(u, "http://", "http://user:sec%2Fret@", 1)
	}
	w := start(t, marathon.Config{URLs: urls})
	w.serves(webAlone)
	c.AddTask("/shop/web", task("1", "10.0.0.1"))
	w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
	w.never("an error or a problem", func(s catalog.Snapshot) bool { return s.Err != "" || len(s.Problems) > 0 })
}

func TestWrongCredentialsAreToldWithoutThem(t *testing.T) {
	c, _, urls := cluster(t, "1.8", "127.0.0.2")
	c.SetFaults(func(f *fakemarathon.Faults) { f.BasicAuth = "user:other" })
	w := start(t, marathon.Config{URLs: []string{strings.Replace(urls[0], "http://", "http://uzer:zecret@", 1)}})
	w.until("an error", func(s catalog.Snapshot) bool {
		return strings.Contains(s.Err, "401 Unauthorized: Invalid username or password.")
	})
	w.never("the secret", func(s catalog.Snapshot) bool {
		return strings.Contains(s.Err, "zecret") || strings.Contains(s.Err, "uzer") || !s.Succeeded.IsZero() || s.Priority != 300
	})
	c.SetFaults(func(f *fakemarathon.Faults) { f.BasicAuth = "" })
	w.until("success", func(s catalog.Snapshot) bool { return s.Err == "" })
}

func TestFaultsKeepTheServicesAndTheLastChangeArrives(t *testing.T) {
	for name, fault := range map[string]func(*fakemarathon.Faults){
		"empty body":          func(f *fakemarathon.Faults) { f.EmptyBody = 3 },
		"truncated":           func(f *fakemarathon.Faults) { f.Truncated = 3 },
		"an HTML page":        func(f *fakemarathon.Faults) { f.WrongType = 3 },
		"503":                 func(f *fakemarathon.Faults) { f.Unavailable = 3 },
		"empty list once":     func(f *fakemarathon.Faults) { f.EmptyLists = 1 },
		"stream ends":         func(f *fakemarathon.Faults) { f.StreamEOF = 3 },
		"no compression":      func(f *fakemarathon.Faults) { f.NoGzip = true },
		"slow list":           func(f *fakemarathon.Faults) { f.Delay = 20 * time.Millisecond },
		"own state, no state": func(f *fakemarathon.Faults) { f.Standby = fakemarathon.StandbyOwnAnswer },
	} {
		for _, gen := range []fakemarathon.Generation{"0.11", "1.3", "1.8"} {
			t.Run(name+" "+string(gen), func(t *testing.T) {
				c, _, urls := cluster(t, gen, "127.0.0.2")
				c.PutApp(web(0))
				c.AddTask("/shop/web", task("1", "10.0.0.1"))
				w := start(t, marathon.Config{URLs: urls})
				w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
				c.SetFaults(fault)
				c.CloseStreams() // a new one must come through the fault as well
				c.AddTask("/shop/web", task("2", "10.0.0.2"))
				w.serves(webAlone + "  10.0.0.1:31000 check on-host\n  10.0.0.2:31000 check on-host\n")
				w.never("less than before", func(s catalog.Snapshot) bool { return catalog.CountServers(s.Services) == 0 })
			})
		}
	}
}

func TestAnEmptyStandbyIsNotBelievedWhileAnotherReplicaKnowsBetter(t *testing.T) {
	c, replicas, urls := cluster(t, "0.11", "127.0.0.2", "127.0.0.3")
	c.PutApp(web(0))
	c.AddTask("/shop/web", task("1", "10.0.0.1"))
	w := start(t, marathon.Config{URLs: urls})
	w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
	replicas[0].SetFaults(func(f *fakemarathon.Faults) { f.EmptyLists = -1 })
	if err := c.WaitStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.AddTask("/shop/web", task("2", "10.0.0.2"))
	c.Emit("group_change_success", nil) // so that the list is asked for
	w.serves(webAlone + "  10.0.0.1:31000 check on-host\n  10.0.0.2:31000 check on-host\n")
	w.never("less than before", func(s catalog.Snapshot) bool { return catalog.CountServers(s.Services) == 0 })
	c.SetFaults(func(f *fakemarathon.Faults) { f.EmptyLists = -1 })
	c.Emit("group_change_success", nil)
	w.until("an emptiness that both replicas confirm", func(s catalog.Snapshot) bool { return len(s.Services) == 0 && s.Err == "" })
}

func TestAnEmptyListDuringAFailoverDoesNotForgetWhoWasAlive(t *testing.T) {
	c, replicas, urls := cluster(t, "1.8", "127.0.0.2", "127.0.0.3")
	c.PutApp(web(1))
	c.AddTask("/shop/web", task("1", "10.0.0.1"))
	c.SetHealth("1", true)
	w := start(t, marathon.Config{URLs: urls})
	w.serves(webAlone + "  10.0.0.1:31000 on-host\n")
	before := replicas[0].Requests()["GET /v2/apps"]
	replicas[0].SetFaults(func(f *fakemarathon.Faults) { f.EmptyLists = -1 })
	c.FailOver(1) // the new leader lists the task without a result
	if err := c.WaitStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.PutApp(fakemarathon.App{ID: "/z", Ports: []fakemarathon.PortMapping{{ServicePort: 9000}}})
	w.serves(webAlone + "  10.0.0.1:31000 on-host\n9000/tcp z mode=tcp source=marathon\n")
	w.never("less than before", func(s catalog.Snapshot) bool { return catalog.CountServers(s.Services) == 0 })
	if replicas[0].Requests()["GET /v2/apps"] == before {
		t.Error("the replica with the empty list was not asked")
	}
}

func TestAStreamThatSaysNothingIsReplacedAndWhatItMissedIsRead(t *testing.T) {
	c, _, urls := cluster(t, "1.8", "127.0.0.2")
	c.PutApp(web(0))
	c.SetFaults(func(f *fakemarathon.Faults) { f.Silent = true })
	w := start(t, marathon.Config{URLs: urls, Silence: 50 * time.Millisecond})
	w.serves(webAlone)
	c.AddTask("/shop/web", task("1", "10.0.0.1"))
	w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
}

func TestDroppedEventsAreMadeUpForByPolling(t *testing.T) {
	c, _, urls := cluster(t, "1.3", "127.0.0.2")
	c.PutApp(web(0))
	w := start(t, marathon.Config{URLs: urls, RefreshInterval: 50 * time.Millisecond})
	w.serves(webAlone)
	c.SetFaults(func(f *fakemarathon.Faults) { f.DropEvents = -1 })
	c.AddTask("/shop/web", task("1", "10.0.0.1"))
	w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
}

func TestHugeAndBrokenFramesDoNotEndTheStream(t *testing.T) {
	c, _, urls := cluster(t, "1.3", "127.0.0.2")
	c.PutApp(web(0))
	w := start(t, marathon.Config{URLs: urls})
	w.serves(webAlone)
	if err := c.WaitStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Emit("api_post_event", map[string]any{"appDefinition": strings.Repeat("x", 2<<20)})
	c.WriteStreams("event: x\r\ndata: {\"eventType\":\r\n\r\n\xff\xfe\r\r\n")
	c.AddTask("/shop/web", task("1", "10.0.0.1"))
	w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
	if n := c.Requests()["GET /v2/events"]; n != 1 {
		t.Errorf("%d subscriptions, want the first one to last", n)
	}
}

func TestReadSubscribesToNothing(t *testing.T) {
	c, _, urls := cluster(t, "1.8", "127.0.0.2")
	c.PutApp(web(0))
	s, err := marathon.New(marathon.Config{URLs: urls})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(t.Context()); err != nil || s.Name() != "marathon" || catalog.Format(got.Services) != webAlone {
		t.Errorf("got %+v, %v", got, err)
	}
	if n := len(c.Requests()); n != 1 {
		t.Errorf("asked for %v, want the apps only", c.Requests())
	}
}

func TestANewRunKnowsWhatTheOldOneHadRead(t *testing.T) {
	c := fakemarathon.New(fakemarathon.GenD)
	t.Cleanup(c.Close)
	r, err := c.Replica("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.PutApp(fakemarathon.App{ID: "/a", Ports: []fakemarathon.PortMapping{{ServicePort: 8300}}})
	c.AddTask("/a", fakemarathon.Task{Ports: []int{31000}})
	s, err := marathon.New(marathon.Config{URLs: []string{r.URL()}, RefreshInterval: time.Hour, ConfirmPause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	first := func() catalog.Snapshot { // of a Run that is ended then
		ctx, cancel := context.WithCancel(t.Context())
		out, done := make(chan catalog.Snapshot), make(chan error)
		go func() { done <- s.Run(ctx, out) }()
		snapshot := <-out
		cancel()
		<-done
		return snapshot
	}
	if n := catalog.CountServers(first().Services); n != 1 {
		t.Fatalf("%d servers", n)
	}
	c.SetFaults(func(f *fakemarathon.Faults) { f.EmptyLists = 1 })
	if n := catalog.CountServers(first().Services); n != 1 {
		t.Errorf("a new Run believes one empty answer: %d servers", n)
	}
}
