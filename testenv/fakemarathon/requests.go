package fakemarathon

import (
	"net/http"
	"strings"
)

// Asked counts the requests that were answered with 200, by what they were for. All others, such as those that a standby
// redirected, count as Refused only.
type Asked struct {
	Lists    int // all apps, or all tasks
	Apps     int // one app, or its tasks
	Versions int // older definitions
	Streams  int // of events
	Others   int // any other path or method
	Refused  int
}

// Asked counts the requests to all replicas so far. What a standby asks the leader for, to answer itself, does not count.
func (c *Cluster) Asked() Asked {
	c.mu.Lock()
	defer c.mu.Unlock()
	total := Asked{}
	for _, r := range c.replicas {
		total = total.add(r.asked, 1)
	}
	return total
}

// Since gives what was asked after an earlier count.
func (a Asked) Since(before Asked) Asked { return a.add(before, -1) }

func (a Asked) add(o Asked, times int) Asked {
	return Asked{Lists: a.Lists + times*o.Lists, Apps: a.Apps + times*o.Apps, Versions: a.Versions + times*o.Versions,
		Streams: a.Streams + times*o.Streams, Others: a.Others + times*o.Others, Refused: a.Refused + times*o.Refused}
}

// count counts a request that got an answer of this status.
func (a *Asked) count(req *http.Request, status int) {
	path := req.URL.Path
	switch {
	case status != http.StatusOK:
		a.Refused++
	case req.Method != http.MethodGet:
		a.Others++
	case path == "/v2/apps" || path == "/v2/tasks":
		a.Lists++
	case strings.HasPrefix(path, "/v2/apps/") && strings.Contains(path, "/versions/"):
		a.Versions++
	case strings.HasPrefix(path, "/v2/apps/"):
		a.Apps++
	case path == "/v2/events":
		a.Streams++
	default:
		a.Others++
	}
}
