package haproxy

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// fleet gives n services with five servers each.
func fleet(n int) []*catalog.Service {
	var out []*catalog.Service
	for i := range n {
		s := &catalog.Service{Key: catalog.Key{Port: uint16(10000 + i), Proto: catalog.TCP}, Name: fmt.Sprintf("service%d.group.product", i),
			Source: "marathon", Mode: catalog.ModeHTTP}
		for j := range 5 {
			s.Servers = append(s.Servers, catalog.Server{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i / 200), byte(j)}),
				uint16(31000+i%200)), Weight: catalog.DefaultWeight, Check: j%2 == 0})
		}
		out = append(out, s)
	}
	catalog.Sort(out)
	return out
}

// newTestDriver gives a driver without a proxy.
func newTestDriver(t testing.TB) *Driver {
	t.Helper()
	dir := t.TempDir()
	d, err := New(Config{ConfigFile: filepath.Join(dir, "haproxy.cfg"), Start: Managed, Reload: Managed, Socket: "/run/haproxy.sock",
		RunDir: dir, BindAddress: netip.IPv4Unspecified(), MaxConnections: 8192, Drain: time.Minute, ReloadInterval: testGap, ReleaseAfter: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// BenchmarkRender1000 renders the whole file for 1,000 services x 5 servers, as the first pass does.
func BenchmarkRender1000(b *testing.B) {
	want := fleet(1000)
	d := newTestDriver(b)
	for b.Loop() {
		d.render.last, d.render.made = outer{}, made{}
		l, err := d.layout(want, structure{})
		if err != nil {
			b.Fatal(err)
		}
		if len(l.text(l.structure().Hash)) == 0 {
			b.Fatal("no text")
		}
	}
}

// BenchmarkSplice1000 changes one server of one service in the file of 1,000.
func BenchmarkSplice1000(b *testing.B) {
	want := fleet(1000)
	d := newTestDriver(b)
	l, err := d.layout(want, structure{})
	if err != nil {
		b.Fatal(err)
	}
	texts := [2]string{string(l.text("x"))}
	changed := *want[500]
	changed.Servers = changed.Servers[1:]
	want = slices.Clone(want)
	want[500] = &changed
	l2, err := d.layout(want, structure{})
	if err != nil {
		b.Fatal(err)
	}
	texts[1] = string(l2.text("x"))
	lists := [2]sections{l2.sections, l.sections}
	i := 0
	for b.Loop() {
		if _, err := splice(texts[i&1], lists[i&1], nil); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkUnchangedLayout5000 is what a pass costs before it looks at what changed, at 5,000 services.
func BenchmarkUnchangedLayout5000(b *testing.B) {
	want := fleet(5000)
	d := newTestDriver(b)
	st := structure{Services: map[catalog.Key]builtService{}}
	for b.Loop() {
		if _, err := d.layout(want, st); err != nil {
			b.Fatal(err)
		}
	}
}
