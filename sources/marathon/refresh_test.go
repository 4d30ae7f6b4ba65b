package marathon

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnEventThatNamesAnAppAsksForThatAppOnly(t *testing.T) {
	for _, c := range []struct {
		name       string
		answers    []int
		app        string
		sent, reqs string
	}{
		{"the app", []int{2, 3}, "/a", "1.0: 3", "1.0 m1 apps/a"},
		{"another app is answered: it is asked again, with pauses", []int{2, 3}, "/b", "", "1.0 m1 apps/b, 1.1 m1 apps/b, 1.3 m1 apps/b, 1.7 m1 apps/b"},
		{"a name that leads elsewhere", []int{2, 3}, "/a/../b", "1.0: 3", "1.0 m1 apps"},
		{"no name", []int{2, 3}, "", "1.0: 3", "1.0 m1 apps"},
		{"it cannot be had: the list is", []int{2, -1, 3}, "/a", "1.0: 3", "1.0 m1 apps/a, 1.0 m1 apps"},
		{"nothing can be had", []int{2, -1, -2, 2}, "/a", "1.0: 2 (http://m1: trouble 2) read 0.9 ago heard 0.0 ago", "1.0 m1 apps/a, 1.0 m1 apps"},
		{"it shows nothing yet: once more after settling", []int{2, 2, 4}, "/a", "1.1: 4", "1.0 m1 apps/a, 1.1 m1 apps/a"},
		{"mass loss is confirmed by the list", []int{10, 4, 4}, "/a", "2.0: 4", "1.0 m1 apps/a, 2.0 m1 apps"},
		{"mass loss is not confirmed", []int{10, 0, 11}, "/a", "2.0: 11", "1.0 m1 apps/a, 2.0 m1 apps"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &sim{tasks: map[string][]int{"m1": c.answers}}
			runSim(t, s, func(o *observed) {
				time.Sleep(time.Second)
				o.take()
				s.requests()
				s.changeOf(c.app)
				synctest.Wait()
				if !strings.Contains(c.sent, "1.0: 2") { // a failure is retried soon
					time.Sleep(time.Second)
				}
				expect(t, "sent", o.take(), c.sent)
				expect(t, "requests", s.requests(), c.reqs)
			})
		})
	}
}

func TestAfterAFailureEverythingIsRead(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2, -1, 3}}}
	runSim(t, s, func(o *observed) {
		time.Sleep(time.Second)
		s.requests()
		s.change()
		synctest.Wait()
		s.changeOf("/a")
		synctest.Wait()
		time.Sleep(3 * time.Second)
		if got := s.requests(); strings.Count(strings.Split(got, "apps/a")[0], "m1 apps") < 2 {
			t.Errorf("requests: %s", got)
		}
	})
}

func TestEverythingIsReadEachIntervalHoweverManyEventsCome(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": nil}}
	for i := range 60 {
		s.tasks["m1"] = append(s.tasks["m1"], 2+i%2)
	}
	runSim(t, s, func(o *observed) {
		for range 30 {
			time.Sleep(5 * time.Second)
			s.changeOf("/a")
		}
		synctest.Wait()
		whole := slices.DeleteFunc(strings.Split(s.requests(), ", "), func(r string) bool { return !strings.HasSuffix(r, " apps") })
		expect(t, "whole lists", strings.Join(whole, ", "), "0.1 m1 apps, 60.1 m1 apps, 120.1 m1 apps")
	})
}

func TestAnswersOnOneApp(t *testing.T) {
	for answer, want := range map[string]string{
		`{"app":{"id":"/a","tasks":[{"id":"t"},7]}}`: "1 tasks, 1 bad",
		`{"app":{"id":"/b"}}`:                        `error the answer is app "/b", not "/a"`,
		`{"app":{"id":"/a","ports":7}}`:              "error ports cannot be of type number",
		`{"app":{"id":"/a","ports":[8300]}}`:         "error the answer does not tell the app's tasks",
		`{"app":null}`:                               `error the answer is app "", not "/a"`,
		`{"tasks":[]}`:                               `error the answer has no "app"`,
		`<html>`:                                     "error the answer is not the JSON that is wanted: invalid character '<' looking for beginning of value",
	} {
		a, err := parseOne([]byte(answer), "/a")
		got := fmt.Sprintf("%d tasks, %d bad", len(a.tasks), len(a.bad))
		if err != nil {
			got = "error " + err.Error()
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", answer, got, want)
		}
	}
}
