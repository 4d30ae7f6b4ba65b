package marathon

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// With two checks (or a readiness check) an alive event does not lift the word "sick": the task is out for the rest of 10 s,
// though every answer says that it is well.
func TestAliveLiftsSickWithTwoChecks(t *testing.T) {
	s := &farm{apps: map[string]func() string{}}
	s.json("/a", checkedApp("/a", 8300, 2, `{"alive":true},{"alive":true}`))
	runFarm(t, s, Config{}, func(serving func() string) {
		time.Sleep(time.Second)
		up := serving()
		s.json("/a", checkedApp("/a", 8300, 2, `{"alive":true},{"alive":false}`))
		s.send(`{"eventType":"health_status_changed_event","appId":"/a","taskId":"a.u1","version":"2016-01-02","alive":false}`)
		time.Sleep(time.Second)
		s.json("/a", checkedApp("/a", 8300, 2, `{"alive":true},{"alive":true}`))
		s.requests()
		s.send(`{"eventType":"health_status_changed_event","appId":"/a","taskId":"a.u1","version":"2016-01-02","alive":true}`)
		for i := range 100 {
			if serving() == up {
				if i > 5 {
					_, _, text := s.requests()
					t.Errorf("served again only after %d00 ms; %s", i, text)
				}
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		_, _, text := s.requests()
		t.Errorf("not served again within 10 s; %s", text)
	})
}

// Two apps are visited together: one shows its change, the other's answer is from before the event. The other is not asked again.
func TestOneAppsChangeHidesAnothersMissingOne(t *testing.T) {
	app := func(id string, port int, host string) string {
		return fmt.Sprintf(`{"id":%q,"version":"v1","ports":[%d],"tasks":[{"id":"t%s","host":%q,"ports":[%d],"version":"v1"}]}`, id, port, host, host, port+20000)
	}
	s := &farm{apps: map[string]func() string{}}
	s.json("/a", app("/a", 8300, "10.0.0.1"))
	s.json("/b", app("/b", 8301, "10.0.0.1"))
	s.json("/c", app("/c", 8302, "10.0.0.1"))
	runFarm(t, s, Config{}, func(serving func() string) {
		time.Sleep(time.Second)
		serving()
		s.slow("apps/c", 20*time.Millisecond)
		s.send(`{"eventType":"api_post_event","appDefinition":{"id":"/c"}}`) // a visit is away
		synctest.Wait()
		s.send(`{"eventType":"api_post_event","appDefinition":{"id":"/a"}}`)
		s.send(`{"eventType":"api_post_event","appDefinition":{"id":"/b"}}`)
		s.json("/a", app("/a", 8300, "10.0.0.2"))
		time.Sleep(30 * time.Millisecond)
		s.json("/b", app("/b", 8301, "10.0.0.2")) // up to 1.2 the list lags behind
		time.Sleep(5 * time.Second)
		if got := serving(); !strings.Contains(got, "10.0.0.2:28301") {
			_, _, text := s.requests()
			t.Errorf("the change of /b is lost until the next poll:\n%s%s", got, text)
		}
	})
}

// A task of an app that is not known yet dies while the list that has it is on its way: the word is not kept, nothing is asked.
func TestDeathInAnUnknownAppDuringAList(t *testing.T) {
	s := &farm{apps: map[string]func() string{}}
	s.json("/z", `{"id":"/z","version":"v1","ports":[9000],"tasks":[{"id":"z.1","host":"10.0.0.9","ports":[31009],"version":"v1"}]}`)
	runFarm(t, s, Config{}, func(serving func() string) {
		time.Sleep(time.Second)
		serving()
		s.cut()
		time.Sleep(20 * time.Second)
		s.json("/a", `{"id":"/a","version":"v1","ports":[8300],"tasks":[{"id":"a.u1","host":"10.0.0.1","ports":[31000],"version":"v1"}]}`)
		s.slow("apps", 5*time.Second)
		s.cut() // reconnects, and reads the list
		time.Sleep(2500 * time.Millisecond)
		s.json("/a", `{"id":"/a","version":"v1","ports":[8300],"tasks":[]}`)
		s.send(`{"eventType":"status_update_event","appId":"/a","taskStatus":"TASK_FAILED","taskId":"a.u1"}`)
		time.Sleep(20 * time.Second)
		got := serving()
		_, _, text := s.requests()
		if strings.Contains(got, "10.0.0.1:31000") {
			t.Errorf("a dead task is routed 20 s after its event:\n%s%s", got, text)
		}
	})
}

func TestFailoverStorms(t *testing.T) {
	plain := func(i int, results string) string { return checkedApp(fmt.Sprintf("/a%d", i), 8300+i, 1, results) }
	scaled := func(i int, results string) string {
		return strings.Replace(strings.Replace(plain(i, results), `"version":"2016-01-02"`, `"version":"2016-01-05T00:00:00.000Z","versionInfo":{"lastConfigChangeAt":"2016-01-02T00:00:00.000Z"}`, 1),
			`"2016-01-02","health`, `"2016-01-02T00:00:00.000Z","health`, 1)
	}
	ready := func(i int, results string) string {
		return strings.Replace(plain(i, results), `"tasks"`, `"readinessChecks":[{}],"tasks"`, 1)
	}
	for name, c := range map[string]struct {
		app    func(int, string) string
		over   time.Duration
		events func(i int) []string
	}{
		"over 10 s": {plain, 10 * time.Second, func(i int) []string { return []string{alive(i)} }},
		"over 30 s": {plain, 30 * time.Second, func(i int) []string { return []string{alive(i)} }},
		"over 60 s": {plain, 60 * time.Second, func(i int) []string { return []string{alive(i)} }},
		"apps that were scaled: add_health_check_event names the version their tasks run": {scaled, 10 * time.Second, func(i int) []string {
			return []string{fmt.Sprintf(`{"eventType":"add_health_check_event","appId":"/a%d","version":"2016-01-02T00:00:00.000Z","healthCheck":{}}`, i), alive(i)}
		}},
		"apps with readiness checks": {ready, 10 * time.Second, func(i int) []string { return []string{alive(i)} }},
	} {
		t.Run(name, func(t *testing.T) {
			lists, singles, text := storm(t, 300, 2*time.Second, 300*time.Millisecond, c.over, c.app, c.events)
			if lists > 3 || singles > 10 {
				t.Errorf("%d lists, %d single fetches (want <= 3, <= 10): %.1500s", lists, singles, text)
			}
		})
	}
}

// The same, but the new leader's checks begin while the list of the reconnection is on its way.
func TestAStormDuringTheFirstList(t *testing.T) {
	plain := func(i int, results string) string { return checkedApp(fmt.Sprintf("/a%d", i), 8300+i, 1, results) }
	for _, over := range []time.Duration{10 * time.Second} {
		for _, slow := range []time.Duration{300 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second} {
			lists, singles, text := storm(t, 1000, 700*time.Millisecond, slow, over, plain, func(i int) []string { return []string{alive(i)} })
			t.Logf("storm of %s, lists of %s: %d lists, %d singles: %.300s", over, slow, lists, singles, text)
			if lists > 3 || singles > 10 {
				t.Errorf("storm of %s, lists of %s: %d lists, %d single fetches (want <= 3, <= 10): %.400s", over, slow, lists, singles, text)
			}
		}
	}
}

// Nothing spaces the lists that callbacks ask for.
func TestCallbacksSpaceLists(t *testing.T) {
	callbacks := func(s *farm, r *run) { r.hints = make(chan struct{}) }
	_ = callbacks
	s := &farm{apps: map[string]func() string{}}
	s.json("/a", checkedApp("/a", 8300, 0, ""))
	s.delay = map[string]time.Duration{}
	synctest.Test(t, func(t *testing.T) {
		source, err := New(Config{URLs: []string{"http://m1"}, RefreshInterval: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		source.client.http.Transport = s
		s.began = time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		out := make(chan catalog.Snapshot)
		r := newRun(source.config, source.reader(), out)
		hints := make(chan struct{}, 1)
		r.hints = hints
		var wait sync.WaitGroup
		wait.Go(func() { r.loop(ctx) })
		wait.Go(func() {
			for {
				select {
				case <-out:
				case <-ctx.Done():
					return
				}
			}
		})
		c := newCallbacks(Config{Callback: "http://me:5090", Settle: 100 * time.Millisecond}, nil, nil, func() {})
		c.hints = hints
		wait.Go(func() { c.gather(ctx) })
		time.Sleep(2 * time.Second)
		s.requests()
		for range 300 { // a minute of one event each 200 ms
			c.arrived(event{Type: "health_status_changed_event"})
			time.Sleep(200 * time.Millisecond)
		}
		if lists, _, _ := s.requests(); lists > 61 {
			t.Errorf("%d whole lists in a minute, want at most one a second", lists)
		}
		cancel()
		wait.Wait()
	})
}

// An app that ended and is made anew without an api_post_event (bulk PUT /v2/apps): RUNNING does not lift the tombstone.
func TestAnAppMadeAnewRuns(t *testing.T) {
	app := `{"id":"/a","version":"v1","ports":[8300],"tasks":[{"id":"a.u1","host":"10.0.0.1","ports":[31000],"version":"v1"}]}`
	s := &farm{apps: map[string]func() string{}}
	s.json("/a", app)
	s.json("/z", strings.NewReplacer("/a", "/z", "8300", "8301").Replace(app))
	runFarm(t, s, Config{}, func(serving func() string) {
		time.Sleep(time.Second)
		serving()
		s.json("/a", "")
		s.send(`{"eventType":"app_terminated_event","appId":"/a"}`)
		time.Sleep(time.Second)
		s.json("/a", strings.Replace(app, "a.u1", "a.u2", 1))
		s.send(`{"eventType":"status_update_event","appId":"/a","taskStatus":"TASK_RUNNING","taskId":"a.u2","host":"10.0.0.1","ports":[31000],"version":"v1"}`)
		s.send(`{"eventType":"deployment_success","plan":{"steps":[{"actions":[{"app":"/a"}]}]}}`)
		for i := range 200 {
			if strings.Contains(serving(), "8300/tcp") {
				if i > 5 {
					t.Errorf("served only after %d00 ms", i)
				}
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Error("not served within 20 s")
	})
}

// A visit that comes after a later list brings back an app that the list said is gone.
func TestALateVisitDoesNotBringBackAnApp(t *testing.T) {
	now := start()
	f := fleetOf(t, plainA, now)
	f, _ = f.renewed(list(t, "", now.Add(2*time.Second)), now.Add(2*time.Second))
	f.visited(visitOf(t, plainA, now.Add(time.Second)), now.Add(3*time.Second))
	if n := len(f.board.all()); n != 0 {
		t.Errorf("%d services of an app that a later list said is gone", n)
	}
}

// A doubted visit is "confirmed" by a list of the same replica, asked for at the same moment.
func TestDoubtNeedsALaterAnswer(t *testing.T) {
	tasks := func(n int) string {
		return strings.TrimSuffix(strings.TrimPrefix(tasksAnswer(n), `{"apps":[`), `]}`)
	}
	s := &farm{apps: map[string]func() string{}}
	s.json("/a", tasks(6))
	runFarm(t, s, Config{URLs: []string{"http://m1", "http://m2"}}, func(serving func() string) {
		time.Sleep(time.Second)
		serving()
		s.json("/a", tasks(1)) // for a moment
		s.slow("apps", 100*time.Millisecond)
		s.send(`{"eventType":"group_change_success","groupId":"/"}`)
		s.send(`{"eventType":"api_post_event","appDefinition":{"id":"/a"}}`)
		synctest.Wait()
		s.json("/a", tasks(6))
		time.Sleep(200 * time.Millisecond)
		if got := serving(); strings.Count(got, "31000") != 6 {
			_, _, text := s.requests()
			t.Errorf("most servers are gone after answers of one moment and one replica: %s%s", got, text)
		}
	})
}

// A short list shortens how long a task is believed: 5 min instead of what its checks need.
func TestBeliefAfterAShortList(t *testing.T) {
	app := `{"id":"/a","version":"2016-01-02","ports":[8300],"healthChecks":[{"gracePeriodSeconds":1200,"intervalSeconds":60}],"tasks":[
		{"id":"a.u1","host":"10.0.0.1","ports":[31000],"state":"TASK_RUNNING","version":"2016-01-02","healthCheckResults":[%s]}]}`
	for name, short := range map[string]bool{"listed all the time": false, "missing in one list": true} {
		now := start()
		f := fleetOf(t, fmt.Sprintf(app, `{"alive":true}`), now)
		if short {
			now = now.Add(time.Second)
			f, _ = f.renewed(list(t, "", now), now)
		}
		for range 10 {
			now = now.Add(time.Minute)
			f, _ = f.renewed(list(t, fmt.Sprintf(app, ""), now), now)
		}
		if f.board.servers != 1 {
			t.Errorf("%s: dropped within 10 min, its grace period is 20", name)
		}
	}
}

// A task that waits for its readiness check is not looked at again until something else happens, or the next poll.
func TestReadinessIsLookedAtAgain(t *testing.T) {
	app := `{"id":"/a","version":"v1","ports":[8300],"readinessChecks":[{"intervalSeconds":1}],"readinessCheckResults":[%s],"tasks":[
		{"id":"a.u1","host":"10.0.0.1","ports":[31000],"state":"TASK_RUNNING","version":"v1"},
		{"id":"a.u2","host":"10.0.0.2","ports":[31000],"state":"TASK_RUNNING","version":"v1"}]}`
	s := &farm{apps: map[string]func() string{}}
	s.json("/a", fmt.Sprintf(app, `{"taskId":"a.u2","ready":false}`))
	runFarm(t, s, Config{}, func(serving func() string) {
		time.Sleep(2 * time.Second)
		serving()
		s.json("/a", fmt.Sprintf(app, `{"taskId":"a.u2","ready":true}`)) // no event tells
		time.Sleep(10 * time.Second)
		if got := serving(); !strings.Contains(got, "10.0.0.2") {
			t.Errorf("10 s after it became ready:\n%s", got)
		}
	})
}

// One app that cannot be read makes each of its events a whole list, and throws away the answers on others.
func TestABrokenAppCostsItself(t *testing.T) {
	s := &farm{apps: map[string]func() string{}}
	s.json("/z", `{"id":"/z","version":"v1","ports":[9000],"tasks":[{"id":"z.1","host":"10.0.0.9","ports":[31009],"version":"v1"}]}`)
	s.json("/bad", `{"id":"/bad","version":"v1","labels":[],"ports":[8300],"tasks":[]}`)
	runFarm(t, s, Config{}, func(serving func() string) {
		time.Sleep(time.Second)
		serving()
		s.requests()
		for range 30 {
			s.send(`{"eventType":"health_status_changed_event","appId":"/bad","taskId":"bad.u1","version":"v1","alive":true}`)
			time.Sleep(time.Second)
		}
		if lists, singles, text := s.requests(); lists > 1 {
			t.Errorf("%d lists, %d singles: %s", lists, singles, text)
		}
	})
}

// An election that answers 503 to the question for a version drops the tasks of that version for a refresh interval.
func TestAnElectionDropsNoVersion(t *testing.T) {
	for _, status := range []string{"502", "503", "504"} {
		v := &versioned{current: "v2", tasks: []string{"v2", "v1"}, versions: map[string]string{"m1": status}}
		s := mustNew(t, "http://m1")
		s.client.http.Transport = v
		if got := readText(t, s.reader()); !strings.HasPrefix(got, "error ") {
			t.Errorf("%s: %s", status, got)
		}
	}
}

// The poll takes the visits off the agenda that its list is to tell of, and with them that an event announced something.
func TestAPollKeepsWhatWasAnnounced(t *testing.T) {
	now := start()
	g := newAgenda(100*time.Millisecond, now.Add(time.Second))
	now = now.Add(time.Second)
	g.visit("/a", visit{at: now, announced: true}) // waits, since other visits are under way
	if why := g.begin(now, time.Minute); why == polled && len(g.visits) == 0 {
		t.Error("nothing looks again if this list does not show the change yet")
	}
}

// A deployment without steps changes nothing, and costs a whole list.
func TestADeploymentWithoutSteps(t *testing.T) {
	asked, _ := told(t, fleetOf(t, plainA, start()), `{"eventType":"deployment_success","id":"x","plan":{"id":"x","steps":[],"version":"v"}}`, start())
	if asked[0] != "nothing" {
		t.Errorf("asks for %v", asked)
	}
}

// Apps that change while a visit of 5 ms is away, if they are more than 5, wait for a list that events may have put off by 8 s, though six small answers take milliseconds; and old
// tasks are taken away at once meanwhile.
func TestSixAppsDoNotWaitForTheGap(t *testing.T) {
	s := &farm{apps: map[string]func() string{}}
	for i := range 20 {
		id := fmt.Sprintf("/a%d", i)
		s.json(id, checkedApp(id, 8300+i, 2, `{"alive":true},{"alive":true}`))
	}
	runFarm(t, s, Config{}, func(serving func() string) {
		time.Sleep(time.Second)
		for range 80 { // 8 s in which groups are changed
			s.send(`{"eventType":"group_change_success","groupId":"/"}`)
			time.Sleep(100 * time.Millisecond)
		}
		serving()
		s.requests()
		for i := range 8 {
			s.slow(fmt.Sprintf("apps/a%d", i), 5*time.Millisecond)
		}
		for i := range 8 { // successors that are alive by both checks; then Marathon kills the old tasks
			id := fmt.Sprintf("/a%d", i)
			s.json(id, strings.NewReplacer("u1", "u2", "10.0.0.1", "10.0.0.2").Replace(checkedApp(id, 8300+i, 2, `{"alive":true},{"alive":true}`)))
			s.send(fmt.Sprintf(`{"eventType":"health_status_changed_event","appId":%q,"taskId":"a%d.u2","version":"2016-01-02","alive":true}`, id, i))
			s.send(fmt.Sprintf(`{"eventType":"status_update_event","appId":%q,"taskId":"a%d.u1","taskStatus":"TASK_KILLED"}`, id, i))
		}
		for i := range 100 {
			if strings.Count(serving(), "10.0.0.2") == 8 {
				if i > 2 {
					_, _, text := s.requests()
					t.Errorf("services are without a server for %d00 ms: %s", i, text)
				}
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Error("not within 10 s")
	})
}

// An app whose answer takes seconds holds up no other.
func TestASlowAppHoldsUpNobody(t *testing.T) {
	s := &farm{apps: map[string]func() string{}, delay: map[string]time.Duration{}}
	app := func(id string, port, host int) string {
		return fmt.Sprintf(`{"id":%q,"version":"v1","ports":[%d],"tasks":[{"id":"t.%d","host":"10.0.0.%d","ports":[31000],"version":"v1"}]}`, id, port, host, host)
	}
	s.json("/slow", app("/slow", 8300, 1))
	s.json("/z", app("/z", 8301, 2))
	runFarm(t, s, Config{}, func(serving func() string) {
		time.Sleep(time.Second)
		s.slow("apps/slow", 4*time.Second)
		s.json("/z", app("/z", 8301, 3))
		s.send(`{"eventType":"api_post_event","appDefinition":{"id":"/slow"}}`)
		s.send(`{"eventType":"api_post_event","appDefinition":{"id":"/z"}}`)
		time.Sleep(10 * time.Millisecond)
		if got := serving(); !strings.Contains(got, "10.0.0.3:31000") {
			t.Errorf("while the slow app is asked for:\n%s", got)
		}
	})
}
