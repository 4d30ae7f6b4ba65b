package haproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// Whatever list came before, and whatever it shares with the next: the sections are those that the next list alone would get, and
// a service that is the very same keeps its own.
func TestSectionsFollowFromTheListAlone(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:1")
	draw := func(t *rapid.T) *catalog.Service {
		some := rapid.SampledFrom([][]netip.AddrPort{nil, {a}, {a, b}}).Draw(t, "servers")
		s := service(uint16(rapid.IntRange(80, 85).Draw(t, "port")), some...)
		s.Proto = rapid.SampledFrom([]catalog.Proto{catalog.TCP, catalog.TCP, catalog.UDP}).Draw(t, "proto")
		return s
	}
	d, alone := newTestDriver(t), newTestDriver(t)
	rapid.Check(t, func(t *rapid.T) {
		var want []*catalog.Service
		var before sections
		for range rapid.IntRange(1, 4).Draw(t, "lists") {
			was := want
			want = slices.DeleteFunc(slices.Clone(want), func(*catalog.Service) bool { return rapid.IntRange(0, 3).Draw(t, "gone") == 0 })
			want = append(want, rapid.SliceOfN(rapid.Custom(draw), 0, 4).Draw(t, "new")...)
			catalog.Sort(want)
			want = slices.CompactFunc(want, func(a, b *catalog.Service) bool { return a.Key == b.Key })
			built := structure{Hash: rapid.SampledFrom([]string{"x", "x", "y"}).Draw(t, "structure")}
			static := rapid.SampledFrom([]string{"", "", "why"}).Draw(t, "static")
			got, err := d.render.sections(want, built, static)
			if err != nil {
				t.Fatal(err)
			}
			alone.render.made = made{}
			fresh, err := alone.render.sections(want, built, static)
			if err != nil || textOf(got) != textOf(fresh) || d.render.made.fixed != alone.render.made.fixed {
				t.Fatalf("after\n%s\nwant\n%s\ngives\n%s\nfor itself\n%s%v", catalog.Format(was), catalog.Format(want), textOf(got), textOf(fresh), err)
			}
			for _, s := range want {
				if kept := before.find(s.Key); kept != nil && kept.service == s && kept.outside == static && got.find(s.Key) != kept {
					t.Fatalf("%s did not change and was made again", s.Key)
				}
			}
			before = got
		}
	})
}

func textOf(list sections) string {
	out := ""
	for _, s := range list {
		out += fmt.Sprintln(s.key, s.hash, s.static, s.outside) + s.text
	}
	return out
}
