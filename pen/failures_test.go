package pen

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// clocked gives a driver whose clock stands still until it is moved.
func clocked(t *testing.T) (d *Driver, now *time.Time) {
	now = new(time.Time)
	*now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	d = &Driver{files: files{t.TempDir()}, now: func() time.Time { return *now }, failures: map[catalog.Key]failure{}, children: map[int]*child{}}
	return d, now
}

func TestPausesGrow(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var got []time.Duration
	var f failure
	for range 10 {
		f = f.again(now)
		got = append(got, f.until.Sub(now))
	}
	const s = time.Second
	if want := []time.Duration{0, s / 2, s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s, 30 * s}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	f.count = 1 << 40
	if got := f.again(now).until.Sub(now); got != longestWait {
		t.Errorf("after very many: %v", got)
	}
}

func TestAFailedServiceWaitsUnlessNothingIsToDo(t *testing.T) {
	d, now := clocked(t)
	w := dns(5)
	key := w.command.key
	waits := func(a action) bool { return d.waits(unit{key: key, want: w, plan: plan{action: a}}) }
	d.fail(key, "first")
	if waits(start) {
		t.Error("it is not tried again at once")
	}
	d.fail(key, "second")
	for _, a := range []action{start, replace, update} {
		if !waits(a) {
			t.Errorf("%s does not wait", a)
		}
	}
	if waits(stop) || waits(nothing) {
		t.Error("what is gone waits to be stopped")
	}
	if waits, want := d.failure(key).until.Sub(*now), shortestWait; waits != want {
		t.Errorf("it waits %v, want %v", waits, want)
	}
	*now = now.Add(shortestWait)
	if waits(start) {
		t.Error("it waits for ever")
	}
	if got := d.failure(key).reason; got != "second" {
		t.Errorf("reason %q", got)
	}
	d.succeed(key)
	if got := d.failure(key).reason; got != "" {
		t.Errorf("served, with the problem %q", got)
	}
}

// ended gives a child that lived for a while.
func ended(d *Driver, p process, lived time.Duration, how string) {
	c := &child{process: p, began: d.now().Add(-lived), done: make(chan struct{})}
	c.ended.Store(&how)
	close(c.done)
	d.children[p.pid] = c
}

func TestDeathsAreNoted(t *testing.T) {
	key := catalog.Key{Port: 53, Proto: catalog.UDP}
	p := process{pid: 9, key: key, id: "x"}
	for _, c := range []struct {
		name  string
		lived time.Duration // 0: it is no child
		log   string
		want  failure
	}{
		{"adopted", 0, "words", failure{count: 3, died: "pen 9 has ended"}},
		{"soon", time.Second, "", failure{count: 4, until: time.Date(2026, 1, 1, 0, 0, 2, 0, time.UTC), died: "pen 9 has ended: exit status 1",
			reason: "pen 9 has ended: exit status 1; it is started again, with growing pauses"}},
		{"with last words", time.Second, "first\n\x1bsecond\n\n", failure{count: 4, until: time.Date(2026, 1, 1, 0, 0, 2, 0, time.UTC),
			died:   "pen 9 has ended: exit status 1; it said last: ?second",
			reason: "pen 9 has ended: exit status 1; it said last: ?second; it is started again, with growing pauses"}},
		{"after a while", steady, "", failure{died: "pen 9 has ended: exit status 1"}},
	} {
		d, _ := clocked(t)
		d.failures[key] = failure{count: 3}
		if err := os.MkdirAll(d.files.dir(), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d.files.log(key), []byte(c.log), 0o600); err != nil {
			t.Fatal(err)
		}
		if c.lived > 0 {
			ended(d, p, c.lived, "exit status 1")
		}
		d.noteDeath(p)
		if got := d.failure(key); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
		d.noteDeath(p) // Plan looks first, then Apply
		if got := d.failure(key); got != c.want {
			t.Errorf("%s, noted twice: got %+v, want %+v", c.name, got, c.want)
		}
		if len(d.children) > 0 {
			t.Errorf("%s: children %v", c.name, d.children)
		}
	}
}

func TestTheNextPassIsAskedForWhenTheFirstServiceIsDue(t *testing.T) {
	d, now := clocked(t)
	d.alarm, d.pids, d.verified = make(chan time.Duration, 1), make(chan []int, 1), map[catalog.Key]proof{}
	v := view{want: map[catalog.Key]*wanted{}}
	for port := range uint16(5) {
		w := dns(5)
		w.service.Port = port
		v.want[w.service.Key] = w
		v.units = append(v.units, unit{key: w.service.Key, want: w})
		d.failures[w.service.Key] = failure{count: 1, until: now.Add(time.Duration(port) * time.Second), reason: "x"}
	}
	v.want[catalog.Key{Port: 1, Proto: catalog.UDP}].refused = "nothing will change that"
	delete(v.want, catalog.Key{Port: 2, Proto: catalog.UDP}) // gone
	results := make([]result, 5)
	results[0].process.pid = 12 // served
	d.remember(v, results)
	if wait := <-d.alarm; wait != 3*time.Second {
		t.Errorf("in %v, want 3s", wait)
	}
	if pids := <-d.pids; !slices.Equal(pids, []int{12}) {
		t.Errorf("watched: %v", pids)
	}
	if _, kept := d.failures[catalog.Key{Port: 2, Proto: catalog.UDP}]; kept {
		t.Error("the failures of a service that is gone are kept")
	}
	*now = now.Add(time.Hour)
	d.remember(v, results)
	if wait := <-d.alarm; wait != 0 {
		t.Errorf("overdue: in %v", wait)
	}
	for i := range results {
		results[i].process.pid = 1 + i
	}
	delete(v.want, v.units[4].key)
	d.remember(view{want: map[catalog.Key]*wanted{}}, nil)
	if len(d.alarm) != 0 || len(d.failures) != 0 {
		t.Errorf("nothing is wanted: alarms %d, failures %v", len(d.alarm), d.failures)
	}
}

func TestLastWordsAreShortAndPrintable(t *testing.T) {
	d, _ := clocked(t)
	key := catalog.Key{Port: 53, Proto: catalog.UDP}
	if got := d.files.lastWords(key); got != "" {
		t.Errorf("without a log: %q", got)
	}
	if err := os.MkdirAll(d.files.dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{"": "", "\n": "", "a\nb\x1b[1m": "b?[1m", strings.Repeat("x", 5000): strings.Repeat("x", maxLine)} {
		if err := os.WriteFile(d.files.log(key), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := d.files.lastWords(key); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestOnlyTheLatestValueWaits(t *testing.T) {
	ch := make(chan int, 1)
	for i := range 3 {
		latest(ch, i)
	}
	if got := fmt.Sprint(<-ch, len(ch)); got != "2 0" {
		t.Errorf("got %s", got)
	}
}
