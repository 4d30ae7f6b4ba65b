package marathon

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// How long an event's word holds against answers. An answer may be older than the event: it was in flight, or it is a standby's
// that lags behind. A task that was said to be gone for a while stays gone; one that was said to run, and that
// Marathon never lists, is soon given up.
const (
	goneHolds  = 10 * time.Second
	aliveHolds = 2 * time.Second
)

// maxWords is how many words of one app may be about tasks that are not listed. They hold only against answers that are under way.
const maxWords = 100

// word is what events said of a task.
type word struct {
	task   string // its id; empty when the event named its instance alone
	until  time.Time
	gone   bool
	health verdict
	born   *task // what the event that said that it runs told of it
}

// verdict is what a health check or an event about it said.
type verdict uint8

const (
	silent verdict = iota
	sick
	well
)

// words are what events said of an app's tasks, by instance, since the answer that is known was asked for or shortly before.
// Fleets share them, and write to them in place: only one fleet hears events.
type words map[string]word

// of gives what was said of an instance, if it still holds.
func (w words) of(instance string, now time.Time) word {
	if said := w[instance]; now.Before(said.until) {
		return said
	}
	return word{}
}

// with gives the words with another one, in the same memory.
func (w words) with(instance string, said word) words {
	if w == nil {
		w = words{}
	}
	w[instance] = said
	return w
}

// holding gives those that hold against an answer that was asked for at that time.
func (w words) holding(asked time.Time) words {
	over := func(_ string, said word) bool { return !asked.Before(said.until) }
	for instance, said := range w {
		if over(instance, said) {
			next := maps.Clone(w)
			maps.DeleteFunc(next, over)
			return next
		}
	}
	return w
}

// correct gives the app as events have it, and whether that differs from what the answer said.
func (w words) correct(a app) (app, bool) {
	if len(w) == 0 {
		return a, false
	}
	differs := false
	tasks := make([]task, 0, len(a.tasks)+len(w))
	listed := make(map[string]bool, len(w))
	for _, t := range a.tasks {
		instance := instanceOf(t.ID)
		said, ok := w[instance]
		if !ok || said.task != "" && said.task != t.ID {
			tasks = append(tasks, t)
			continue
		}
		listed[instance] = true
		corrected, other := said.correct(t)
		differs = differs || other
		if !said.gone || !t.running() {
			tasks = append(tasks, corrected)
		}
	}
	for _, instance := range w.births(listed) {
		differs = true
		if born, _ := w[instance].correct(*w[instance].born); a.knows(born.Version) {
			tasks = append(tasks, born)
		}
	}
	a.tasks = tasks
	return a, differs
}

// births gives the instances that were said to run and are not listed, sorted.
func (w words) births(listed map[string]bool) []string {
	var out []string
	for instance, said := range w {
		if said.born != nil && !said.gone && !listed[instance] {
			out = append(out, instance)
		}
	}
	slices.Sort(out)
	return out
}

func (said word) correct(t task) (task, bool) {
	was := t
	if said.gone {
		return t, t.running()
	}
	if said.born != nil && !t.running() {
		t = *said.born
	}
	any, wasAlive := t.results()
	switch {
	case said.health == sick && (wasAlive || !any):
		t.Results = []result{{Alive: sick}}
	case said.health == well && !wasAlive:
		t.Results = []result{{Alive: well}}
	default:
		return t, was.running() != t.running()
	}
	return t, true
}

// knows reports whether tasks of a version have the app's current definition for sure. A version that is newer than the
// answer may have another one.
func (a app) knows(version string) bool {
	return version == "" || version == a.Version || version < a.Version && len(version) == len(a.Version) && a.runs(task{Version: version})
}

// instanceOf gives the instance of a task, as the events from 1.4 on name it: "X.<uuid>" is of X.marathon-<uuid>, "I._app.1" and
// "I.$anon.1" are of I.
func instanceOf(taskID string) string {
	for _, mark := range []string{"._app", ".$anon"} {
		if i := strings.LastIndex(taskID, mark); i >= 0 {
			if rest := taskID[i+len(mark):]; rest == "" || rest[0] == '.' {
				return taskID[:i]
			}
		}
	}
	i := strings.LastIndexByte(taskID, '.')
	if i < 0 || strings.HasPrefix(taskID[i+1:], "marathon-") || strings.HasPrefix(taskID[i+1:], "instance-") {
		return taskID
	}
	return taskID[:i+1] + "marathon-" + taskID[i+1:]
}
