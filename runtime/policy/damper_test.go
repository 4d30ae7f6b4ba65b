package policy

import (
	"strings"
	"testing"
	"time"
)

func TestDamper(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	type step struct {
		at   int // seconds
		told string
		want string
		next int // when there is something to let in; 0 for never
	}
	// flaps lets server 2 go and come again each second.
	flaps := func(from, times int, rest string) []step {
		var out []step
		for i := range times {
			out = append(out, step{from + 2*i, "80:" + rest, "80:" + rest, 0}, step{from + 2*i + 1, "80:" + rest + ",2", "80:" + rest + ",2", 0})
		}
		return out
	}
	out := func(steps []step, want string, next int) []step {
		steps[len(steps)-1].want, steps[len(steps)-1].next = want, next
		return steps
	}
	for name, c := range map[string]struct {
		limit int
		steps []step
	}{
		"as often as may be":       {3, flaps(1, 3, "1")},
		"too often":                {3, append(out(flaps(1, 4, "1"), "80:1", 18), step{17, "80:1,2", "80:1", 18}, step{18, "80:1,2", "80:1,2", 0})},
		"without limit":            {0, flaps(1, 40, "1")},
		"slowly":                   {1, []step{{0, "80:1", "80:1", 0}, {10, "80:1,2", "80:1,2", 0}, {20, "80:1", "80:1", 0}, {70, "80:1,2", "80:1,2", 0}}},
		"again, for twice as long": {3, append(out(flaps(1, 4, "1"), "80:1", 18), out(flaps(20, 4, "1"), "80:1", 47)...)},
		"later, as at first":       {3, append(out(flaps(1, 4, "1"), "80:1", 18), out(flaps(1000, 4, "1"), "80:1", 1017)...)},
		"the only one is let in":   {1, []step{{0, "80:1", "80:1", 0}, {1, "80:2", "80:2", 0}, {2, "80:1", "80:1", 0}, {3, "80:2", "80:2", 0}, {4, "80:1,2", "80:2", 14}}},
		"all flap, the first to be let in serves": {1, []step{{0, "80:", "80:", 0}, {1, "80:1,2", "80:1,2", 0}, {2, "80:1", "80:1", 0}, {3, "80:1,2", "80:1", 13},
			{4, "80:2", "80:2", 0}, {5, "80:1,2", "80:2", 15}, {13, "80:1,2", "80:2", 15}, {15, "80:1,2", "80:1,2", 0}}},
		"another service's is another": {1, []step{{0, "", "", 0}, {1, "80:1,2", "80:1,2", 0}, {2, "80:1 81:2,3", "80:1 81:2,3", 0}}},
	} {
		t.Run(name, func(t *testing.T) {
			d := &Damper{Limit: c.limit}
			d.Next(list(c.steps[0].told), nil, start)
			for _, s := range c.steps {
				got, next := d.Next(list(s.told), nil, start.Add(time.Duration(s.at)*time.Second))
				seconds := 0
				if !next.IsZero() {
					seconds = int(next.Sub(start) / time.Second)
				}
				if short(got) != s.want || seconds != s.next {
					t.Fatalf("after %d s %q, next at %d; want %q at %d", s.at, short(got), seconds, s.want, s.next)
				}
				if n := len(d.Problems("test")); n != strings.Count(s.told, ",")-strings.Count(s.want, ",") {
					t.Errorf("after %d s %d problems", s.at, n)
				}
			}
		})
	}
}

func TestDamperHoldsNobodyOutForWhatIsHeld(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	all, without := list("80:1,2,3"), list("80:1,3")
	held := func(servers ...int) (out []Held) {
		for _, i := range servers {
			out = append(out, Held{Service: all[0], Server: all[0].Servers[i]})
		}
		return out
	}
	for want, held := range map[string][]Held{"80:1,3": held(0), "80:1,2,3": held(0, 2)} {
		d := &Damper{Limit: 1}
		for range 2 {
			d.Next(without, nil, now)
			d.Next(all, nil, now)
		}
		d.Next(without, nil, now)
		if got, _ := d.Next(all, held, now); short(got) != want {
			t.Errorf("%d servers are held: %q, want %q", len(held), short(got), want)
		}
	}
}

func TestDamperForgetsWhatIsQuiet(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	d := &Damper{Limit: 3}
	d.Next(nil, nil, now)
	for range 2 {
		d.Next(list("80:1,2,3"), nil, now)
		d.Next(nil, nil, now)
	}
	if len(d.flaps) != 3 {
		t.Errorf("%d are remembered", len(d.flaps))
	}
	d.Next(list("81:1"), nil, now.Add(sweepSpan))
	if len(d.flaps) != 1 {
		t.Errorf("%d are remembered after a minute", len(d.flaps))
	}
}
