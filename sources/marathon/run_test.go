package marathon

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSubscribesFirstAndReadsOnceItCounts(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2}}}
	runSim(t, s, func(o *observed) {
		synctest.Wait()
		expect(t, "requests before the first event", s.requests(), "0.0 m1 events")
		s.write("event: event_stream_attached\r\ndata: {\"eventType\":\"event_stream_attached\"}\r\n\r\n")
		expect(t, "sent", o.take(), "0.0: 2")
		expect(t, "requests after it", s.requests(), "0.0 m1 apps")
	})
}

func TestReadsWithoutAFirstEventToo(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2}}}
	runSim(t, s, func(o *observed) {
		time.Sleep(time.Second)
		expect(t, "sent", o.take(), "0.1: 2")
	})
}

func TestAnEventIsReadAtOnceAndOnceMoreWhenItShowsNothing(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2, 3, 3, 4}}}
	runSim(t, s, func(o *observed) {
		time.Sleep(time.Second)
		o.take()
		s.requests()
		s.change()
		expect(t, "sent at once", o.take(), "1.0: 3")
		time.Sleep(time.Second)
		s.change()
		expect(t, "sent when the list shows nothing yet", o.take(), "")
		time.Sleep(time.Second)
		expect(t, "sent after settling", o.take(), "2.1: 4")
		time.Sleep(10 * time.Second)
		expect(t, "requests", s.requests(), "1.0 m1 apps, 2.0 m1 apps, 2.1 m1 apps")
	})
}

func TestEventsDuringAReadingMakeExactlyOneMore(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2, 3, 4, 5, 6}}, delay: time.Second}
	runSim(t, s, func(o *observed) {
		time.Sleep(5 * time.Second)
		o.take()
		s.requests()
		for range 50 {
			s.change()
		}
		time.Sleep(500 * time.Millisecond)
		for range 50 {
			s.change()
		}
		time.Sleep(10 * time.Second)
		expect(t, "requests", s.requests(), "5.0 m1 apps, 6.0 m1 apps")
		expect(t, "sent", o.take(), "6.0: 3, 7.0: 4")
	})
}

func TestPollsEachIntervalAndSendsSignsOfLife(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2}}}
	runSim(t, s, func(o *observed) {
		for range 130 {
			time.Sleep(time.Second)
			s.write("\r")
			s.write("\n")
		}
		expect(t, "sent while keep-alives come each second", o.take(), "0.1: 2, 15.1: 2 read 15.0 ago heard 0.1 ago, "+
			"30.1: 2 read 30.0 ago heard 0.1 ago, 45.1: 2 read 45.0 ago heard 0.1 ago, 60.1: 2 read 60.0 ago heard 0.1 ago, "+
			"75.1: 2 read 15.0 ago heard 0.1 ago, 90.1: 2 read 30.0 ago heard 0.1 ago, 105.1: 2 read 45.0 ago heard 0.1 ago, "+
			"120.1: 2 read 60.0 ago heard 0.1 ago")
		expect(t, "lists", s.requests(), "0.0 m1 events, 0.1 m1 apps, 60.1 m1 apps, 120.1 m1 apps")
	})
}

func TestFailuresAreToldOnceEachAndKeepTheServices(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2}}}
	runSim(t, s, func(o *observed) {
		time.Sleep(29 * time.Second)
		s.write("\r\n")
		time.Sleep(time.Second)
		s.write("\r\n")
		o.take()
		s.set("m1", -1)
		s.change()
		if got := o.take(); !strings.HasSuffix(got, "30.0: 2 (http://m1: trouble 1) read 29.9 ago heard 0.0 ago") {
			t.Errorf("sent when it begins to fail: %s", got)
		}
		time.Sleep(60 * time.Second)
		expect(t, "sent while it fails", o.take(), "")
		s.set("m1", -2)
		time.Sleep(20 * time.Second)
		if got := o.take(); !strings.Contains(got, ": 2 (http://m1: trouble 2) read ") || strings.Contains(got, ",") {
			t.Errorf("sent when the reason changes: %s", got)
		}
		s.set("m1", 2)
		time.Sleep(20 * time.Second)
		if got := o.take(); !strings.HasSuffix(got, ": 2") || strings.Contains(got, ",") {
			t.Errorf("sent when it ceases to fail: %s", got)
		}
	})
}

func TestFailureBeforeTheFirstSuccess(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {-1}}, deaf: true}
	runSim(t, s, func(o *observed) {
		expect(t, "sent", o.take(), "0.0: 0 (http://m1: trouble 1)")
		s.set("m1", 0)
		time.Sleep(time.Minute)
		if got := o.take(); !strings.Contains(got, ": 0 ! http://m1: no streams here; changes are seen each refresh interval (1m0s) only") {
			t.Errorf("sent after an empty cluster's answer, without a stream: %s", got)
		}
	})
}

func TestTheReplicaThatAnsweredIsAskedFirst(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {-1}, "m2": {2, 3}}}
	runSim(t, s, func(o *observed) {
		time.Sleep(time.Second)
		expect(t, "sent", o.take(), "0.1: 2")
		expect(t, "requests at first", s.requests(), "0.0 m1 events, 0.1 m1 apps, 0.1 m2 apps")
		s.change()
		expect(t, "sent", o.take(), "1.0: 3")
		expect(t, "requests then", s.requests(), "1.0 m2 apps")
	})
}

func TestMassLossIsConfirmed(t *testing.T) {
	for _, c := range []struct {
		name       string
		m1, m2     []int
		sent, reqs string
	}{
		{"half is no mass loss", []int{10, 5}, nil, "10.0: 5", "10.0 m1 apps"},
		{"more than half, confirmed", []int{10, 4}, nil, "11.0: 4", "10.0 m1 apps, 11.0 m1 apps"},
		{"everything, confirmed with even less", []int{10, 4, 0}, nil, "11.0: 0", "10.0 m1 apps, 11.0 m1 apps"},
		{"the only one", []int{1, 0}, nil, "11.0: 0", "10.0 m1 apps, 11.0 m1 apps"},
		{"one lie", []int{10, 0, 9}, nil, "11.0: 9", "10.0 m1 apps, 11.0 m1 apps"},
		{"more, but still few: the same rule", []int{10, 0, 3}, nil, "12.0: 3", "10.0 m1 apps, 11.0 m1 apps, 12.0 m1 apps"},
		{"another replica is asked", []int{10, 0}, []int{11}, "11.0: 11", "10.0 m1 apps, 11.0 m2 apps"},
		{"another replica confirms", []int{10, 0}, []int{0}, "11.0: 0", "10.0 m1 apps, 11.0 m2 apps"},
		{"another replica fails: the first confirms", []int{10, 0}, []int{-1}, "11.0: 0", "10.0 m1 apps, 11.0 m2 apps, 11.0 m1 apps"},
		{"nobody confirms: the old ones stay", []int{10, 0, -1, 10}, nil, "11.0: 10 (http://m1: trouble 1) read 10.9 ago heard 1.0 ago", "10.0 m1 apps, 11.0 m1 apps"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &sim{tasks: map[string][]int{"m1": c.m1}}
			if c.m2 != nil {
				s.tasks["m2"] = c.m2
			}
			runSim(t, s, func(o *observed) {
				time.Sleep(10 * time.Second)
				o.take()
				s.requests()
				s.change()
				time.Sleep(900 * time.Millisecond)
				first := o.take() // before anything can be confirmed
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				if c.sent[:2] == "12" {
					time.Sleep(time.Second)
				}
				expect(t, "sent", strings.Trim(first+o.take(), ", "), c.sent)
				expect(t, "requests", s.requests(), c.reqs)
			})
		})
	}
}

func TestASilentStreamIsReplacedByTheNextReplicas(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2, 3}, "m2": {2}}}
	runSim(t, s, func(o *observed) {
		for range 10 {
			time.Sleep(10 * time.Second)
			s.write("\r") // a byte is a sign of life
		}
		time.Sleep(34 * time.Second)
		synctest.Wait()
		if got := s.requests(); strings.Count(got, "events") != 1 {
			t.Errorf("a stream with keep-alives was replaced: %s", got)
		}
		o.take()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := s.requests(); !strings.HasPrefix(got, "135.") || !strings.Contains(got, " m2 events, ") || !strings.Contains(got, " m1 apps") {
			t.Errorf("after 35 s of silence: %s", got)
		}
	})
}

func TestAStreamThatEndsAtOnceIsRetriedWithBackoffAndNoReading(t *testing.T) {
	s := &sim{tasks: map[string][]int{"m1": {2}}, ending: true}
	runSim(t, s, func(o *observed) {
		time.Sleep(59 * time.Second)
		synctest.Wait()
		got := s.requests()
		if n := strings.Count(got, "events"); n < 6 || n > 14 {
			t.Errorf("%d subscriptions within 59 s: %s", n, got)
		}
		if n := strings.Count(got, "apps"); n != 1 {
			t.Errorf("%d readings within 59 s, want the first one alone: %s", n, got)
		}
	})
}

func TestTheStreamIsTriedAtTheLeaderAndEverywhere(t *testing.T) {
	for leader, want := range map[string]string{"": "0 1 2 0 1 2", "http://m1": "0 1 0 2 0 0", "http://m2:80": "1 2 1 0 1 1", "http://other": "0 1 2 0 1 2"} {
		f := follower{client: mustNew(t, "http://m1", "http://m2", "http://m3").client}
		if u, err := url.Parse(leader); err == nil && leader != "" {
			f.client.named.Store(u)
		}
		var got []string
		for try := range 6 {
			got = append(got, fmt.Sprint(f.choose(try)))
		}
		expect(t, "replicas, with the leader "+leader, strings.Join(got, " "), want)
	}
}

func TestBackoffDoublesUpToItsCeiling(t *testing.T) {
	b := backoff{first: 500 * time.Millisecond}
	for i, most := range []time.Duration{500, 1000, 2000, 4000, 8000, 15000, 15000} {
		most *= time.Millisecond
		if got := b.next(); got < most/2 || got > most {
			t.Errorf("pause %d is %s, want %s to %s", i, got, most/2, most)
		}
	}
	b.reset()
	if got := b.next(); got > 500*time.Millisecond {
		t.Errorf("after a reset: %s", got)
	}
}
