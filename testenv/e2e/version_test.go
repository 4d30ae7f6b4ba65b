package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/runtime/reconcile"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

// reloadless tells whether the HAProxy of this host can add servers at run time. `make matrix` runs the tests with some that
// cannot.
func (w world) reloadless() bool {
	w.Helper()
	out, err := exec.Command("haproxy", "-v").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return true // pen does all
	}
	w.must(err)
	var major, minor int
	number := regexp.MustCompile(`[0-9]+\.[0-9]+`).FindString(string(out))
	if _, err := fmt.Sscanf(number, "%d.%d", &major, &minor); err != nil {
		w.Fatalf("haproxy -v: %s", out)
	}
	return major > 2 || minor >= 6
}

// spacing is the least time between two reloads.
const spacing = 250 * time.Millisecond

// excused gives how many of the last n reloads were for nothing but servers that HAProxy cannot add at run time, when that is so.
// Such ones must be spaced.
func (w world) excused(n int) int {
	w.Helper()
	if n <= 0 || w.reloadless() {
		return 0
	}
	reloads := w.status().Reloads
	reloads = reloads[max(0, len(reloads)-n):]
	excused := 0
	for i, r := range reloads {
		if i > 0 && r.At.Sub(reloads[i-1].At) < spacing {
			w.Errorf("two reloads within %s: %+v", r.At.Sub(reloads[i-1].At), reloads[i-1:i+1])
		}
		if forServers(r) {
			excused++
		}
	}
	w.Logf("%d reloads, %d of them for new servers alone", n, excused)
	return excused
}

func forServers(r reconcile.Reload) bool {
	return !slices.ContainsFunc(r.Reasons, func(why string) bool { return !strings.Contains(why, "cannot add it at run time") })
}

// sameWorker checks that HAProxy's worker is still the one that it was, as seen from outside; or that its successor came for
// servers that could not be added to it.
func (w world) sameWorker(before int) {
	w.Helper()
	now := w.worker()
	if now == before {
		return
	}
	if w.reloadless() {
		w.Errorf("HAProxy's worker is now process %d, it was %d", now, before)
		return
	}
	w.must(stage.Until(w.patient(), func() error { // the pass may not have ended
		if reloads := w.status().Reloads; len(reloads) == 0 || !forServers(reloads[len(reloads)-1]) {
			return fmt.Errorf("HAProxy's worker is now process %d, it was %d: %+v", now, before, reloads)
		}
		return nil
	}))
}

// reloaded checks how often HAProxy was loaded since the count was before. Reloads for servers that could not be added to it come
// on top.
func (w world) reloaded(before, most int, what string) {
	w.Helper()
	if n := w.loads() - before; n-w.excused(n) > most {
		w.Errorf("%s: %d reloads, want at most %d: %+v", what, n, most, w.status().Reloads)
	}
}

// lateness is longer where a removal may have to wait for a reload that is under way for a new server. pen has none.
func (w world) lateness() time.Duration {
	w.Helper()
	if w.host.NoHAProxy || w.reloadless() {
		return lateness
	}
	return 300 * time.Millisecond
}
