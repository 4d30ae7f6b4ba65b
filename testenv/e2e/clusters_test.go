package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

// Each Marathon is a source of its own: what befalls one costs the services of the others nothing, and a port that two want
// is the first one's.
func TestSeveralMarathons(t *testing.T) {
	w := newWorld(t)
	other, err := stage.NewSite(fakemarathon.GenB)
	w.must(err)
	t.Cleanup(other.Close)
	ports, theirs := w.services(2, 2), w.ports(2)
	for _, port := range theirs {
		w.must(other.AddService(port, 2))
	}
	w.must(w.host.Start("--marathon", w.site.URL, "--marathon", other.URL, "--refresh-interval", "1"))
	w.must(w.host.Ready(w.patient()))
	both := func() stage.Servers {
		all := w.site.Wanted()
		for port, servers := range other.Wanted() {
			all[port] = servers
		}
		return all
	}
	w.settledOn(both)
	loads := w.loads()
	load := stage.StartLoad(slices.Concat(ports, theirs), 300, func(port int, name string, began, ended time.Time) string {
		if slices.Contains(theirs, port) {
			return other.Judge(port, name, began, ended, time.Minute)
		}
		return w.site.Judge(port, name, began, ended, time.Minute)
	})
	contested := other.Marathon.PutApp(stage.App(ports[0]))
	w.must(stage.Until(w.patient(), func() error {
		problems := w.status().Problems
		if !slices.ContainsFunc(problems, func(p catalog.Problem) bool {
			return strings.Contains(p.Reason, "of marathon-2 is left out") && strings.Contains(p.Reason, fmt.Sprint(ports[0]))
		}) {
			return fmt.Errorf("no problem names the loser of %d (version %s): %+v", ports[0], contested, problems)
		}
		return nil
	}))
	other.Replica.Close()
	w.must(stage.Until(w.patient(), func() error {
		sources := w.status().Sources
		if len(sources) != 2 || sources[0].Name != "marathon" || !sources[0].Up || sources[1].Name != "marathon-2" || sources[1].Up {
			return fmt.Errorf("sources: %+v", sources)
		}
		return nil
	}))
	_, err = w.site.AddTask(ports[1])
	w.must(err)
	w.settledOn(both)
	w.flawless(load)
	w.reloaded(loads, 0, "one of two Marathons that dies")
}
