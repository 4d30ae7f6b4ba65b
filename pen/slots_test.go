package pen

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meltwater/proxymatic/sources/catalog"
)

func at(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), 31000)
}

// weighted gives servers 10.0.0.1, 10.0.0.2 and so on with these weights.
func weighted(weights ...int) []catalog.Server {
	var out []catalog.Server
	for i, w := range weights {
		out = append(out, catalog.Server{Addr: at(i + 1), Weight: w})
	}
	return out
}

func (s slots) String() string {
	var words []string
	for _, i := range slices.Sorted(maps.Keys(s)) {
		words = append(words, fmt.Sprintf("%d:%d", i, s[i].Addr().As4()[3]))
	}
	return strings.Join(words, " ")
}

func TestSlotsAreSharedByWeight(t *testing.T) {
	for _, c := range []struct {
		weights []int
		limit   int
		want    string
	}{
		{nil, 32, ""},
		{[]int{500}, 32, "1"},
		{[]int{500, 500, 500}, 32, "1 1 1"},
		{[]int{500, 250}, 32, "2 1"},
		{[]int{1, 1000}, 32, "1 31"},
		{[]int{333, 667}, 3, "1 2"},
		{[]int{1, 1, 1000}, 3, "1 1 1"},
		{[]int{1, 1, 500, 500}, 8, "1 1 3 3"},
		{[]int{5, 7, 11}, 10, "2 3 5"},
		{[]int{500, 500, 500}, 2, "1 1"},
	} {
		var got []string
		for _, s := range shares(weighted(c.weights...), nil, c.limit) {
			got = append(got, fmt.Sprint(s.n))
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("weights %v in %d slots: got %s, want %s", c.weights, c.limit, text, c.want)
		}
	}
}

func TestOfTooManyServersThoseStayThatAreServed(t *testing.T) {
	got := shares(weighted(500, 500, 500), slots{4: at(3)}, 2)
	if len(got) != 2 || got[0].addr != at(3) || got[1].addr != at(1) {
		t.Errorf("got %v", got)
	}
}

func TestServersKeepTheirSlots(t *testing.T) {
	for _, c := range []struct{ name, have, weights, want string }{
		{"new", "", "5 5", "1:1 2:2"},
		{"one more", "1:1 2:2", "5 5 5", "1:1 2:2 3:3"},
		{"the first goes", "1:1 2:2", "0 5", "2:2"},
		{"an emptied slot is not filled at once", "1:1 2:2", "0 5 5", "2:2 3:3"},
		{"but later", "2:2 3:3", "5 5 5", "1:1 2:2 3:3"},
		{"slot 0 is never used", "0:1 1:2", "5 5", "1:2 2:1"},
		{"more weight", "1:1 2:2", "10 5", "1:1 2:2 3:1"},
		{"less weight", "1:1 2:2 3:1", "5 5", "1:1 2:2"},
		{"none", "1:1 2:2", "", ""},
	} {
		have := parseSlots(c.have)
		var servers []catalog.Server
		for i, w := range strings.Fields(c.weights) {
			if w != "0" {
				var n int
				fmt.Sscan(w, &n)
				servers = append(servers, catalog.Server{Addr: at(i + 1), Weight: n})
			}
		}
		if got := assign(shares(servers, have, 32), have, nil).String(); got != c.want {
			t.Errorf("%s: from %q with weights %q: got %q, want %q", c.name, c.have, c.weights, got, c.want)
		}
	}
}

func TestSlotsWithFlowsOfFormerServersAreNotFilled(t *testing.T) {
	have := parseSlots("1:1")
	if got := assign(shares(weighted(5, 5, 5), have, 32), have, map[int]int{1: 3, 2: 1, 3: 0}).String(); got != "1:1 3:2 4:3" {
		t.Errorf("got %q", got)
	}
}

func parseSlots(text string) slots {
	out := slots{}
	for _, word := range strings.Fields(text) {
		var i, n int
		fmt.Sscanf(word, "%d:%d", &i, &n)
		out[i] = at(n)
	}
	return out
}

// Whatever changes came before: every server has its share, nobody else has any, a slot never goes from one server to
// another at once, and the table stays small.
func TestSlotsOverManyChanges(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	const limit = 16
	have := slots{}
	for step := range 5000 {
		var servers []catalog.Server
		for i := range 20 {
			if r.IntN(2) == 0 {
				servers = append(servers, catalog.Server{Addr: at(i + 1), Weight: 1 + r.IntN(4)*r.IntN(300)})
			}
		}
		want := shares(servers, have, limit)
		next := assign(want, have, nil)
		counts := next.counts()
		for _, s := range want {
			if counts[s.addr] != s.n || s.n < 1 {
				t.Fatalf("seed %d, step %d: %s has %d slots, want %d, at least 1", seed, step, s.addr, counts[s.addr], s.n)
			}
			delete(counts, s.addr)
		}
		if len(want) != min(len(servers), limit) || len(counts) != 0 || len(next) > limit {
			t.Fatalf("seed %d, step %d: %d servers, shares %v, table %s", seed, step, len(servers), want, next)
		}
		for i, addr := range next {
			if i < 1 || i > 2*limit || have[i].IsValid() && have[i] != addr {
				t.Fatalf("seed %d, step %d: from %s to %s", seed, step, have, next)
			}
		}
		have = next
	}
}
