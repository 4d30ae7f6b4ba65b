package marathon

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/meltwater/proxymatic/sources/hostname"
)

// hostRetry is about hosts whose addresses could not be had when an answer came: they are asked for again beside everything else,
// and Marathon is not.
type hostRetry struct {
	at      time.Time // when; zero for not at all
	asking  bool
	answers chan map[string]hostname.Answer
}

// await has the hosts of apps asked for again, where a name server could not tell of them.
func (h *hostRetry) await(fleet *fleet, apps []app, now time.Time) {
	if h.at.IsZero() && slices.ContainsFunc(apps, fleet.unresolved) {
		h.at = now.Add(hostname.Retry)
	}
}

// next is when hosts are to be asked for; zero for not at all, or not before they have answered.
func (h *hostRetry) next() time.Time {
	if h.asking {
		return time.Time{}
	}
	return h.at
}

// askHosts asks for hosts when it is time to.
func (r *run) askHosts(ctx context.Context, now time.Time) {
	if at := r.hosts.next(); at.IsZero() || at.After(now) {
		return
	}
	r.hosts.asking = true
	hosts := r.fleet.unresolvedHosts()
	r.asking.Go(func() { r.hosts.answers <- r.reader.hosts.Resolve(ctx, hosts) })
}

// takeHosts takes in what came of it.
func (r *run) takeHosts(answers map[string]hostname.Answer, now time.Time) {
	r.hosts.asking, r.hosts.at = false, time.Time{}
	r.fleet.resolved(answers, now)
	if len(r.fleet.unresolvedHosts()) > 0 {
		r.hosts.at = now.Add(hostname.Retry)
	}
}

// unresolved reports whether an app has running tasks on hosts whose addresses could not be had.
func (f *fleet) unresolved(a app) bool {
	return slices.ContainsFunc(a.tasks, func(t task) bool { return t.running() && f.hosts[t.Host].Temporary })
}

// unresolvedHosts gives the hosts whose addresses could not be had.
func (f *fleet) unresolvedHosts() []string {
	var out []string
	for host, answer := range f.hosts {
		if answer.Temporary {
			out = append(out, host)
		}
	}
	return out
}

// resolved takes in what is known of hosts now.
func (f *fleet) resolved(answers map[string]hostname.Answer, now time.Time) {
	waited := maps.Clone(f.apps)
	maps.DeleteFunc(waited, func(_ string, e entry) bool { return !f.unresolved(e.app) })
	f.know(reading{hosts: answers})
	for id, e := range waited {
		f.set(e, now)
		f.shortNow(id, f.incomplete(e.app, now))
	}
}
