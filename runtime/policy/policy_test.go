package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/meltwater/proxymatic/sources/catalog"
)

func service(port uint16, name string, servers ...catalog.Server) *catalog.Service {
	return &catalog.Service{Key: catalog.Key{Port: port, Proto: catalog.TCP}, Name: name, Source: "s", Mode: catalog.ModeTCP, Servers: servers}
}

func udp(port uint16, name string) *catalog.Service {
	s := service(port, name)
	s.Proto = catalog.UDP
	return s
}

func server(addr string) catalog.Server {
	return catalog.Server{Addr: netip.MustParseAddrPort(addr), Weight: catalog.DefaultWeight}
}

func onHost(addr string) catalog.Server {
	v := server(addr)
	v.OnHost = true
	return v
}

func checked(addr string) catalog.Server {
	v := server(addr)
	v.Check = true
	return v
}

func snapshot(source string, priority int, services ...*catalog.Service) catalog.Snapshot {
	return catalog.Snapshot{Source: source, Priority: priority, Services: services}
}

// text gives a decision in the form that the tables below are written in.
func text(d Decision) string {
	out := catalog.Format(d.Want)
	for _, p := range d.Problems {
		out += fmt.Sprintf("! %s: %s: %s\n", p.Source, p.Subject, p.Reason)
	}
	return out
}

func TestDecide(t *testing.T) {
	reserved := map[catalog.Key]string{{Port: 9090, Proto: catalog.TCP}: "--status-endpoint"}
	for _, c := range []struct {
		rule   string
		policy Policy
		snaps  []catalog.Snapshot
		want   string
	}{
		{"no snapshots, nothing wanted", Policy{}, nil, ""},
		{"services come in canonical order", Policy{},
			[]catalog.Snapshot{snapshot("file", 100, service(2, "b"), service(1, "a"))},
			"1/tcp a mode=tcp source=s\n2/tcp b mode=tcp source=s\n"},
		{"servers come in canonical order, one an address", Policy{},
			[]catalog.Snapshot{snapshot("file", 100, service(1, "a", server("10.0.0.2:1"), server("10.0.0.1:1"), server("10.0.0.2:1")))},
			"1/tcp a mode=tcp source=s\n  10.0.0.1:1\n  10.0.0.2:1\n"},
		{"tcp and udp of one port are two keys", Policy{},
			[]catalog.Snapshot{snapshot("file", 100, udp(1, "u"), service(1, "t"))},
			"1/tcp t mode=tcp source=s\n1/udp u mode=tcp source=s\n"},
		{"the higher priority wins a port", Policy{},
			[]catalog.Snapshot{snapshot("file", 100, service(1, "a")), snapshot("marathon", 300, service(1, "z"))},
			"1/tcp z mode=tcp source=s\n" +
				"! policy: a 1/tcp: \"a\" of file is left out: port 1/tcp belongs to \"z\" of marathon, which is of a source that comes before; give one of them another port\n"},
		{"of equal priorities the source's name decides", Policy{},
			[]catalog.Snapshot{snapshot("y", 1, service(1, "a")), snapshot("x", 1, service(1, "z"))},
			"1/tcp z mode=tcp source=s\n" +
				"! policy: a 1/tcp: \"a\" of y is left out: port 1/tcp belongs to \"z\" of x, which is of a source that comes first by name; give one of them another port\n"},
		{"within a source the service's name decides", Policy{},
			[]catalog.Snapshot{snapshot("marathon", 300, service(1, "/b"), service(1, "/a"))},
			"1/tcp /a mode=tcp source=s\n" +
				"! policy: /b 1/tcp: \"/b\" of marathon is left out: port 1/tcp belongs to \"/a\" of marathon, which comes first by name; give one of them another port\n"},
		{"a task on the service port of its host is left out", Policy{},
			[]catalog.Snapshot{snapshot("marathon", 300, service(80, "a", server("10.0.0.1:31000"), onHost("10.0.0.2:80")))},
			"! policy: a 80/tcp: left out: its task at 10.0.0.2:80 listens on the service port of its host itself, where a proxy would collide with it; --expose-host offers it all the same\n"},
		{"--expose-host offers it", Policy{ExposeHost: true},
			[]catalog.Snapshot{snapshot("marathon", 300, service(80, "a", onHost("10.0.0.2:80")))},
			"80/tcp a mode=tcp source=s\n  10.0.0.2:80 on-host\n"},
		{"a task on another port of its host is offered", Policy{},
			[]catalog.Snapshot{snapshot("marathon", 300, service(80, "a", onHost("10.0.0.2:31000")))},
			"80/tcp a mode=tcp source=s\n  10.0.0.2:31000 on-host\n"},
		{"a container's own address with the service port is offered", Policy{},
			[]catalog.Snapshot{snapshot("marathon", 300, service(80, "a", server("172.17.0.2:80")))},
			"80/tcp a mode=tcp source=s\n  172.17.0.2:80\n"},
		{"a service that is left out keeps its port from others", Policy{},
			[]catalog.Snapshot{snapshot("marathon", 300, service(80, "a", onHost("10.0.0.2:80"))), snapshot("file", 100, service(80, "b"))},
			"! policy: b 80/tcp: \"b\" of file is left out: port 80/tcp belongs to \"a\" of marathon, which is of a source that comes before; give one of them another port\n" +
				"! policy: a 80/tcp: left out: its task at 10.0.0.2:80 listens on the service port of its host itself, where a proxy would collide with it; --expose-host offers it all the same\n"},
		{"proxymatic's own port is left out, the flag named", Policy{Reserved: reserved},
			[]catalog.Snapshot{snapshot("file", 100, service(9090, "a"), udp(9090, "u"))},
			"9090/udp u mode=tcp source=s\n" +
				"! policy: a 9090/tcp: left out: proxymatic itself listens on port 9090/tcp; give --status-endpoint another port to free it\n"},
		{"checks are the source's choice", Policy{Check: CheckAuto},
			[]catalog.Snapshot{snapshot("file", 100, service(1, "a", server("10.0.0.1:1"), checked("10.0.0.2:1")))},
			"1/tcp a mode=tcp source=s\n  10.0.0.1:1\n  10.0.0.2:1 check\n"},
		{"checks always", Policy{Check: CheckAlways},
			[]catalog.Snapshot{snapshot("file", 100, service(1, "a", server("10.0.0.1:1"), checked("10.0.0.2:1")))},
			"1/tcp a mode=tcp source=s\n  10.0.0.1:1 check\n  10.0.0.2:1 check\n"},
		{"checks never", Policy{Check: CheckNever},
			[]catalog.Snapshot{snapshot("file", 100, service(1, "a", server("10.0.0.1:1"), checked("10.0.0.2:1")))},
			"1/tcp a mode=tcp source=s\n  10.0.0.1:1\n  10.0.0.2:1\n"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if got := text(c.policy.Decide(c.snaps)); got != c.want {
				t.Errorf("input %+v\ngot\n%s\nwant\n%s", c.snaps, got, c.want)
			}
		})
	}
}

// Unchanged services share their servers with the snapshot: a pass over a thousand services copies none.
func TestDecideSharesWhatIsUnchanged(t *testing.T) {
	servers := []catalog.Server{checked("10.0.0.1:1"), checked("10.0.0.2:1")}
	got := Policy{Check: CheckAlways}.Decide([]catalog.Snapshot{snapshot("file", 100, service(1, "a", servers...))})
	if &got.Want[0].Servers[0] != &servers[0] {
		t.Error("the servers were copied, want the snapshot's own slice")
	}
}

func drawPolicy(t *rapid.T) Policy {
	p := Policy{
		ExposeHost: rapid.Bool().Draw(t, "expose"),
		Check:      rapid.SampledFrom([]CheckMode{"", CheckAuto, CheckAlways, CheckNever}).Draw(t, "check"),
	}
	if rapid.Bool().Draw(t, "reserve") {
		p.Reserved = map[catalog.Key]string{{Port: 2, Proto: catalog.TCP}: "--status-endpoint"}
	}
	return p
}

func drawServer(t *rapid.T) catalog.Server {
	return catalog.Server{
		Addr:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 3).Draw(t, "ip"))}), uint16(rapid.IntRange(1, 3).Draw(t, "server port"))),
		Weight: rapid.SampledFrom([]int{1, 500}).Draw(t, "weight"),
		Check:  rapid.Bool().Draw(t, "server check"),
		OnHost: rapid.Bool().Draw(t, "on host"),
	}
}

func drawSnapshots(t *rapid.T) []catalog.Snapshot {
	services := rapid.Custom(func(t *rapid.T) *catalog.Service {
		return &catalog.Service{
			Key: catalog.Key{Port: uint16(rapid.IntRange(1, 4).Draw(t, "port")),
				Proto: rapid.SampledFrom([]catalog.Proto{catalog.TCP, catalog.UDP}).Draw(t, "proto")},
			Name:    rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name"),
			Servers: rapid.SliceOfN(rapid.Custom(drawServer), 0, 4).Draw(t, "servers"),
		}
	})
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) catalog.Snapshot {
		return catalog.Snapshot{
			Source:   rapid.SampledFrom([]string{"file", "marathon", "registrator"}).Draw(t, "source"),
			Priority: rapid.IntRange(0, 2).Draw(t, "priority"),
			Services: rapid.SliceOfN(services, 0, 6).Draw(t, "services"),
		}
	}), 0, 4).Draw(t, "snapshots")
}

func TestDecideDoesNotDependOnTheOrderOfSnapshots(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, snaps := drawPolicy(t), drawSnapshots(t)
		want := text(p.Decide(snaps))
		if got := text(p.Decide(rapid.Permutation(snaps).Draw(t, "order"))); got != want {
			t.Fatalf("one order gives\n%s\nanother\n%s", want, got)
		}
	})
}

func TestDecideGivesEachKeyOneOwnerAndNamesEveryOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, snaps := drawPolicy(t), drawSnapshots(t)
		d := p.Decide(snaps)
		if !slices.IsSortedFunc(d.Want, func(a, b *catalog.Service) int { return a.Key.Compare(b.Key) }) {
			t.Fatalf("not in order: %s", text(d))
		}
		owned, total := map[catalog.Key]bool{}, 0
		for _, s := range d.Want {
			if owned[s.Key] {
				t.Fatalf("%s has two owners: %s", s.Key, text(d))
			}
			owned[s.Key] = true
		}
		for _, s := range snaps {
			total += len(s.Services)
		}
		if total != len(d.Want)+len(d.Problems) {
			t.Fatalf("%d services in, %d offered and %d problems out", total, len(d.Want), len(d.Problems))
		}
	})
}

func TestDecideNeverWritesToItsInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, snaps := drawPolicy(t), drawSnapshots(t)
		before := make([]catalog.Snapshot, len(snaps))
		for i, s := range snaps {
			before[i] = s
			before[i].Services = slices.Clone(s.Services)
			for j, s := range s.Services {
				other := *s
				other.Servers = slices.Clone(s.Servers)
				before[i].Services[j] = &other
			}
		}
		p.Decide(snaps)
		if !reflect.DeepEqual(before, snaps) {
			t.Fatalf("before\n%+v\nafter\n%+v", before, snaps)
		}
	})
}

func TestEveryProblemNamesItsServiceAndPort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for _, p := range drawPolicy(t).Decide(drawSnapshots(t)).Problems {
			if p.Source != "policy" || !strings.Contains(p.Subject, "/") || p.Reason == "" {
				t.Fatalf("problem %+v: want a source, a subject with the port, and a reason", p)
			}
		}
	})
}

// What was decided before is no news: the decision is the one that would have been made without it.
func TestNextDecidesLikeDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, before := drawPolicy(t), drawSnapshots(t)
		after := append(drawSnapshots(t), before...)[rapid.IntRange(0, len(before)).Draw(t, "gone"):]
		want, got := text(p.Decide(after)), text(p.Next(p.Decide(before), after))
		if got != want {
			t.Fatalf("after another decision\n%s\nwithout one\n%s", got, want)
		}
	})
}

// One list in order, which is walked in step with what was wanted, comes to what it does when it has to be put in order first.
func TestOneListInOrderIsDecidedLikeAnyOther(t *testing.T) {
	inOrder := func(t *rapid.T, some []*catalog.Service) catalog.Snapshot {
		catalog.Sort(some)
		return snapshot("s", 0, slices.CompactFunc(some, func(a, b *catalog.Service) bool { return a.Key == b.Key })...)
	}
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		all := func() (out []*catalog.Service) {
			for _, s := range drawSnapshots(t) {
				out = append(out, s.Services...)
			}
			return out
		}
		before := inOrder(t, all())
		kept := slices.DeleteFunc(slices.Clone(before.Services), func(*catalog.Service) bool { return rapid.IntRange(0, 3).Draw(t, "gone") == 0 })
		after := inOrder(t, append(kept, all()...))
		reversed := after
		reversed.Services = slices.Clone(after.Services)
		slices.Reverse(reversed.Services)
		last := p.Decide([]catalog.Snapshot{before})
		want := text(p.Decide([]catalog.Snapshot{reversed}))
		if got := text(p.Next(last, []catalog.Snapshot{after})); got != want {
			t.Fatalf("in order\n%s\nin another\n%s", got, want)
		}
	})
}

// A list that is in step with what was wanted and yet has a key twice is no list in order.
func TestAKeyThatComesAgainIsFound(t *testing.T) {
	a, b := service(1, "a"), service(2, "b")
	last := (Policy{}).Decide([]catalog.Snapshot{snapshot("s", 0, a, b)})
	for _, list := range [][]*catalog.Service{{a, a, b}, {a, b, a}, {b, a}, {a, b, service(2, "c")}, {a, service(2, "c"), b}} {
		snaps := []catalog.Snapshot{snapshot("s", 0, list...)}
		if got, want := text((Policy{}).Next(last, snaps)), text((Policy{}).Decide([]catalog.Snapshot{snapshot("s", 0, list[1:]...), snapshot("s", 0, list[0])})); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}

// A change of one service costs no copy of the others: those of the only snapshot are wanted as they are.
func TestDecideSharesTheListOfTheOnlySnapshot(t *testing.T) {
	snap := snapshot("marathon", 300, service(1, "a", server("10.0.0.1:1")), service(2, "b"))
	if got := (Policy{}).Decide([]catalog.Snapshot{snap}).Want; len(got) != 2 || &got[0] != &snap.Services[0] {
		t.Errorf("got a copy %+v", got)
	}
}
