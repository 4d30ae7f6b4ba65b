package registrator

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// remembering is a store that only knows its history.
type remembering struct {
	store
	events []event
}

func (r remembering) history(_ context.Context, after, until uint64, use func([]event) bool) error {
	for _, e := range r.events {
		if e.at > after && e.at <= until && use([]event{e}) {
			return nil
		}
	}
	return errForgotten
}

func testFollower(history ...event) *follower {
	return &follower{store: remembering{events: history}, mail: &mail{wake: make(chan struct{}, 1)}, patience: time.Minute, timeout: time.Second,
		kept: make(map[string]string), doubted: make(map[string]bool)}
}

// says is what a follower believes: its keys, those that are doubted with a question mark.
func (f *follower) says() string {
	keys := slices.Sorted(maps.Keys(f.kept))
	for i, key := range keys {
		if f.doubted[key] {
			keys[i] += "?"
		}
	}
	return strings.Join(keys, " ")
}

func gone(path string, at uint64) event {
	return event{at: at, change: change{path: path, gone: true}}
}

func set(path string, at uint64) event { return event{at: at, change: change{path: path, value: "v"}} }

func keys(at uint64, paths ...string) listing {
	l := listing{position: position{cluster: "c", at: at}, values: make(map[string]string)}
	for _, path := range paths {
		l.values[path] = "v"
	}
	return l
}

// What a store lacks is removed or doubted.
func TestWhatAStoreLacks(t *testing.T) {
	wiped := keys(3)
	other := keys(9, "n")
	other.cluster = "other"
	for _, c := range []struct {
		name    string
		history []event
		then    any // a listing, events, or a time to wait, in any number
		more    []any
		want    string
	}{
		{"a list that lacks some is believed", nil, keys(9, "a"), nil, "a"},
		{"a list that is empty is not", nil, keys(9), nil, "a? b?"},
		{"unless the history tells of each end", []event{gone("a", 6), gone("b", 7)}, keys(9), nil, ""},
		{"or of that of the whole directory", []event{{at: 6, directory: true, change: change{gone: true}}}, keys(9), nil, ""},
		{"of each", []event{gone("a", 6)}, keys(9), nil, "a? b?"},
		{"events from before we knew the keys do not count", []event{gone("a", 4), gone("b", 5)}, keys(9), nil, "a? b?"},
		{"a burst of events that takes all is believed", nil, []event{gone("a", 6), gone("b", 7)}, nil, ""},
		{"so is an expired directory", nil, []event{{at: 6, directory: true, change: change{gone: true}}}, nil, ""},
		{"nothing is missing after that", nil, []event{gone("a", 6), gone("b", 7)}, []any{keys(9)}, ""},
		{"a store that went back is not believed", nil, wiped, nil, "a? b?"},
		{"nor another cluster, even if it has keys", nil, other, nil, "a? b? n"},
		{"nor does a history that went back count", []event{gone("a", 6), gone("b", 7)}, wiped, nil, "a? b?"},
		{"what is written again is as good as any", nil, wiped, []any{[]event{set("a", 4)}}, "a b?"},
		{"in a list too", nil, wiped, []any{keys(4, "a")}, "a b?"},
		{"what is deleted is gone", nil, wiped, []any{[]event{set("a", 4), gone("b", 5)}}, "a"},
		{"an empty store takes nothing away, however long", nil, wiped, []any{24 * time.Hour, keys(4)}, "a? b?"},
		{"patience begins with the first key", nil, wiped, []any{24 * time.Hour, keys(4, "a"), 59 * time.Second, keys(5, "a")}, "a b?"},
		{"and ends", nil, wiped, []any{keys(4, "a"), 61 * time.Second, keys(5, "a")}, "a"},
		{"it begins with an event as well", nil, wiped, []any{[]event{set("a", 4)}, 61 * time.Second, keys(5, "a")}, "a"},
		{"and anew when it is wiped again", nil, wiped, []any{keys(4, "a"), 59 * time.Second, keys(2), 59 * time.Second, keys(3, "a")}, "a b?"},
		{"an ordinary list removes no doubt", nil, wiped, []any{keys(4, "a", "n"), keys(5, "a")}, "a b?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := testFollower(c.history...)
				f.list(t.Context(), keys(5, "a", "b"))
				for _, step := range append([]any{c.then}, c.more...) {
					switch step := step.(type) {
					case listing:
						f.list(t.Context(), step)
					case []event:
						f.events(step)
					case time.Duration:
						time.Sleep(step) // synctest's time
					}
				}
				if got := f.says(); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		})
	}
}

func TestStaleEventsAreCountedAndNotTold(t *testing.T) {
	f := testFollower()
	f.list(t.Context(), keys(5, "a", "b"))
	f.mail.read(f.news, f.doubts())
	f.news = nil
	f.mail.take()
	if n := f.events([]event{set("a", 6), set("n", 7), gone("x", 8), set("b", 9)}); n != 3 {
		t.Errorf("%d are stale, want 3", n)
	}
	if diff := cmp.Diff([]change{{path: "n", value: "v"}}, f.mail.take().changes, cmp.AllowUnexported(change{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestThereAreMany(t *testing.T) {
	start := time.Now()
	c := counter{since: start}
	for _, step := range []struct {
		n     int
		after time.Duration
		want  bool
	}{
		{300, 500 * time.Millisecond, false},
		{300, time.Second, true},
		{1, 1500 * time.Millisecond, true},
		{1, 2 * time.Second, false},
		{400, 3 * time.Second, false},
	} {
		if c.saw(step.n, start.Add(step.after)); c.many != step.want {
			t.Errorf("after %s: many is %t", step.after, c.many)
		}
	}
}

// However a board came to its keys, it says what a new one would.
func TestABoardDependsOnItsKeysAlone(t *testing.T) {
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 1))
		b := newBoard("/services", 2)
		var have [2]map[string]string
		have[0], have[1] = make(map[string]string), make(map[string]string)
		for range 100 {
			for range 1 + random.IntN(3) {
				c := change{path: fmt.Sprintf("%c%s/h:c%d:%d", 'a'+random.IntN(3), []string{"", "@2"}[random.IntN(2)], random.IntN(2), random.IntN(4)),
					value: fmt.Sprintf("10.0.0.%d:1", random.IntN(3)), gone: random.IntN(3) == 0}
				store := random.IntN(2)
				b.apply(store, c)
				if have[store][c.path] = c.value; c.gone {
					delete(have[store], c.path)
				}
			}
			before := canonical(b.services, b.problems())
			handedOn, text := b.services, canonical(b.services, nil)
			said := b.build()
			fresh := newBoard("/services", 2)
			for store := range have {
				for path, value := range have[store] {
					fresh.apply(store, change{path: path, value: value})
				}
			}
			fresh.build()
			got, want := canonical(b.services, b.problems()), canonical(fresh.services, fresh.problems())
			if got != want {
				t.Fatalf("seed %d: got\n%s\nwant\n%s", seed, got, want)
			}
			if got != before && !said {
				t.Fatalf("seed %d: a change was not told:\n%s\nthen\n%s", seed, before, got)
			}
			if now := canonical(handedOn, nil); now != text {
				t.Fatalf("seed %d: what was handed on was written to", seed)
			}
		}
	}
}
