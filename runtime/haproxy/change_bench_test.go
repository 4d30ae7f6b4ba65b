package haproxy

import (
	"context"
	"net/netip"
	"slices"
	"sync"
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
	var group sync.WaitGroup
	ctx, cancel := context.WithCancel(b.Context())
	defer group.Wait()
	defer cancel()
	group.Go(func() { _ = h.driver.Run(ctx, func() {}) })
	time.Sleep(500 * time.Millisecond)
	for _, pause := range []time.Duration{0, 10 * time.Millisecond, 50 * time.Millisecond} {
		b.Run("pause="+pause.String(), func(b *testing.B) { want = changes(b, h, want, pause) })
	}
}

// changes makes a change an operation, with pauses between, and gives what is wanted in the end.
func changes(b *testing.B, h *rig, want []*catalog.Service, pause time.Duration) []*catalog.Service {
	more := catalog.Server{Addr: netip.MustParseAddrPort("127.0.0.1:9"), Weight: catalog.DefaultWeight}
	var took []time.Duration
	began := spent(b)
	for i := 0; b.Loop(); i++ {
		want = slices.Clone(want)
		s := *want[i/2%len(want)]
		if len(s.Servers) == 5 {
			s.Servers = append(slices.Clone(s.Servers), more)
		} else {
			s.Servers = slices.Clone(s.Servers[:5])
		}
		want[i/2%len(want)] = &s
		at := time.Now()
		if r := h.apply(want); len(r.Changes) != 1 {
			b.Fatalf("report %+v", r)
		}
		took = append(took, time.Since(at))
		if pause > 0 {
			time.Sleep(pause)
		}
	}
	b.ReportMetric(float64(spent(b)-began)/float64(b.N)/1e6, "cpu-ms/op")
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1000, "p50-ms")
	return want
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
