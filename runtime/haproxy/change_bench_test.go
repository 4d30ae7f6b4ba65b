package haproxy

import (
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// BenchmarkRealChange5000 adds a server to one of 5,000 services x 5 servers, and takes it away again, in a real HAProxy. Beside
// the time of a pass it tells the processor time of the whole process.
func BenchmarkRealChange5000(b *testing.B) {
	h := newRig(b, nil)
	want := fleet(5000)
	for i, port := range freePorts(b, len(want)) {
		want[i].Port, want[i].Mode = port, catalog.ModeTCP
		for j := range want[i].Servers {
			want[i].Servers[j].Check = false
		}
	}
	h.apply(want)
	h.apply(want)
	more := catalog.Server{Addr: netip.MustParseAddrPort("127.0.0.1:9"), Weight: catalog.DefaultWeight}
	var took []time.Duration
	began := spent(b)
	for i := 0; b.Loop(); i++ {
		want = slices.Clone(want)
		if s := &want[i/2%len(want)]; i%2 == 0 {
			s.Servers = append(slices.Clone(s.Servers), more)
		} else {
			s.Servers = slices.Clone(s.Servers[:5])
		}
		at := time.Now()
		if r := h.apply(want); len(r.Changes) != 1 {
			b.Fatalf("report %+v", r)
		}
		took = append(took, time.Since(at))
	}
	b.ReportMetric(float64(spent(b)-began)/float64(b.N)/1e6, "cpu-ms/op")
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1000, "p50-ms")
}

// spent is the processor time of this process so far.
func spent(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
