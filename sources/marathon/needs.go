package marathon

import (
	"maps"
	"net/netip"
	"slices"
)

// versionsNeeded gives the older versions that running tasks belong to, sorted: their definitions pair the tasks' ports.
func versionsNeeded(apps []app) []versionKey {
	needed := make(map[versionKey]bool)
	for _, a := range apps {
		for _, t := range a.tasks {
			if t.running() && !a.runs(t) {
				needed[versionKey{a.ID, t.Version}] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(needed), func(a, b versionKey) int {
		return slices.Compare([]string{a.app, a.version}, []string{b.app, b.version})
	})
}

// hostsNeeded gives the names of the agents with running tasks, sorted, without those that are addresses already.
func hostsNeeded(apps []app) []string {
	needed := make(map[string]bool)
	for _, a := range apps {
		for _, t := range a.tasks {
			if t.running() && len(t.Ports) > 0 {
				needed[t.Host] = true
			}
		}
	}
	maps.DeleteFunc(needed, func(host string, _ bool) bool {
		_, err := netip.ParseAddr(host)
		return host == "" || err == nil
	})
	return slices.Sorted(maps.Keys(needed))
}
