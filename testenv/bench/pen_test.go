package bench

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// How large the benchmarks of pen are.
const (
	penBackends = 64  // of the service that is changed
	penChanges  = 50  // in a round
	penServices = 200 // that are started
)

// newPenBench gives a host that is to serve all with pen.
func newPenBench(b *testing.B) bench {
	b.Helper()
	w := emptyBench(b, "pen")
	w.host.NoHAProxy = true
	return w
}

// startPen starts proxymatic and waits until it has applied everything.
func (w bench) startPen(flags ...string) {
	w.Helper()
	w.must(w.host.Start(append([]string{"--marathon", w.site.URL}, flags...)...))
	w.must(w.host.Ready(w.ctx))
}

// udpService adds a UDP service.
func (w bench) udpService(tasks int) int {
	w.Helper()
	ports, err := freeport.Get(1)
	w.must(err)
	w.must(w.site.AddUDPService(ports[0], tasks))
	return ports[0]
}

// BenchmarkPenTask measures from a change of a UDP service's tasks in Marathon until clients notice: new clients come all the
// time, of which each 65th meets the added task, and old ones of a removed task wait for their first answer by another. The
// service has 64 other tasks.
func BenchmarkPenTask(b *testing.B) {
	w := newPenBench(b)
	port := w.udpService(penBackends)
	w.startPen("--pen-servers", "100", "--pen-clients", "30000")
	var added, moved []time.Duration
	for b.Loop() {
		for range penChanges {
			began := time.Now()
			task, err := w.site.AddUDPTask(port)
			w.must(err)
			conn := w.meet(port, task.Name)
			added = append(added, time.Since(began))
			began = time.Now()
			w.site.RemoveTask(task, 0)
			w.must(poll(w.ctx, func() bool {
				name, err := ask(conn)
				return err == nil && name != task.Name
			}))
			moved = append(moved, time.Since(began))
			w.must(conn.Close())
		}
	}
	w.report("add", added)
	w.report("move", moved)
	b.ReportMetric(0, "ns/op")
}

// meet lets new clients ask a UDP service until a task answers, and gives the client that it answered.
func (w bench) meet(port int, name string) net.Conn {
	w.Helper()
	for w.ctx.Err() == nil {
		conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
		w.must(err)
		if got, err := ask(conn); err == nil && got == name {
			return conn
		}
		w.must(conn.Close())
	}
	w.Fatalf("%s never answered", name)
	return nil
}

// ask sends a datagram and gives the name that answered, soon or not at all.
func ask(conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(5 * time.Millisecond)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		return "", err
	}
	answer := make([]byte, 256)
	n, err := conn.Read(answer)
	name, _, _ := strings.Cut(string(answer[:n]), " ")
	return name, err
}

// BenchmarkPenStart measures from the start of proxymatic, with no pen, until the last of many UDP services answers, and what a
// pen then takes of the memory (PSS: its share of what it shares).
func BenchmarkPenStart(b *testing.B) {
	w := newPenBench(b)
	var ports []int
	for range penServices {
		ports = append(ports, w.udpService(2))
	}
	var started []time.Duration
	for b.Loop() {
		w.host.Kill()
		w.endPens()
		began := time.Now()
		w.startPen()
		for _, port := range ports {
			w.must(poll(w.ctx, func() bool {
				_, err := stage.RequestUDP(port)
				return err == nil
			}))
		}
		started = append(started, time.Since(began))
		b.ReportMetric(w.penMemory(), "pen-PSS-MB")
	}
	w.report("start", started)
	b.ReportMetric(0, "ns/op")
}

func (w bench) endPens() {
	w.Helper()
	for pens := w.host.Pens(); len(pens) > 0; pens = w.host.Pens() {
		for _, p := range pens {
			if process, err := os.FindProcess(p.PID); err == nil {
				_ = process.Kill() // it may have ended meanwhile
			}
		}
	}
}

// penMemory is the proportional set of a pen, on average.
func (w bench) penMemory() float64 {
	w.Helper()
	pens, sum := w.host.Pens(), 0.0
	if len(pens) != penServices {
		w.Fatalf("%d pens, want %d", len(pens), penServices)
	}
	for _, p := range pens {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID))
		w.must(err)
		_, rest, _ := strings.Cut(string(raw), "\nPss:")
		kB, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		w.must(err)
		sum += kB / 1024
	}
	return sum / float64(len(pens))
}

// BenchmarkPenTraffic compares clients that ask through pen with clients that ask the backend itself: how many answers 16 of them get
// in a second, and how long one waits. They share the processors with pen and the backend.
func BenchmarkPenTraffic(b *testing.B) {
	w := newPenBench(b)
	port := w.udpService(1)
	w.startPen()
	_, digits, _ := strings.Cut(w.site.UDPTasks(port)[0].Addr, ":")
	direct, err := strconv.Atoi(digits)
	w.must(err)
	const each = 2 * time.Second
	for b.Loop() {
		rate := map[int]float64{}
		latency := map[int]float64{}
		for _, p := range []int{direct, port} {
			all := w.closedLoop(p, 16, each)
			rate[p] = float64(len(all)) / each.Seconds()
			all = w.closedLoop(p, 1, each)
			slices.Sort(all)
			latency[p] = all[len(all)/2].Seconds() * 1e6
		}
		b.ReportMetric(rate[port], "pen-answers/s")
		b.ReportMetric(rate[port]/rate[direct], "rate-ratio")
		b.ReportMetric(latency[port], "pen-p50-us")
		b.ReportMetric(latency[port]/latency[direct], "latency-ratio")
	}
	b.ReportMetric(0, "ns/op")
}

// closedLoop lets clients ask a port for some time, each again when it was answered, and gives how long each answer took.
func (w bench) closedLoop(port, clients int, long time.Duration) []time.Duration {
	w.Helper()
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		all   []time.Duration
		lost  atomic.Int64
	)
	end := time.Now().Add(long)
	for range clients {
		conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
		w.must(err)
		group.Go(func() {
			defer conn.Close()
			var own []time.Duration
			answer := make([]byte, 256)
			for began := time.Now(); began.Before(end); began = time.Now() {
				err := errors.Join(conn.SetDeadline(began.Add(time.Second)), send(conn))
				if err == nil {
					_, err = conn.Read(answer)
				}
				if err != nil {
					lost.Add(1)
					continue
				}
				own = append(own, time.Since(began))
			}
			mu.Lock()
			all = append(all, own...)
			mu.Unlock()
		})
	}
	group.Wait()
	if n := lost.Load(); n > 0 {
		w.Logf("port %d: %d datagrams were lost", port, n)
	}
	return all
}

func send(conn net.Conn) error {
	_, err := conn.Write([]byte("hello"))
	return err
}
