package haproxy

import (
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// operate sends a command as an operator would, and has everything looked at.
func (h *rig) operate(commands ...string) {
	h.t.Helper()
	for _, command := range commands {
		answers, err := h.driver.cli.do(h.t.Context(), []string{command})
		if err != nil || refusal(answers[0]) != "" {
			h.t.Fatalf("%s: %q, %v", command, answers, err)
		}
	}
	h.driver.Resync()
}

func TestRealServersThatAreOutOfServiceByHandAreLeftAlone(t *testing.T) {
	for name, state := range map[string]string{"maintenance": "maint", "drain": "drain"} {
		t.Run(name, func(t *testing.T) {
			h := newRig(t, func(c *Config) { c.RespectMaint = true })
			p := freePorts(t, 2)
			a, b := backend(t, "a"), backend(t, "b")
			want := []*catalog.Service{service(p[0], a, b)}
			h.apply(want)
			path := listenName(want[0]) + "/" + a.String()
			h.operate("set server " + path + " state " + state)
			left := func(when string, r catalog.Report) {
				t.Helper()
				if !hasProblem(r, path, "is in "+name+" by hand; left alone") || factOf(r, "servers_by_hand") != "1" || len(r.Drift) != 0 {
					t.Fatalf("%s: problems %+v, drift %+v", when, r.Problems, r.Drift)
				}
				for range 4 {
					mustAnswer(t, p[0], "b")
				}
			}
			left("at the next look", h.apply(want))
			c := backend(t, "c")
			want = []*catalog.Service{service(p[0], a, b, c)}
			left2 := h.apply(want)
			if !hasProblem(left2, path, "by hand") || len(left2.Changes) > 1 {
				t.Fatalf("with another server: changes %+v, problems %+v", left2.Changes, left2.Problems)
			}
			want = []*catalog.Service{service(p[0], a, b)}
			h.apply(want)
			waitLoad(h)
			want = []*catalog.Service{service(p[0], a, b), service(p[1], b)}
			catalog.Sort(want)
			r := h.apply(want)
			if len(r.Reloads) != 1 {
				t.Fatalf("reloads %q", r.Reloads)
			}
			left("after a reload", r)
			h.restart()
			left("seen by another driver", h.apply(want))
			h.kill()
			h.driver.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
			left("after a death of HAProxy", h.apply(want))
			h.operate("set server " + path + " state ready")
			if r := h.apply(want); len(r.Problems) != 0 || len(h.driver.hands) != 0 {
				t.Errorf("back in service: problems %+v, remembered %v", r.Problems, h.driver.hands)
			}
			want = []*catalog.Service{service(p[0], b), want[1]} // what the driver itself takes out and back is not by hand
			catalog.Sort(want)
			h.apply(want)
			want = []*catalog.Service{service(p[0], a), want[1]}
			catalog.Sort(want)
			if r := h.apply(want); len(r.Problems) != 0 {
				t.Errorf("problems %+v", r.Problems)
			}
			mustAnswer(t, p[0], "a")
		})
	}
}

// Whatever an operator changes of what the driver manages is found when everything is looked at, repaired, and told as drift.
func TestRealEveryKindOfDriftIsRepaired(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 1)
	a, b := backend(t, "a"), backend(t, "b")
	s := service(p[0], a, b)
	for i := range s.Servers {
		s.Servers[i].Check, s.Servers[i].MaxConn = s.Servers[i].Addr == b, 9
	}
	want := []*catalog.Service{s}
	h.apply(want)
	needAdds(t, h)
	web := listenName(s)
	plain, checked := web+"/"+a.String(), web+"/"+b.String()+":c"
	for _, commands := range []string{
		"set server " + plain + " state maint",
		"set server " + plain + " state drain",
		"disable server " + plain,
		"set server " + plain + " weight 7",
		"set server " + plain + " weight 0",
		"set maxconn server " + plain + " 3",
		"set server " + plain + " addr 127.0.0.9 port 9",
		"set server " + plain + " health down",
		"disable health " + checked,
		"disable frontend " + web,
		"disable server " + plain + "; del server " + plain,
		"add server " + web + "/mine 127.0.0.1:9; enable server " + web + "/mine",
	} {
		h.operate(strings.Split(commands, "; ")...)
		r := h.apply(want)
		if len(r.Drift) != 1 || len(r.Reloads) != 0 {
			t.Errorf("%s: drift %+v of changes %+v, reloads %q", commands, r.Drift, r.Changes, r.Reloads)
		}
		h.mustBeSettled(want)
		if r = h.apply(want); len(r.Drift) != 0 {
			t.Errorf("%s: told twice: %+v", commands, r.Drift)
		}
	}
}

// What an operator did is told by a plan before it is repaired.
func TestRealPlanTellsOfWhatSomebodyElseChanged(t *testing.T) {
	h := newRig(t, nil)
	s := service(freePorts(t, 1)[0], backend(t, "a"))
	want := []*catalog.Service{s}
	h.apply(want)
	h.apply(want)
	if h.driver.resync.Load() {
		t.Fatal("everything would be looked at anyway")
	}
	if _, err := h.driver.cli.do(t.Context(), []string{"disable server " + listenName(s) + "/" + s.Servers[0].Addr.String()}); err != nil {
		t.Fatal(err)
	}
	if r, err := h.driver.Plan(t.Context(), want); err != nil || len(r.Changes) != 1 {
		t.Errorf("the plan is %+v, %v", r.Changes, err)
	}
}
