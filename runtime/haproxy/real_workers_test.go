package haproxy

import (
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// Old workers are no more than they may be: a reload waits, then the oldest one ends.
func TestRealOldWorkersAreBounded(t *testing.T) {
	h := newRig(t, func(c *Config) { c.MaxOldWorkers = 2; c.ReloadInterval = 0 })
	now := time.Now()
	h.driver.now = func() time.Time { return now }
	p := freePorts(t, 4)
	l, addr := silent(t)
	want := []*catalog.Service{service(p[0], addr)}
	h.apply(want)
	var open []session
	for _, port := range p[1:3] { // each worker keeps a session
		open = append(open, newSession(t, p[0], l))
		now = now.Add(10 * time.Second)
		want = append(want, service(port, addr))
		if r := h.apply(want); len(r.Reloads) != 1 {
			t.Fatalf("reloads %q, want one", r.Reloads)
		}
	}
	want = append(want, service(p[3], addr))
	r := h.apply(want)
	if len(r.Reloads) != 0 || !hasProblem(r, "old workers", "--max-old-workers is 2") || factOf(r, "old_workers") != "2" {
		t.Fatalf("reloads %q, problems %+v, facts %v, want that a reload waits", r.Reloads, r.Problems, r.Facts)
	}
	if wait := <-h.driver.alarm; wait > crowdedAgain {
		t.Errorf("looks again after %s", wait)
	}
	now = now.Add(55 * time.Second) // 65 and 55 s old, of 60
	if r = h.apply(want); len(r.Reloads) != 1 || hasProblem(r, "old workers", "") {
		t.Fatalf("reloads %q, problems %+v, want the reload", r.Reloads, r.Problems)
	}
	open[1].mustCarry("the younger one lives")
	for range 1000 {
		if open[0].cut() {
			return
		}
	}
	t.Error("the oldest worker was not ended")
}

// hasProblem reports whether a report has a problem with a subject and words of its reason.
func hasProblem(r catalog.Report, subject, words string) bool {
	for _, p := range r.Problems {
		if strings.Contains(p.Subject, subject) && strings.Contains(p.Reason, words) {
			return true
		}
	}
	return false
}

func factOf(r catalog.Report, name string) string {
	for _, f := range r.Facts {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// Where shell commands reload HAProxy nobody tells of old workers, and the process list does.
func TestRealOldWorkersAreFoundAmongProcesses(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 2)
	l, addr := silent(t)
	h.apply([]*catalog.Service{service(p[0], addr)})
	newSession(t, p[0], l)
	first := h.driver.last.pid
	waitLoad(h)
	h.apply([]*catalog.Service{service(p[0], addr), service(p[1], addr)})
	h.driver.awaitCount(t.Context(), h.driver.last.pid)
	if pid, _ := h.driver.crowd.oldest(); pid != first || len(h.driver.crowd.since) != 1 {
		t.Errorf("the master tells of %v, want %d", h.driver.crowd.since, first)
	}
	c := &commands{config: h.config.ConfigFile}
	if got, err := c.elders(t.Context(), h.driver.last.pid); err != nil || len(got) != 1 || got[0] != first {
		t.Errorf("old workers %v, %v, want %d", got, err, first)
	}
	if err := endWorker(first, "/another/haproxy.cfg"); err == nil {
		t.Fatal("ended a process that is not its HAProxy's")
	}
	if err := c.end(first); err != nil {
		t.Fatal(err)
	}
	if err := host.WaitExit(t.Context(), first); err != nil {
		t.Error(err)
	}
}

func TestOldWorkersOfShowProc(t *testing.T) {
	const head = "#<PID>          <type>          <reloads>       <uptime>        <version>\n9       master          3 [failed: 0]   0d00h00m05s     2.6.12\n# workers\n12      worker          0               0d00h00m01s     2.6.12\n"
	for text, want := range map[string]int{
		"":   0,
		head: 0,
		head + "# old workers\n10      worker          2               0d00h00m05s     2.6.12\n11      worker          1               0d00h00m03s     2.6.12\n# programs\n\n":                     2,
		head + "# old workers\n10      worker          [was: 1]        1     0d00h00m05s     2.2.9\n# programs\n20      x          -\n":                                                            1,
		"#<PID>\n9       master          0               1     0d00h00m05s     2.2.9\n# workers\n# old workers\n12      worker          [was: 1]        1     0d00h00m05s     2.2.9\n# programs\n": 0, // a reload has failed
	} {
		if got := oldWorkers(text, 12); len(got) != want {
			t.Errorf("%d old workers %v, want %d, in\n%s", len(got), got, want, text)
		}
	}
}
