package reconcile

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

func TestProblemsAreLoggedWhenTheyComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		bad := read()
		bad.Problems = []catalog.Problem{{Source: "marathon", Subject: "/app", Reason: "port 0"}}
		driver.has(catalog.Problem{Source: "haproxy", Subject: "80/tcp", Reason: "taken by nginx"})
		for range 2 {
			source.say <- bad
			synctest.Wait()
		}
		r.logged(`level=INFO msg="source read" source=marathon services=0 servers=0`,
			`level=WARN msg=problem source=haproxy subject=80/tcp reason="taken by nginx"`,
			`level=WARN msg=problem source=marathon subject=/app reason="port 0"`)

		driver.breaks("no socket")
		source.say <- read()
		synctest.Wait()
		r.logged(`level=WARN msg="driver fails, is tried again" driver=haproxy err="no socket"`,
			`level=INFO msg="problem gone" source=marathon subject=/app reason="port 0"`)
		if n := len(r.loop.Pass().Problems); n != 1 {
			t.Errorf("%d problems: a pass that fails early must not forget what was known", n)
		}
		r.stop()
	})
}

func TestManyChangesGetFewLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		var services []*catalog.Service
		for i := range 30 {
			services = append(services, service(fmt.Sprintf("s%02d", i), uint16(8000+i), 50))
		}
		source.say <- read(services...)
		synctest.Wait()
		text := r.log.take()
		if n := strings.Count(text, `msg="add server"`); n != 50 {
			t.Errorf("%d lines, want 50", n)
		}
		if want := `level=INFO msg="more changes" driver=haproxy count=1450` + "\n"; !strings.HasSuffix(text, want) {
			t.Errorf("log ends %q, want %q", text[max(0, len(text)-100):], want)
		}
		pass := r.loop.Pass()
		state := pass.Drivers[0]
		if len(pass.Changes) != 1000 || state.Changes["add server"] != 1500 || state.Reloads != 1 || len(pass.Reloads) != 1 || len(pass.Reloads[0].Reasons) != 30 {
			t.Errorf("%d changes kept, %d reloads kept, state %+v", len(pass.Changes), len(pass.Reloads), state.Changes)
		}
		r.stop()
	})
}

func TestAPublishedPassNeverChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, driver := newSource("marathon"), newDriver("haproxy")
		r := start(t, Config{Sources: []Source{source}, Drivers: []Driver{driver}})
		source.say <- read(service("web", 80, 1))
		synctest.Wait()
		pass := r.loop.Pass()
		before := fmt.Sprintf("%+v", *pass)
		for i := range 20 {
			source.say <- read(service("web", 80, 1+i), service(fmt.Sprintf("s%d", i), 81, i))
			synctest.Wait()
		}
		if after := fmt.Sprintf("%+v", *pass); after != before {
			t.Errorf("pass became\n%s\nfrom\n%s", after, before)
		}
		r.stop()
	})
}

func TestHistoryIsServedAsItIs(t *testing.T) {
	var h history
	add := catalog.Change{Service: "web 80/tcp", Action: "add server"}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("there", 3600))
	h.add(now, "haproxy", catalog.Report{Changes: []catalog.Change{add, {Action: "reload"}}, Drift: []catalog.Change{add}})
	got, err := json.Marshal([]any{h.changes, h.reloads})
	want := `[[{"at":"2026-01-02T02:04:05Z","driver":"haproxy","drift":true,"service":"web 80/tcp","action":"add server"},` +
		`{"at":"2026-01-02T02:04:05Z","driver":"haproxy","drift":false,"service":"","action":"reload"}],` +
		`[{"at":"2026-01-02T02:04:05Z","driver":"haproxy","reasons":[]}]]`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
}

func TestReloadsAreCountedNotTheirReasons(t *testing.T) {
	reload := catalog.Change{Action: "reload"}
	for _, test := range []struct {
		name   string
		report catalog.Report
		want   int
	}{
		{"no reasons, no reload", catalog.Report{Changes: []catalog.Change{{Action: "add server"}}}, 0},
		{"two reasons, one reload", catalog.Report{Changes: []catalog.Change{reload}, Reloads: []string{"a", "b"}}, 1},
		{"reasons without a change", catalog.Report{Reloads: []string{"a", "b"}}, 1},
		{"two reloads in one pass", catalog.Report{Changes: []catalog.Change{reload, reload}, Reloads: []string{"a"}}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := countReloads(test.report); got != test.want {
				t.Errorf("%+v: %d, want %d", test.report, got, test.want)
			}
		})
	}
}
