package pen

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// BenchmarkUpdate replaces one of 64 servers of a UDP service: told to pen, read back, and its flows moved. The flows of the
// server that goes are 1/64 of all.
func BenchmarkUpdate(b *testing.B) {
	for _, flows := range []int{0, 2000} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			r := newRig(b, func(c *Config) { c.Servers, c.Clients = 128, 4096 })
			s := udp(port(b))
			names := map[netip.AddrPort]string{}
			for i := range 65 {
				name := strconv.Itoa(i)
				addr := echo(b, name)
				names[addr] = name
				s.Servers = append(s.Servers, catalog.Server{Addr: addr, Weight: catalog.DefaultWeight})
			}
			next := s.Servers[64].Addr
			s.Servers = s.Servers[:64]
			r.apply(s)
			crowd := map[client]string{} // who serves each
			for range flows {
				c := dial(b, s.Port)
				crowd[c] = c.ask()
			}
			for i := 0; b.Loop(); i += 7 {
				b.StopTimer()
				other := *s
				other.Servers = slices.Clone(s.Servers)
				other.Servers[i%64].Addr, next = next, s.Servers[i%64].Addr
				s = other.Canonical()
				want := []*catalog.Service{s}
				b.StartTimer()
				report, err := r.driver.Apply(b.Context(), want)
				b.StopTimer()
				if err != nil || len(report.Changes) != 2 || len(report.Problems) > 0 {
					b.Fatalf("%+v, %v", report, err)
				}
				for c, name := range crowd {
					if name == names[next] { // its flow was closed: it makes another
						if crowd[c] = c.ask(); crowd[c] == name || crowd[c] == "nobody" {
							b.Fatalf("a flow of %s is answered by %s", name, crowd[c])
						}
					}
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkStart200 starts 200 pens in one pass, with the default --pen-servers and --pen-clients, and tells the memory of one as
// its proportional set size.
func BenchmarkStart200(b *testing.B) {
	const n = 200
	for b.Loop() {
		b.StopTimer()
		r := newRig(b, func(c *Config) { c.Clients = 8192 })
		want := fleet(b, n)
		b.StartTimer()
		report, err := r.driver.Apply(b.Context(), want)
		b.StopTimer()
		if err != nil || len(report.Changes) != n || len(report.Problems) > 0 {
			b.Fatalf("%+v, %v", report, err)
		}
		var sum, most int
		for _, p := range r.pens() {
			kb := pss(b, p.pid)
			sum, most = sum+kb, max(most, kb)
		}
		b.ReportMetric(float64(sum)/n, "KB-PSS/pen")
		b.ReportMetric(float64(most), "KB-PSS/largest")
		if err := r.driver.Close(b.Context(), true); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	perPass := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(perPass, "s/pass")
	b.ReportMetric(perPass*1000/n, "ms/pen")
}

// fleet gives services of both kinds with three servers each.
func fleet(b *testing.B, n int) []*catalog.Service {
	ports, err := freeport.Get(n)
	if err != nil {
		b.Fatal(err)
	}
	var out []*catalog.Service
	for i, p := range ports {
		servers := []netip.AddrPort{at(1), at(2), at(3)}
		if i%2 == 0 {
			out = append(out, udp(uint16(p), servers...))
		} else {
			out = append(out, tcp(uint16(p), servers...))
		}
	}
	return out
}

// pss gives the memory of a process in KB; what it shares with others counts in part.
func pss(b *testing.B, pid int) int {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "\nPss:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		b.Fatal(err)
	}
	return kb
}
