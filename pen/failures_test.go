package pen

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
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
		f = f.again(now, 0)
		got = append(got, f.until.Sub(now))
	}
	const s = time.Second
	if want := []time.Duration{0, s / 2, s, 2 * s, 4 * s, 8 * s, 16 * s, 24 * s, 24 * s, 24 * s}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	f.count = 1 << 40
	if got := f.again(now, 0).until.Sub(now); got != longestWait*4/5 {
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
	for _, a := range []action{start, replace} {
		if !waits(a) {
			t.Errorf("%s does not wait", a)
		}
	}
	if waits(stop) || waits(nothing) || waits(update) {
		t.Error("what starts no pen waits")
	}
	if waits, want := d.failure(key).until.Sub(*now), shortestWait; waits < want || waits > want*5/4 {
		t.Errorf("it waits %v, want %v and some", waits, want)
	}
	*now = now.Add(shortestWait * 5 / 4)
	if waits(start) {
		t.Error("it waits for ever")
	}
	if got := d.failure(key).reason; got != "second" {
		t.Errorf("reason %q", got)
	}
	d.succeed(key, false)
	if got := d.failure(key).reason; got != "" {
		t.Errorf("served, with the problem %q", got)
	}
}

// ended gives a child that lived for a while.
func ended(d *Driver, p process, lived time.Duration, how error) {
	c := &child{process: p, began: d.now().Add(-lived), done: make(chan struct{}), err: how}
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
		{"adopted", 0, "words", failure{count: 3, pid: 9, died: "pen 9 has ended"}},
		{"soon", time.Second, "", failure{count: 4, pid: 9, died: "pen 9 has ended: exit status 1",
			reason: "pen 9 has ended: exit status 1; it is started again, with growing pauses"}},
		{"with last words", time.Second, "first\n\x1bsecond\n\n", failure{count: 4, pid: 9,
			died:   "pen 9 has ended: exit status 1; it said last: ?second",
			reason: "pen 9 has ended: exit status 1; it said last: ?second; it is started again, with growing pauses"}},
		{"after a while", steady, "", failure{count: 3, pid: 9, died: "pen 9 has ended: exit status 1"}},
	} {
		d, now := clocked(t)
		d.failures[key] = failure{count: 3, until: *now}
		if err := os.MkdirAll(d.files.dir(), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d.files.log(key), []byte(c.log), 0o600); err != nil {
			t.Fatal(err)
		}
		if c.lived > 0 {
			ended(d, p, c.lived, exec.Command("sh", "-c", "exit 1").Run())
		}
		d.noteDeath(p)
		c.want.until = *now
		if f := d.failure(key); f.count == 4 && !f.until.Before(now.Add(2*time.Second)) && !f.until.After(now.Add(2500*time.Millisecond)) {
			c.want.until = f.until
		}
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
	d.alarm, d.pens, d.verified = make(chan time.Duration, 1), make(chan []process, 1), map[catalog.Key]proof{}
	key := func(port uint16) catalog.Key { return catalog.Key{Port: port, Proto: catalog.UDP} }
	v := view{units: []unit{{key: key(9), want: dns(5), serving: process{pid: 12}}}}
	d.failures = map[catalog.Key]failure{key(1): {until: now.Add(4 * time.Second), reason: "x"}, key(2): {until: now.Add(3 * time.Second), reason: "y"},
		key(9): {until: now.Add(time.Second)}}
	d.remember(v)
	if wait := <-d.alarm; wait != 3*time.Second {
		t.Errorf("in %v, want 3s", wait)
	}
	if pens := <-d.pens; len(pens) != 1 || pens[0].pid != 12 {
		t.Errorf("watched: %v", pens)
	}
	*now = now.Add(time.Hour)
	d.remember(v)
	if wait := <-d.alarm; wait != 0 {
		t.Errorf("overdue: in %v", wait)
	}
	d.succeed(key(1), true)
	d.succeed(key(2), false)
	d.remember(v)
	if _, kept := d.failures[key(1)]; len(d.alarm) != 0 || kept {
		t.Errorf("nothing fails: alarms %d, failures %v", len(d.alarm), d.failures)
	}
}

func TestLongAgoIsForgotten(t *testing.T) {
	d, now := clocked(t)
	key := catalog.Key{Port: 53, Proto: catalog.UDP}
	for range 10 {
		d.fail(key, "x")
		*now = d.failure(key).until
	}
	*now = now.Add(time.Minute)
	d.fail(key, "x")
	if f := d.failure(key); f.count != 1 || f.until != *now {
		t.Errorf("after a minute without a failure: %+v", f)
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
