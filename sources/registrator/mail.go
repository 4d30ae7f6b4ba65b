package registrator

import (
	"sync"
	"time"
)

// mail is what a follower tells the source. Whatever comes while the source is busy waits in it together.
type mail struct {
	wake chan<- struct{} // the source's; it holds one mark

	lock sync.Mutex
	held report
}

// report is what a follower has said.
type report struct {
	changes []change  // since the last report
	ready   bool      // the store was read once, or is known to be absent
	trouble string    // why the store cannot be read now
	doubts  doubts    // whether there are doubted keys
	heard   time.Time // when the store gave a sign of life
}

// doubts tells of keys that count although the store has them no more.
type doubts struct {
	any   bool
	empty bool      // the store has no key at all
	until time.Time // when they go, unless it is empty
}

// take gives what came since the last call.
func (m *mail) take() report {
	m.lock.Lock()
	defer m.lock.Unlock()
	r := m.held
	m.held.changes = nil
	return r
}

// deliver says what a stream gave.
func (m *mail) deliver(changes []change, d doubts) {
	m.tell(func(r *report) bool {
		news := len(changes) > 0 || r.doubts != d
		r.changes, r.doubts, r.heard = append(r.changes, changes...), d, time.Now()
		return news
	})
}

// read says that the store was read, or is known to be absent, and what came of it.
func (m *mail) read(changes []change, d doubts) {
	m.tell(func(r *report) bool {
		news := !r.ready || r.trouble != "" || len(changes) > 0 || r.doubts != d
		r.changes, r.doubts, r.heard = append(r.changes, changes...), d, time.Now()
		r.ready, r.trouble = true, ""
		return news
	})
}

func (m *mail) fail(trouble string) {
	m.tell(func(r *report) bool {
		news := r.trouble != trouble
		r.trouble = trouble
		return news
	})
}

func (m *mail) alive() {
	m.tell(func(r *report) bool {
		r.heard = time.Now()
		return false
	})
}

// tell changes the report, and wakes the source if that is news.
func (m *mail) tell(what func(*report) bool) {
	m.lock.Lock()
	news := what(&m.held)
	m.lock.Unlock()
	if news {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}
