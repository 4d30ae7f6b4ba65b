package pen

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// dns is what most tests want: 10.0.0.1, 10.0.0.2 and so on with these weights, of which four slots are made at most.
func dns(weights ...int) *wanted {
	key := catalog.Key{Port: 53, Proto: catalog.UDP}
	return &wanted{service: &catalog.Service{Key: key, Name: "dns", Servers: weighted(weights...)}, uid: 7, limit: 4,
		command: command{key: key, bind: netip.MustParseAddr("10.9.9.9"), flows: 10}}
}

// runs is a pen for dns with a table such as "1:1 2:2", as it is wanted.
func runs(table string) observed {
	w := dns()
	o := observed{process: process{pid: 100, uid: 7, key: w.command.key, id: w.command.id()}}
	o.table.slots = parseSlots(table)
	return o
}

func (p plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s [%s]", p.action, p.next)
	for _, c := range p.changes {
		fmt.Fprintf(&b, "\n%s | %s | %s | %s", c.Service, c.Server, c.Action, c.Detail)
	}
	return b.String()
}

func TestPlans(t *testing.T) {
	const line = "pen -f -U -r -b 5 -x 10 -c 256 10.9.9.9:53"
	with := func(o observed, change func(*observed)) observed { change(&o); return o }
	refused := dns(5, 5)
	refused.refused = "it cannot be"
	for _, c := range []struct {
		name string
		want *wanted
		have observed
		text string
	}{
		{"nothing wanted, nothing there", nil, observed{}, " []"},
		{"it is as it should be", dns(5, 5), runs("1:1 2:2"), " [1:1 2:2]"},
		{"also in other slots", dns(5, 5), runs("3:1 2:2"), " [2:2 3:1]"},
		{"also without servers", dns(), runs(""), " []"},
		{"a first start names the command", dns(5), observed{}, "start pen [1:1]\ndns 53/udp |  | start pen | " + line},
		{"a service without servers has a pen too", dns(), observed{}, "start pen []\ndns 53/udp |  | start pen | " + line},
		{"another start names the death", dns(5), observed{died: "pen 9 has ended: killed"}, "start pen [1:1]\ndns 53/udp |  | start pen | pen 9 has ended: killed"},
		{"another command", dns(5), with(runs("1:1"), func(o *observed) { o.id = "other" }), "replace pen [1:1]\ndns 53/udp |  | replace pen | " + line},
		{"another user", dns(5), with(runs("1:1"), func(o *observed) { o.uid = 8 }), "replace pen [1:1]\ndns 53/udp |  | replace pen | it runs as user 8 instead of 7"},
		{"no answer once", dns(5), with(runs(""), func(o *observed) { o.deaf = errors.New("it is deaf") }), " []"},
		{"no answer", dns(5), with(runs(""), func(o *observed) { o.deaf, o.lost = errors.New("it is deaf"), true }), "replace pen [1:1]\ndns 53/udp |  | replace pen | it is deaf"},
		{"one that is replaced hands its slots on", dns(5, 5), with(runs("1:2 2:1"), func(o *observed) { o.id = "other" }),
			"replace pen [1:2 2:1]\ndns 53/udp |  | replace pen | " + line},
		{"one comes, one goes, one stays", dns(5, 5, 5), runs("1:1 2:2 3:9"),
			"update pen [1:1 2:2 4:3]\ndns 53/udp | 10.0.0.3:31000 | add server | slot 4\ndns 53/udp | 10.0.0.9:31000 | remove server | slot 3"},
		{"all go", dns(), runs("1:1 3:2 4:1"),
			"update pen []\ndns 53/udp | 10.0.0.1:31000 | remove server | slot 1, 4\ndns 53/udp | 10.0.0.2:31000 | remove server | slot 3"},
		{"weights become slots, no more than the limit", dns(9, 1), runs("1:1 2:2"),
			"update pen [1:1 2:2 3:1 4:1]\ndns 53/udp | 10.0.0.1:31000 | set weight | slot 1, 3, 4"},
		{"less weight", dns(5, 5), runs("1:1 2:2 3:1"), "update pen [1:1 2:2]\ndns 53/udp | 10.0.0.1:31000 | set weight | slot 1"},
		{"slot 0 is left", dns(5, 5), runs("0:1 2:2"), "update pen [1:1 2:2]\ndns 53/udp |  | set slots | "},
		{"slot 0 is emptied", dns(5), runs("0:9 1:1"), "update pen [1:1]\ndns 53/udp | 10.0.0.9:31000 | remove server | slot 0"},
		{"a service that is gone", nil, runs("1:1"), "stop pen []\n53/udp |  | stop pen | pid 100: the service is gone"},
		{"a refused service is left as it is", refused, runs("1:9"), " []"},
		{"or is not begun", refused, observed{}, " []"},
		{"busy with nothing", dns(5), with(runs("1:1"), func(o *observed) { o.spins = true }),
			"replace pen [1:1]\ndns 53/udp |  | replace pen | pid 100 takes a whole core and has no connection"},
		{"strays end, whatever else", refused, with(runs("1:9"), func(o *observed) { o.strays = []process{{pid: 5}, {pid: 6}} }),
			" []\ndns 53/udp |  | stop pen | pid 5: another serves this port\ndns 53/udp |  | stop pen | pid 6: another serves this port"},
		{"of a service that is gone too", nil, with(runs("1:1"), func(o *observed) { o.strays = []process{{pid: 5}} }),
			"stop pen []\n53/udp |  | stop pen | pid 100: the service is gone\n53/udp |  | stop pen | pid 5: another serves this port"},
	} {
		if got := makePlan(catalog.Key{Port: 53, Proto: catalog.UDP}, c.want, c.have).String(); got != c.text {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.text)
		}
	}
}

func TestServersAreNamedAsInHAProxy(t *testing.T) {
	for addr, want := range map[string]string{"10.0.0.1:53": "10.0.0.1:53", "[2001:db8::1]:53": "2001:db8::1:53"} {
		if got := serverName(netip.MustParseAddrPort(addr)); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
	}
}

func TestDriftIsWhatChangedBehindOurBack(t *testing.T) {
	w, have := dns(5), runs("1:9")
	u := unit{key: w.command.key, want: w, have: have, plan: makePlan(w.command.key, w, have)}
	d := &Driver{now: time.Now}
	u.done = u.plan.changes
	if got := d.drift(view{units: []unit{u}}); len(got) > 0 {
		t.Errorf("a pen that was never proven: %v", got)
	}
	d.verified = map[catalog.Key]proof{u.key: {service: w.service, process: have.process}}
	if got := d.drift(view{units: []unit{u}}); len(got) != 2 || got[0].Action != "add server" {
		t.Errorf("changed by somebody else: %v", got)
	}
	d.verified[u.key] = proof{service: dns(5, 5).service, process: have.process}
	if got := d.drift(view{units: []unit{u}}); len(got) > 0 {
		t.Errorf("changed by the catalog: %v", got)
	}
}
