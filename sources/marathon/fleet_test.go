package marathon

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// visitOf is an answer on some apps.
func visitOf(t *testing.T, apps string, asked time.Time) reading { return list(t, apps, asked) }

func TestAnAnswerFromBeforeAnEventDoesNotUndoIt(t *testing.T) {
	const killed = `{"eventType":"status_update_event","appId":"/a","taskStatus":"TASK_KILLED","taskId":"a.u1"}`
	const born = `{"eventType":"status_update_event","appId":"/a","taskStatus":"TASK_RUNNING","taskId":"a.u9","host":"10.0.0.9","ports":[31009],"version":"2016-01-02"}`
	const ended = `{"eventType":"app_terminated_event","appId":"/a"}`
	const sick = `{"eventType":"health_status_changed_event","appId":"/a","instanceId":"a.instance-u1","alive":false}`
	const both, nine = headA + "  10.0.0.1:31000 check on-host\n  10.0.0.9:31009 check on-host\n", headA + "  10.0.0.1:31000 check on-host\n"
	later := strings.Replace(plainA, `"ports":[8300]`, `"ports":[8300,8301]`, 1)
	later = strings.Replace(later, `[31000]`, `[31000,31001]`, 1)
	for _, c := range []struct {
		name, apps, event, answer string
		after                     time.Duration
		differs                   string
		want                      string
	}{
		{"a killed task that is still listed", plainA, killed, plainA, time.Second, "[/a]", headA},
		{"when it is listed for long", plainA, killed, plainA, goneHolds, "[]", headA + "  10.0.0.1:31000 check on-host\n"},
		{"a killed task that is listed as such", plainA, killed, strings.Replace(plainA, "TASK_RUNNING", "TASK_KILLING", 1), time.Second, "[]", headA},
		{"a new task that is not listed yet", plainA, born, plainA, time.Second, "[/a]", both},
		{"when it is not listed for long", plainA, born, plainA, aliveHolds, "[]", nine},
		{"a new task of an app that has changed", plainA, born, strings.ReplaceAll(later, "2016-01-02", "2016-01-01"), time.Second, "[/a]",
			headA + "  10.0.0.1:31000 check on-host\n8301/tcp a mode=tcp source=marathon\n  10.0.0.1:31001 check on-host\n"},
		{"an app that ended", plainA, ended, plainA, time.Second, "[/a]", ""},
		{"when it is listed for long", plainA, ended, plainA, goneHolds, "[]", headA + "  10.0.0.1:31000 check on-host\n"},
		{"a sick task that is still listed as alive", checkedA, sick, checkedA, time.Second, "[/a]", headA},
		{"when it is listed so for long", checkedA, sick, checkedA, goneHolds, "[]", headA + "  10.0.0.1:31000 on-host\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := start().Add(c.after)
			for kind, take := range map[string]func(*fleet) (*fleet, []string){
				"visit": func(f *fleet) (*fleet, []string) {
					if f.visited(visitOf(t, c.answer, now), now) == differs {
						return f, []string{"/a"}
					}
					return f, nil
				},
				"list": func(f *fleet) (*fleet, []string) { return f.renewed(list(t, c.answer, now), now) },
			} {
				f := fleetOf(t, c.apps, start())
				told(t, f, c.event, start())
				f, differing := take(f)
				got := fmt.Sprintf("%v\n%s", differing, canonical(f.board.all(), f.problems()))
				if diff := cmp.Diff(c.differs+"\n"+c.want, got); diff != "" {
					t.Errorf("%s: -want +got:\n%s", kind, diff)
				}
			}
		})
	}
}

func TestTheAnswerThatWasAskedForLaterCounts(t *testing.T) {
	now := start()
	after := strings.Replace(plainA, "31000", "31001", 1)
	const want = headA + "  10.0.0.1:31001 check on-host\n"
	f := fleetOf(t, plainA, now)
	f.visited(visitOf(t, after, now.Add(2*time.Second)), now.Add(3*time.Second))
	for kind, got := range map[string]func() *fleet{
		"a list that was asked for before": func() *fleet {
			f, _ := f.renewed(list(t, plainA, now.Add(time.Second)), now.Add(4*time.Second))
			return f
		},
		"a list that did not have it yet":   func() *fleet { f, _ := f.renewed(list(t, "", now.Add(time.Second)), now.Add(4*time.Second)); return f },
		"a visit that was asked for before": func() *fleet { f.visited(visitOf(t, plainA, now.Add(time.Second)), now.Add(4*time.Second)); return f },
	} {
		if text := catalog.Format(got().board.all()); text != want {
			t.Errorf("%s: %s", kind, text)
		}
	}
	if f, _ := f.renewed(list(t, "", now.Add(5*time.Second)), now.Add(5*time.Second)); len(f.board.all()) != 0 {
		t.Errorf("a later list without it: %s", catalog.Format(f.board.all()))
	}
}

func TestAListThatDoesNotTellAnAppsTasksLeavesThem(t *testing.T) {
	f, _ := fleetOf(t, plainA, start()).renewed(list(t, `{"id":"/a","version":"2016-01-02","ports":[8300]}`, start().Add(time.Second)), start().Add(time.Second))
	const want = headA + "  10.0.0.1:31000 check on-host\n! /a: the list does not tell its tasks; what was known of it stays\n"
	if got := canonical(f.board.all(), f.problems()); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestWordsOfTasksThatAreNotListedAreBounded(t *testing.T) {
	f := fleetOf(t, plainA, start())
	for _, frame := range []string{
		`{"eventType":"status_update_event","appId":"/a","taskStatus":"TASK_FAILED","taskId":"a.x%d"}`,
		`{"eventType":"health_status_changed_event","appId":"/a","taskId":"a.y%d","alive":false}`,
	} {
		var asked []string
		for i := range 2 * maxWords {
			asked, _ = told(t, f, fmt.Sprintf(frame, i), start())
		}
		if n := len(f.apps["/a"].words); n > maxWords || asked[0] != "confirm" {
			t.Errorf("%s: %d words, the last one asks for %q", frame, n, asked)
		}
	}
}

// randomApp is one of a few apps that quarrel over a few ports.
func randomApp(random *rand.Rand, id int) string {
	var tasks []string
	for i := range random.IntN(4) {
		tasks = append(tasks, fmt.Sprintf(`{"id":"t%d.%d","host":"10.0.%d.%d","ports":[%d,31001],"state":%q,"version":"v1"}`,
			id, i, id, i, 31000*random.IntN(2), []string{"TASK_RUNNING", "TASK_KILLING"}[random.IntN(2)]))
	}
	return fmt.Sprintf(`{"id":"/app%d","version":"v1","ports":[%d,%d],"tasks":[%s]}`, id, 9000+random.IntN(4), 9000+random.IntN(4), strings.Join(tasks, ","))
}

// Whatever comes in one by one, what follows is what a fresh list of the same apps says.
func TestOneByOneOrAllAtOnceIsTheSame(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		apps := make(map[int]string)
		f := newFleet(Name, 1)
		for step := range 30 {
			now := start().Add(time.Duration(step) * time.Second)
			before := f.board.all()
			text := catalog.Format(before)
			id := random.IntN(5)
			if random.IntN(4) == 0 {
				delete(apps, id)
				f.drop(fmt.Sprintf("/app%d", id))
			} else {
				apps[id] = randomApp(random, id)
				f.visited(visitOf(t, apps[id], now), now)
			}
			var all []string
			for id := range 5 {
				if apps[id] != "" {
					all = append(all, apps[id])
				}
			}
			fresh, _ := newFleet(Name, 1).renewed(list(t, strings.Join(all, ","), now), now)
			got, want := canonical(f.board.all(), f.problems()), canonical(fresh.board.all(), fresh.problems())
			if got != want || f.board.servers != catalog.CountServers(f.board.all()) || catalog.Format(before) != text {
				t.Fatalf("seed %d step %d: one by one\n%sat once\n%s%d servers; what was sent is now\n%s, and was\n%s", seed, step, got, want, f.board.servers, catalog.Format(before), text)
			}
			again, _ := f.renewed(list(t, strings.Join(all, ","), now), now)
			if unsafe.SliceData(again.board.all()) != unsafe.SliceData(f.board.all()) {
				t.Fatalf("seed %d step %d: a list that says nothing new makes new services", seed, step)
			}
		}
	}
}

func TestAnAgendaAsksForFewApps(t *testing.T) {
	now := start()
	at := func(d time.Duration) time.Time { return now.Add(d) }
	g := newAgenda(100*time.Millisecond, at(time.Minute))
	for i := range maxVisits {
		g.visit(fmt.Sprint("/", i), visit{at: at(time.Duration(i) * time.Second)})
	}
	g.visit("/0", visit{at: at(5 * time.Second)})
	if due := g.due(at(time.Second), nil); len(due) != 2 || !g.nextVisit(now, nil).Equal(at(2*time.Second)) || !g.list.Equal(at(time.Minute)) {
		t.Errorf("due %v, then %v and the list %v", due, g.nextVisit(now, nil), g.list)
	}
	for i := range maxVisits {
		g.visit(fmt.Sprint("/more", i), visit{at: at(4 * time.Second)})
	}
	if due := g.due(at(4*time.Second), nil); due != nil || !g.list.Equal(at(4*time.Second)) || !g.nextVisit(at(4*time.Second), nil).IsZero() {
		t.Errorf("too many: due %v, list %v, next %v", due, g.list, g.nextVisit(at(4*time.Second), nil))
	}
	g.visit("/later", visit{at: at(6 * time.Second)})
	if why := g.begin(at(4*time.Second), time.Minute); why != announced || len(g.visits) != 1 {
		t.Errorf("while the list is asked for: %v, %v", why, g.visits)
	}
}

func TestListsThatEventsAskForAreSpaced(t *testing.T) {
	now := start()
	g := newAgenda(100*time.Millisecond, now.Add(time.Hour))
	var at []string
	for tick := range 300 { // 30 s of events, ten a second
		now := now.Add(time.Duration(tick) * 100 * time.Millisecond)
		g.everything(now)
		if !g.list.After(now) {
			at = append(at, fmt.Sprint(now.Sub(start()).Seconds()))
			g.begin(now, time.Hour)
		}
	}
	if got, want := strings.Join(at, " "), "0 1 3 7 15 23"; got != want {
		t.Errorf("the list is read at %s, want %s", got, want)
	}
	now = now.Add(time.Hour)
	g.everything(now)
	g.begin(now, time.Hour)
	g.everything(now)
	if pause := g.list.Sub(now); pause != firstGap {
		t.Errorf("after a quiet hour the second list comes %s after the first", pause)
	}
}

func TestAfterABurstOfEventsTheListIsRead(t *testing.T) {
	now := start()
	g := newAgenda(100*time.Millisecond, now.Add(time.Hour))
	g.came(maxBurst, now)
	g.came(maxBurst, now.Add(2*together))
	if !g.next().Equal(g.list) {
		t.Errorf("few at a time: the list is read at %s", g.next())
	}
	g.came(1, now.Add(3*together))
	g.came(10, now.Add(4*together))
	if want := now.Add(4*together + firstGap); !g.next().Equal(want) {
		t.Errorf("the list is read at %s, want %s", g.next(), want)
	}
	g.begin(now.Add(time.Second), time.Hour)
	if !g.next().Equal(now.Add(time.Hour + time.Second)) {
		t.Errorf("after that it is read at %s", g.next())
	}
}

// A list that takes long holds up neither what an event takes away nor the app that it names.
func TestEventsDoNotWaitForAList(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {3}}}
	runSim(t, s, func(o *observed) {
		time.Sleep(time.Second)
		o.take()
		s.requests()
		s.lock.Lock()
		s.delay = 10 * time.Second
		s.lock.Unlock()
		s.change() // anything: the list is asked for
		synctest.Wait()
		s.lock.Lock()
		s.delay = 0
		s.lock.Unlock()
		s.write(`data: {"eventType":"status_update_event","appId":"/a","taskStatus":"TASK_KILLED","taskId":"a.2"}` + "\r\n\r\n")
		expect(t, "sent at once", o.take(), "1.0: 2 read 0.9 ago heard 0.0 ago")
		s.set("m1", 2)
		time.Sleep(time.Second)
		expect(t, "requests", s.requests(), "1.0 m1 apps, 1.5 m1 apps/a")
		time.Sleep(20 * time.Second) // the list of before the event arrives
		expect(t, "sent then", o.take(), "")
	})
}
