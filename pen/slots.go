package pen

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// slots is pen's table of servers: by index, where each sends. A server with a higher weight than others has several. An
// empty slot is not in the map.
//
// Slot 0 stays empty for good. pen 0.34 takes it for a live one however it is emptied, and gives its share to the next.
type slots map[int]netip.AddrPort

// share is how many slots a server gets.
type share struct {
	addr netip.AddrPort
	n    int
}

// shares divides at most limit slots among servers in proportion to their weights, with one at least for each. Of more than
// limit servers some get none: those that have a slot already stay before others come.
func shares(servers []catalog.Server, have slots, limit int) []share {
	if len(servers) > limit {
		servers = preferred(servers, have)[:limit]
	}
	divisor, sum := 0, 0
	for _, s := range servers {
		divisor, sum = gcd(divisor, s.Weight), sum+s.Weight
	}
	out := make([]share, len(servers))
	total := 0
	for i, s := range servers {
		out[i] = share{s.Addr, s.Weight / divisor}
		if sum/divisor > limit {
			out[i].n = max(1, s.Weight*limit/sum)
		}
		total += out[i].n
	}
	excess := func(i int) float64 { return float64(out[i].n) - float64(servers[i].Weight)*float64(limit)/float64(sum) }
	for ; total > limit; total-- { // rounding up to one made it too many
		out[farthest(out, func(i int) (float64, bool) { return excess(i), out[i].n > 1 })].n--
	}
	for ; sum/max(divisor, 1) > limit && total < limit; total++ { // rounding down left some
		out[farthest(out, func(i int) (float64, bool) { return -excess(i), true })].n++
	}
	return out
}

// preferred puts servers that have a slot first, each group in its order.
func preferred(servers []catalog.Server, have slots) []catalog.Server {
	known := map[netip.AddrPort]int{}
	for _, addr := range have {
		known[addr] = 1
	}
	out := slices.Clone(servers)
	slices.SortStableFunc(out, func(a, b catalog.Server) int { return cmp.Compare(known[b.Addr], known[a.Addr]) })
	return out
}

// farthest gives the first index of the highest score.
func farthest(of []share, score func(i int) (float64, bool)) int {
	best, highest := -1, 0.0
	for i := range of {
		if s, counts := score(i); counts && (best < 0 || s > highest) {
			best, highest = i, s
		}
	}
	return best
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// assign gives the table that follows have. Servers that stay keep their slots, so that their flows do, and a slot that this
// change empties, or that still has UDP flows of a former server, is not filled by it: they could not be told from new ones.
func assign(want []share, have slots, flows map[int]int) slots {
	left := map[netip.AddrPort]int{}
	for _, s := range want {
		left[s.addr] += s.n
	}
	next := slots{}
	for _, i := range slices.Sorted(maps.Keys(have)) {
		if addr := have[i]; i > 0 && left[addr] > 0 {
			next[i] = addr
			left[addr]--
		}
	}
	free := 1
	for _, s := range want {
		for ; left[s.addr] > 0; left[s.addr]-- {
			for have[free].IsValid() || next[free].IsValid() || flows[free] > 0 {
				free++
			}
			next[free] = s.addr
		}
	}
	return next
}

// counts gives how many slots each server has.
func (s slots) counts() map[netip.AddrPort]int {
	out := map[netip.AddrPort]int{}
	for _, addr := range s {
		out[addr]++
	}
	return out
}
