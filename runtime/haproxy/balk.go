package haproxy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	balkFirst   = 5 * time.Second // after which a refused command is tried again; doubled each time
	balkSlowest = 5 * time.Minute
)

// balk is a change of a server that HAProxy has refused for as often as a pass tries. It waits for its time, so that it does not hold up
// what others need, nor cost them a pass that fails.
type balk struct {
	step  step
	words string // HAProxy's
	delay time.Duration
	until time.Time
	trial bool // it is tried again
}

// id tells one change from another.
func (s step) id() string { return s.key.String() + " " + s.change.Detail }

// patient reports whether a change may wait: what takes something away, or opens a service, may not.
func (s step) patient() bool { return s.change.Server != "" && s.change.Action != removeServer }

// withoutBalks gives the steps that do not wait, and all that were refused before.
func (d *Driver) withoutBalks(steps []step) (now []step, balked map[string]bool) {
	if len(d.balks) == 0 {
		return steps, nil
	}
	balked = map[string]bool{}
	return slices.DeleteFunc(steps, func(s step) bool {
		b := d.balks[s.id()]
		balked[s.id()] = b != nil
		return b != nil && !b.trial
	}), balked
}

// refusedStep is a change that HAProxy refused.
type refusedStep struct{ id, words string }

// letWait lets changes wait that were refused throughout a pass, and gives those that are to be told as errors.
func (d *Driver) letWait(left []step, refused []refusedStep) []step {
	return slices.DeleteFunc(left, func(s step) bool {
		i := slices.IndexFunc(refused, func(r refusedStep) bool { return r.id == s.id() })
		if i < 0 || !s.patient() {
			return false
		}
		b := &balk{step: s, words: refused[i].words, delay: balkFirst}
		if was := d.balks[s.id()]; was != nil {
			b.delay = min(2*was.delay, balkSlowest)
		}
		b.until = d.now().Add(b.delay)
		d.balks[s.id()] = b
		return true
	})
}

// expireBalks lets changes be tried again whose time has come. Their services are looked at for that.
func (d *Driver) expireBalks() {
	for _, b := range d.balks {
		if b.trial || d.now().Before(b.until) {
			continue
		}
		if b.trial = true; d.verified.find(b.step.key) != nil {
			d.verified = d.verified.put(&section{key: b.step.key})
		}
	}
}

// forgetBalks forgets changes of services that were looked at and need them no more.
func (d *Driver) forgetBalks(v view) {
	maps.DeleteFunc(d.balks, func(id string, b *balk) bool {
		return (v.keys == nil || slices.Contains(v.keys, b.step.key)) && !v.balked[id]
	})
}

// balkProblems tells of refused changes: of each service the first.
func (d *Driver) balkProblems() []catalog.Problem {
	var out []catalog.Problem
	more := map[string]int{}
	for _, id := range slices.Sorted(maps.Keys(d.balks)) {
		b := d.balks[id]
		if more[b.step.change.Service]++; more[b.step.change.Service] == 1 {
			out = append(out, catalog.Problem{Source: d.Name(), Subject: b.step.change.Service, Reason: fmt.Sprintf("HAProxy answers %q to %q",
				b.words, b.step.change.Detail)})
		}
	}
	for i, p := range out {
		if n := more[p.Subject] - 1; n > 0 {
			p.Reason += fmt.Sprintf(", and refuses %d other changes", n)
		}
		out[i].Reason = p.Reason + "; the rest of the service is served; correct the service, or its servers' line in the template: " +
			"it is tried again when it changes, and now and then"
	}
	slices.SortFunc(out, func(a, b catalog.Problem) int { return strings.Compare(a.Subject, b.Subject) })
	return out
}
