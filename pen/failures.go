package pen

import (
	"fmt"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	steady       = 10 * time.Second // a pen that has lived so long is started again at once when it ends
	shortestWait = 500 * time.Millisecond
	longestWait  = 30 * time.Second
)

// failure is what went wrong with a service lately.
type failure struct {
	count  int       // in a row
	until  time.Time // when it is tried again
	reason string    // what is wrong now; empty when it is served
	died   string    // how its last pen ended
}

func (d *Driver) failure(key catalog.Key) failure {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failures[key]
}

// fail notes that a service could not be served as it is wanted.
func (d *Driver) fail(key catalog.Key, reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.failures[key]
	f.reason = reason
	d.failures[key] = f.again(d.now())
}

// succeed notes that a service is served. How often it failed is forgotten when its pen has lived for a while.
func (d *Driver) succeed(key catalog.Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f, ok := d.failures[key]; ok {
		f.reason, f.died = "", ""
		d.failures[key] = f
	}
}

// noteDeath notes how a pen has ended, once.
func (d *Driver) noteDeath(p process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.failures[p.key]
	end := fmt.Sprintf("pen %d has ended", p.pid)
	if strings.HasPrefix(f.died, end) {
		return // a Plan has noted it already
	}
	f.died = end
	if c := d.children[p.pid]; c != nil {
		delete(d.children, p.pid)
		<-c.done // it is gone already
		f.died += ": " + *c.ended.Load()
		if words := d.files.lastWords(p.key); words != "" {
			f.died += "; it said last: " + words
		}
		if d.now().Sub(c.began) < steady {
			f.reason = f.died + "; it is started again, with growing pauses"
			f = f.again(d.now())
		} else {
			f.count = 0
		}
	}
	d.failures[p.key] = f
}

// again counts a failure, and sets when the service is tried again: once at once, and then with growing pauses.
func (f failure) again(now time.Time) failure {
	f.until = now
	if f.count > 0 {
		f.until = now.Add(min(longestWait, shortestWait<<min(f.count-1, 10)))
	}
	f.count++
	return f
}
