package fakemarathon

import (
	"slices"
	"time"
)

// Times says how often a fault strikes: 0 never, n the next n times, a negative number always.
type Times int

func (t *Times) take() bool {
	if *t > 0 {
		*t--
		return true
	}
	return *t < 0
}

// Standby is what a replica that is not the leader does with requests.
type Standby string

// The ways of a standby. Marathon redirects only the event stream, and only from 1.7 on; the rest is proxied.
const (
	StandbyByRelease   Standby = ""
	StandbyProxies     Standby = "proxy"
	StandbyRedirects   Standby = "redirect" // everything
	StandbyOwnAnswer   Standby = "own"      // from its own, empty, state: a 0.8 standby that knows no leader
	StandbyEmptyAnswer Standby = "empty"    // 200 and nothing: a 0.8 standby whose leader just died
)

// Faults are the switches of one replica. The zero value is a healthy one. Durations are nanoseconds in JSON.
type Faults struct {
	BasicAuth        string    `json:"basicAuth"`        // "user:password" is asked for on everything
	Token            string    `json:"token"`            // "Authorization: token=" of this is asked for on everything
	Bearer           string    `json:"bearer"`           // "Authorization: Bearer" and this is asked for on everything
	Unavailable      Times     `json:"unavailable"`      // 503
	UnavailableUntil time.Time `json:"unavailableUntil"` // 503 until then
	Standby          Standby   `json:"standby"`

	EmptyBody  Times           `json:"emptyBody"`  // JSON answers: 200 and nothing
	Truncated  Times           `json:"truncated"`  // JSON answers: half of it, with the right length of the half
	WrongType  Times           `json:"wrongType"`  // JSON answers: an HTML page
	PlainType  Times           `json:"plainType"`  // JSON answers: as they should be, but called text/plain
	CutOff     Times           `json:"cutOff"`     // JSON answers: the connection breaks after half of the bytes
	EmptyLists Times           `json:"emptyLists"` // {"apps":[]} and {"tasks":[]}
	HalfTasks  Times           `json:"halfTasks"`  // every second task is missing: a leader that has not heard of all agents
	Stale      bool            `json:"stale"`      // answers from the state at the moment this was switched on
	NoVersions bool            `json:"noVersions"` // 404 for all definitions but the current one: pruned
	NoGzip     bool            `json:"noGzip"`
	Delay      time.Duration   `json:"delay"` // between reading the state and answering, for /v2/apps... and /v2/tasks
	Hold       <-chan struct{} `json:"-"`     // the same, until the channel is closed
	HoldLists  <-chan struct{} `json:"-"`     // the same, for /v2/apps and /v2/tasks only: single apps are told at once

	KeepAlive  time.Duration `json:"keepAlive"`  // between empty lines on new streams; 0 means 10 s
	StreamEOF  Times         `json:"streamEOF"`  // 200, then the end: a leader that is not ready
	StreamPage Times         `json:"streamPage"` // 200 and an HTML page instead of a stream
	Silent     bool          `json:"silent"`     // streams stay open, nothing is written, events are lost
	DropEvents Times         `json:"dropEvents"` // events that never reach this replica's streams
	Queue      int           `json:"queue"`      // events that a new stream buffers; 0 means as the release does

	NoCallbacks bool `json:"noCallbacks"` // started without --event_subscriber http_callback
}

// SetFaults changes the switches of all replicas, also of those that come later. Counts are per replica. The function
// must not call the cluster.
func (c *Cluster) SetFaults(change func(*Faults)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.faults)
	for _, r := range c.replicas {
		r.setFaults(change)
	}
}

// SetFaults changes the switches of this replica only. A standby that proxies applies its own faults, not the leader's.
func (r *Replica) SetFaults(change func(*Faults)) {
	r.cluster.mu.Lock()
	defer r.cluster.mu.Unlock()
	r.setFaults(change)
}

func (r *Replica) setFaults(change func(*Faults)) {
	was := r.faults.Stale
	change(&r.faults)
	if r.faults.Stale && !was {
		r.frozen = r.cluster.clone()
	}
}

// half gives the state without every second task. The apps are as they were: they say how many there should be.
func (s state) half() state {
	out := s.clone()
	for id, a := range out.apps {
		if d := a.current(); d.Instances == 0 {
			d.Instances = len(slices.DeleteFunc(slices.Clone(s.tasks), func(t Task) bool { return t.AppID != id }))
			a.versions = append(slices.Clone(a.versions[:len(a.versions)-1]), d)
			out.apps[id] = a
		}
	}
	out.tasks = nil
	for i, t := range s.tasks {
		if i%2 == 0 {
			out.tasks = append(out.tasks, t)
		}
	}
	return out
}
