package pen

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	steady       = 10 * time.Second // what has gone well for so long is begun at once when it fails
	shortestWait = 500 * time.Millisecond
	longestWait  = 30 * time.Second
)

// failure is what went wrong with a service lately.
type failure struct {
	count  int       // in a row
	until  time.Time // when a pen is started for it again
	reason string    // what is wrong now; empty when nothing is
	pid    int       // of its last pen that ended
	died   string    // how that ended; empty when another serves
}

func (d *Driver) failure(key catalog.Key) failure {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failures[key]
}

// fail notes that a service could not be brought to what is wanted.
func (d *Driver) fail(key catalog.Key, reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.failures[key]
	f.reason = reason
	d.failures[key] = f.again(d.now(), rand.Float64())
}

// succeed notes that a service is as it is wanted, or gone.
func (d *Driver) succeed(key catalog.Key, gone bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.failures[key]
	if gone {
		delete(d.failures, key)
	} else if ok {
		f.reason, f.died = "", ""
		d.failures[key] = f
	}
}

// noteDeath notes how a pen has ended, once.
func (d *Driver) noteDeath(p process) {
	d.mu.Lock()
	c := d.children[p.pid]
	delete(d.children, p.pid)
	noted := d.failures[p.key].pid == p.pid
	d.mu.Unlock()
	if noted {
		return // by a Plan
	}
	died, early := fmt.Sprintf("pen %d has ended", p.pid), false
	if c != nil {
		died, early = died+": "+d.files.ending(c), d.now().Sub(c.began) < steady
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.failures[p.key]
	f.pid, f.died = p.pid, died
	if early {
		f.reason = died + "; it is started again, with growing pauses"
		f = f.again(d.now(), rand.Float64())
	}
	d.failures[p.key] = f
}

// again counts a failure, and sets when the service is tried again: once at once, and then with growing pauses. random is in
// [0, 1).
func (f failure) again(now time.Time, random float64) failure {
	if now.Sub(f.until) > steady {
		f.count = 0
	}
	f.until = now
	if f.count > 0 {
		wait := min(longestWait*4/5, shortestWait<<min(f.count-1, 10))
		f.until = now.Add(wait + time.Duration(float64(wait)/4*random))
	}
	f.count++
	return f
}
