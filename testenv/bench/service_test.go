package bench

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// BenchmarkService measures from a new service in Marathon until it is served. reload is HAProxy's part: from asking its
// master to the first answer of the new worker.
func BenchmarkService(b *testing.B) {
	sizes(b, func(w bench) {
		var served, reload []time.Duration
		w.settle()
		for w.Loop() {
			for range serviceChanges {
				ports, err := freeport.Get(1)
				w.must(err)
				began := time.Now()
				w.must(w.site.AddService(ports[0], tasksEach))
				w.awaitOpen(ports[0])
				served = append(served, time.Since(began))
				w.settle()
				reload = append(reload, w.reload())
				w.settle()
			}
		}
		w.report("served", served)
		w.report("reload", reload)
	})
}

// reload makes HAProxy build a new worker from the file as it is.
func (w bench) reload() time.Duration {
	w.Helper()
	old, err := w.host.Worker()
	w.must(err)
	began := time.Now()
	_, err = stage.Ask(w.host.Path("haproxy-master.sock"), "reload")
	w.must(err)
	w.must(poll(w.ctx, func() bool {
		now, err := w.host.Worker()
		return err == nil && now != old
	}))
	return time.Since(began)
}

// BenchmarkStart measures from the start of proxymatic, with no HAProxy, until the last service is served: start with Marathon,
// start-unread without, from the saved state. start-haproxy is HAProxy's own, by hand and from the same file.
func BenchmarkStart(b *testing.B) {
	sizes(b, func(w bench) {
		port := w.service()
		run := func() { w.must(w.host.Start("--marathon", w.site.URL)) }
		var started, alone, unread []time.Duration
		for w.Loop() {
			started = append(started, w.start(port, run))
			w.must(w.host.Ready(w.ctx))
		}
		w.must(w.host.Signal(os.Interrupt)) // which has what is known saved
		_, err := w.host.Wait(w.ctx)
		w.must(err)
		w.site.Replica.Close()
		for range startRounds {
			alone = append(alone, w.start(port, func() {
				w.must(exec.Command("haproxy", "-D", "-W", "-f", w.host.Config()).Run())
			}))
			unread = append(unread, w.start(port, run))
		}
		w.report("start", started)
		w.report("start-haproxy", alone)
		w.report("start-unread", unread)
	})
}

const startRounds = 7

// start gives the time from the start of proxymatic or HAProxy, with neither running, until a service is served.
func (w bench) start(port int, begin func()) time.Duration {
	w.Helper()
	w.host.Kill()
	for len(w.host.HAProxy()) > 0 {
		w.host.KillHAProxy()
	}
	began := time.Now()
	begin()
	w.awaitOpen(port)
	return time.Since(began)
}

// BenchmarkIdle measures what proxymatic takes while nothing happens.
func BenchmarkIdle(b *testing.B) {
	sizes(b, func(w bench) {
		time.Sleep(3 * time.Second) // what the start has left to be done
		for w.Loop() {
			before := w.cpu()
			time.Sleep(5 * time.Second)
			w.ReportMetric((w.cpu()-before).Seconds()*1000, "cpu-ms/5s")
			w.ReportMetric(w.memory(), "rss-MB")
		}
	})
}

// cpu is the time that proxymatic has spent so far, in steps of 10 ms.
func (w bench) cpu() time.Duration {
	w.Helper()
	spent, err := stage.CPU(w.host.Pid())
	w.must(err)
	return spent
}

// memory is proxymatic's resident set.
func (w bench) memory() float64 {
	w.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.host.Pid()))
	w.must(err)
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	kB, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	w.must(err)
	return kB / 1024
}
