package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meltwater/proxymatic/sources/catalog"
)

var guard = Guard{Percent: 50, Min: 5, Hold: time.Minute}

// list gives services by their servers' last bytes, such as "80:1,2 81:3".
func list(text string) []*catalog.Service {
	var out []*catalog.Service
	for _, word := range strings.Fields(text) {
		port, servers, _ := strings.Cut(word, ":")
		s := &catalog.Service{Key: catalog.Key{Proto: catalog.TCP}, Name: "s"}
		_, _ = fmt.Sscan(port, &s.Port)
		for _, n := range strings.FieldsFunc(servers, func(r rune) bool { return r == ',' }) {
			s.Servers = append(s.Servers, catalog.Server{Addr: address(n), Weight: catalog.DefaultWeight})
		}
		out = append(out, s)
	}
	catalog.Sort(out)
	return out
}

func address(n string) netip.AddrPort { return netip.MustParseAddrPort("10.0.0." + n + ":1") }

// short gives services as list reads them; a server that is checked has a '!'.
func short(services []*catalog.Service) string {
	var out []string
	for _, s := range services {
		var servers []string
		for _, v := range s.Servers {
			n := strings.TrimPrefix(v.Addr.Addr().String(), "10.0.0.")
			if v.Check {
				n += "!"
			}
			servers = append(servers, n)
		}
		out = append(out, fmt.Sprintf("%d:%s", s.Port, strings.Join(servers, ",")))
	}
	return strings.Join(out, " ")
}

// missing gives the places that are in one list and not in the other.
func missing(before, after []*catalog.Service) catalog.Places {
	out := catalog.Places{}
	for _, s := range before {
		for _, v := range s.Servers {
			if is := find(after, s.Key); is != nil && has(is, v.Addr) {
				continue
			}
			if out[s.Key] == nil {
				out[s.Key] = map[netip.AddrPort]bool{}
			}
			out[s.Key][v.Addr] = true
		}
	}
	return out
}

func TestGuard(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		before, after, want string
		evident             bool // something said that they ended
	}{
		"nothing is lost":                        {"80:1,2", "80:1,2,3 81:4", "80:1,2,3 81:4", false},
		"few are lost":                           {"80:1,2,3,4,5,6,7,8,9,10", "80:1,2,3,4,5,6", "80:1,2,3,4,5,6", false},
		"many, but fewer than the least":         {"80:1,2,3,4", "80:1", "80:1", false},
		"many":                                   {"80:1,2,3 81:4,5,6", "80:1", "80:1,2!,3! 81:4!,5!,6!", false},
		"many, and others come":                  {"80:1,2,3 81:4,5,6", "80:7 82:8", "80:1!,2!,3!,7 81:4!,5!,6! 82:8", false},
		"many that have ended":                   {"80:1,2,3 81:4,5,6", "80:1", "80:1", true},
		"all":                                    {"80:1,2,3 81:4,5,6", "", "80:1!,2!,3! 81:4!,5!,6!", false},
		"the last of a service":                  {"80:1 81:2,3", "81:2,3", "80:1! 81:2,3", false},
		"the last of one that stays":             {"80:1 81:2,3", "80: 81:2,3", "80:1! 81:2,3", false},
		"the last of a service, which has ended": {"80:1 81:2,3", "81:2,3", "81:2,3", true},
		"a successor":                            {"80:1", "80:2", "80:2", false},
		"an address that is another's now":       {"80:1 81:2", "81:1,2", "81:1,2", false},
	} {
		t.Run(name, func(t *testing.T) {
			kept := guard.Next(Kept{}, catalog.Snapshot{Services: list(c.before), Succeeded: start}, start)
			s := catalog.Snapshot{Services: list(c.after), Succeeded: start.Add(time.Second)}
			if !c.evident {
				s.Missing = missing(list(c.before), s.Services)
			}
			kept = guard.Next(kept, s, s.Succeeded)
			if got := short(kept.Services); got != c.want {
				t.Errorf("%s counts, want %s", got, c.want)
			}
			if got := short(kept.Release().Services); got != short(s.Services) {
				t.Errorf("released, %s counts, want %s", got, c.after)
			}
			if problems := guard.Problems(kept, "test"); len(problems) > 0 != strings.Contains(c.want, "!") {
				t.Errorf("problems %v", problems)
			}
		})
	}
}

// A step is what a source tells at a time.
func TestGuardLetsGo(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	type step struct {
		at      int // seconds
		read    int // when all was read
		told    string
		missing bool
		want    string
	}
	const all, held = "80:1,2,3,4,5,6", "80:1!,2!,3!,4!,5!,6!"
	for name, steps := range map[string][]step{
		"after two full readings and the time": {{0, 0, all, false, all}, {10, 10, "", true, held}, {40, 40, "", true, held},
			{69, 65, "", true, held}, {75, 75, "", true, ""}},
		"not by one reading":                      {{0, 0, all, false, all}, {10, 10, "", true, held}, {200, 200, "", true, held}, {201, 200, "", true, held}, {202, 201, "", true, ""}},
		"not by readings before the time is over": {{0, 0, all, false, all}, {10, 10, "", true, held}, {20, 20, "", true, held}, {200, 30, "", true, held}},
		"by what comes back":                      {{0, 0, all, false, all}, {10, 10, "", true, held}, {20, 20, all, false, all}, {200, 200, "80:1", true, "80:1,2!,3!,4!,5!,6!"}},
		"the last of a service by a successor":    {{0, 0, "80:1 81:2", false, "80:1 81:2"}, {10, 10, "81:2", true, "80:1! 81:2"}, {20, 10, "80:3 81:2", true, "80:3 81:2"}},
		"many not by successors":                  {{0, 0, all, false, all}, {10, 10, "", true, held}, {20, 10, "80:7", true, held + ",7"}},
		"by what is said of them":                 {{0, 0, all, false, all}, {10, 10, "", true, held}, {20, 10, "", false, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			var kept Kept
			for _, s := range steps {
				at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
				snap := catalog.Snapshot{Services: list(s.told), Succeeded: at(s.at), Listed: at(s.read)}
				if s.missing {
					snap.Missing = missing(list(all+" 81:2"), snap.Services)
				}
				kept = guard.Next(kept, snap, at(s.at))
				if got := short(kept.Services); got != s.want {
					t.Fatalf("after %d s %q counts, want %q", s.at, got, s.want)
				}
			}
		})
	}
}

// What was known before the start is doubted as a whole: no event of the time between was heard.
func TestGuardOfWhatWasKnownBefore(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const known = "80:1,2,3 81:4,5,6 82:7"
	for name, c := range map[string]struct {
		age        time.Duration
		told, want string
	}{
		"just now, nothing":                     {time.Second, "", "80:1!,2!,3! 81:4!,5!,6! 82:7!"},
		"just now, few":                         {time.Second, "80:1", "80:1,2!,3! 81:4!,5!,6! 82:7!"},
		"yesterday, few":                        {24 * time.Hour, "80:1", "80:1 81:4!,5!,6! 82:7!"},
		"yesterday, all moved":                  {24 * time.Hour, "80:8 81:9 82:10", "80:8 81:9 82:10"},
		"just now, of a source that is certain": {time.Second, "80:1", "80:1"},
		"just now, all but 81 counted":          {time.Second, "80:1 81:", "80:1 81:4!,5!,6! 82:7!"},
		"yesterday, all but 81 counted":         {24 * time.Hour, "80:1 81:4", "80:1 81:4,5!,6! 82:7!"},
	} {
		t.Run(name, func(t *testing.T) {
			kept := guard.Adopt(list(known), now.Add(-c.age), now)
			if got := short(kept.Services); got != known {
				t.Errorf("%s counts before the source has spoken", got)
			}
			for i, want := range []string{c.want, c.want, short(list(c.told))} {
				at := now.Add(time.Duration(i) * time.Minute)
				s := catalog.Snapshot{Services: list(c.told), Succeeded: at, Certain: strings.Contains(name, "certain")}
				if strings.Contains(name, "counted") {
					s.Partial = catalog.Keys{{Port: 81, Proto: catalog.TCP}: true}
				}
				kept = guard.Next(kept, s, at)
				if got := short(kept.Services); got != want {
					t.Errorf("after reading %d %s counts, want %s", i+1, got, want)
				}
			}
		})
	}
}

func holds(k Kept, key catalog.Key, addr netip.AddrPort) bool {
	return slices.ContainsFunc(k.Held, func(h Held) bool { return h.Service.Key == key && h.Server.Addr == addr })
}

// Whatever a source tells, nothing of it is lost, nothing is held that it tells of, and what is held was told before.
func TestGuardProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		services := rapid.Custom(func(t *rapid.T) []*catalog.Service {
			var words []string
			for port := 80; port < 84; port++ {
				if n := rapid.SliceOfNDistinct(rapid.IntRange(1, 6), 0, 6, rapid.ID[int]).Draw(t, "servers"); rapid.Bool().Draw(t, "offered") {
					words = append(words, fmt.Sprintf("%d:%s", port, strings.ReplaceAll(strings.Trim(fmt.Sprint(n), "[]"), " ", ",")))
				}
			}
			return list(strings.Join(words, " "))
		})
		var kept Kept
		for range 6 {
			now = now.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second)
			s := catalog.Snapshot{Services: services.Draw(t, "told"), Succeeded: now}
			s.Missing = missing(kept.Services, s.Services)
			before := kept
			kept = guard.Next(kept, s, now)
			if !slices.IsSortedFunc(kept.Services, func(a, b *catalog.Service) int { return a.Key.Compare(b.Key) }) {
				t.Fatalf("out of order: %s", short(kept.Services))
			}
			for _, told := range s.Services {
				is := find(kept.Services, told.Key)
				for _, v := range told.Servers {
					if is == nil || !slices.Contains(is.Servers, v) {
						t.Fatalf("%s was told, %s counts", short(s.Services), short(kept.Services))
					}
				}
			}
			for _, was := range before.told { // its last ones, unless they are another's by now
				is := find(s.Services, was.Key)
				for _, v := range was.Servers {
					if (is == nil || len(is.Servers) == 0) && !addresses(s.Services)[v.Addr] && !holds(kept, was.Key, v.Addr) {
						t.Fatalf("%s of %s, of which none is left, is not held: %s", v.Addr, was.Key, short(kept.Services))
					}
				}
			}
			for _, h := range kept.Held {
				if is := find(s.Services, h.Service.Key); is != nil && has(is, h.Server.Addr) {
					t.Fatalf("%s is held, which is told", h.Server.Addr)
				}
				if was := find(before.Services, h.Service.Key); was == nil || !has(was, h.Server.Addr) {
					t.Fatalf("%s is held, which did not count", h.Server.Addr)
				}
			}
			if n := catalog.CountServers(s.Services) + len(kept.Held); n != catalog.CountServers(kept.Services) {
				t.Fatalf("%d servers count, want %d", catalog.CountServers(kept.Services), n)
			}
		}
	})
}
