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
