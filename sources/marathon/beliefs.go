package marathon

import "time"

// beliefs are the tasks that were seen alive. Marathon forgets the results of its health checks when another replica leads,
// and a missing result is not a dead one: such a task is believed to be alive until a result says otherwise, for as long
// as its checks need to give one.
type beliefs map[string]belief

type belief struct {
	seen  time.Time // when a task of this name was in an answer
	until time.Time // zero while there are results
	away  bool      // the list lacked it
}

// shortestBelief is the least time that a new leader is given to begin its checks; longestAway is how long a task stays believed
// that lists lack: around a failover they may be short.
const (
	shortestBelief = time.Minute
	longestAway    = 5 * time.Minute
)

// patience is how long a task's checks may need to give a result again: the grace period, or three intervals.
func (d definition) patience() time.Duration {
	p := shortestBelief
	for _, c := range d.HealthChecks {
		p = max(p, c.grace, 3*c.interval)
	}
	return p
}

// learn takes the results that an app's tasks have now.
func (b beliefs) learn(a app, now time.Time) {
	for _, t := range a.tasks {
		results, alive := t.results()
		known, ok := b[t.ID]
		switch {
		case t.running() && alive:
			b[t.ID] = belief{seen: now}
		case !t.running(), results, ok && !b.alive(t.ID, now):
			delete(b, t.ID)
		case ok:
			if known.until.IsZero() || known.away {
				known.until, known.away = now.Add(a.patience()), false
			}
			known.seen = now
			b[t.ID] = known
		}
	}
}

// forget drops what is believed no more, and counts the time of tasks that the whole list lacked.
func (b beliefs) forget(now time.Time) {
	for id, known := range b {
		switch {
		case known.until.IsZero() && known.seen.Before(now):
			known.until, known.away = now.Add(longestAway), true
			b[id] = known
		case !known.until.IsZero() && !now.Before(known.until):
			delete(b, id)
		}
	}
}

func (b beliefs) alive(id string, now time.Time) bool {
	known, ok := b[id]
	return ok && (known.until.IsZero() || now.Before(known.until))
}
