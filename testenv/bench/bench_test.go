// Package bench measures what a user waits for, through the real binary with real HAProxy and pen: run it with -bench . -benchtime 1x.
// One operation is a whole round of changes. Nothing is asserted: times depend on the machine, so the floor that HAProxy
// itself sets is measured in the same run.
package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/backend"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// How many changes a round has.
const (
	taskChanges    = 100
	serviceChanges = 20
)

// tasksEach is how many tasks a service has.
const tasksEach = 5

// pollPause is between two looks at whether something has happened.
const pollPause = 300 * time.Microsecond

// patience is how long a benchmark may take.
const patience = 2 * time.Minute

// bench is a host that serves a cluster of some size, and services that the changes are made to.
type bench struct {
	*testing.B
	ctx  context.Context
	site *stage.Site
	host *stage.Host
}

// newBench lets proxymatic serve so many services, which share the backends of their tasks. They are healthy as far as Marathon
// knows, so that HAProxy checks none.
func newBench(b *testing.B, services int) bench {
	b.Helper()
	w := emptyBench(b, "haproxy")
	w.fill(services)
	w.must(w.host.Start("--marathon", w.site.URL))
	w.must(stage.Until(w.ctx, func() error { return w.host.Ready(w.ctx) }))
	return w
}

// emptyBench builds proxymatic for a host that has nothing to serve yet, and needs a program.
func emptyBench(b *testing.B, program string) bench {
	b.Helper()
	if _, err := exec.LookPath(program); err != nil {
		b.Fatalf("%s is not installed: `make bench` installs it", program)
	}
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	b.Cleanup(cancel)
	site, err := stage.NewSite(fakemarathon.GenD)
	w := bench{b, ctx, site, nil}
	w.must(err)
	// The fake would compress on the processors that are measured; a real Marathon has its own.
	site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.NoGzip = true })
	b.Cleanup(site.Close)
	binary := filepath.Join(b.TempDir(), "proxymatic")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/proxymatic").CombinedOutput(); err != nil {
		b.Fatalf("build proxymatic: %v\n%s", err, out)
	}
	w.host, err = stage.NewHost(binary)
	w.must(err)
	b.Cleanup(func() { w.must(w.host.Close()) })
	return w
}

func (w bench) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// fill gives Marathon so many services whose tasks are all the same few backends.
func (w bench) fill(services int) {
	w.Helper()
	var shared []int
	for i := range tasksEach {
		s, err := backend.ListenHTTP("127.0.0.1:0", fmt.Sprintf("shared%d", i))
		w.must(err)
		w.Cleanup(s.Close)
		var port int
		_, err = fmt.Sscanf(s.Addr(), "127.0.0.1:%d", &port)
		w.must(err)
		shared = append(shared, port)
	}
	ports, err := freeport.Get(services)
	w.must(err)
	for _, port := range ports {
		app := stage.App(port)
		app.HealthChecks = 1
		w.site.Marathon.PutApp(app)
		for _, p := range shared {
			w.site.Marathon.AddTask(app.ID, fakemarathon.Task{Ports: []int{p}, Health: []bool{true}})
		}
	}
}

// service adds a service with one task, of its own backend, and waits until it is served and nothing more is to be done.
func (w bench) service() int {
	w.Helper()
	ports, err := freeport.Get(1)
	w.must(err)
	w.must(w.site.AddService(ports[0], 1))
	w.awaitOpen(ports[0])
	w.settle()
	return ports[0]
}

func (w bench) awaitOpen(port int) {
	w.Helper()
	w.must(poll(w.ctx, func() bool {
		_, err := stage.Request(w.ctx, port)
		return err == nil
	}))
}

// settle waits until a reload that comes next would not have to wait for its turn.
func (w bench) settle() {
	w.Helper()
	w.must(w.host.Ready(w.ctx))
	time.Sleep(400 * time.Millisecond)
}

// poll calls done until it is true, with pauses that are long enough for the machine to do what is waited for, and much
// shorter than what is measured.
func poll(ctx context.Context, done func() bool) error {
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollPause):
		}
	}
	return nil
}

// report gives the median and the 99th percentile of durations, in milliseconds.
func (w bench) report(name string, all []time.Duration) {
	slices.Sort(all)
	at := func(share float64) float64 { return all[int(share*float64(len(all)-1))].Seconds() * 1000 }
	w.ReportMetric(at(0.5), name+"-p50-ms")
	if len(all) >= 100 {
		w.ReportMetric(at(0.99), name+"-p99-ms")
	}
}

// sizes runs a benchmark with clusters of several sizes.
func sizes(b *testing.B, run func(bench)) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			run(newBench(b, n))
			b.ReportMetric(0, "ns/op") // of a whole round, which says nothing
		})
	}
}

// BenchmarkTask measures from a change of a service's tasks in Marathon until clients notice: the first connection that the
// added task serves, and the last one that the removed task does. The service has one other task, so that a client meets
// either at each second connection. add-floor is what HAProxy and a connection need alone.
func BenchmarkTask(b *testing.B) {
	sizes(b, func(w bench) {
		port := w.service()
		var added, removed, floor []time.Duration
		for w.Loop() {
			for range taskChanges {
				began := time.Now()
				task, err := w.site.AddTask(port)
				w.must(err)
				w.awaitName(port, task.Name)
				added = append(added, time.Since(began))
				removed = append(removed, w.remove(port, task))
			}
			floor = append(floor, w.floor(port)...)
		}
		w.report("add", added)
		w.report("remove", removed)
		w.report("add-floor", floor)
	})
}

// awaitName asks a service until a task answers.
func (w bench) awaitName(port int, name string) {
	w.Helper()
	w.must(poll(w.ctx, func() bool {
		got, err := stage.Request(w.ctx, port)
		w.must(err)
		return got == name
	}))
}

func (w bench) remove(port int, task *stage.Task) time.Duration {
	w.Helper()
	return w.lastAnswer(port, task.Name, func() { w.site.RemoveTask(task, time.Minute) })
}

// lastAnswer removes a server and gives the time until the last request began that it answered: so many others answered after
// it that it would have had its turn.
func (w bench) lastAnswer(port int, name string, remove func()) time.Duration {
	w.Helper()
	began := time.Now()
	last := began
	remove()
	for others := 0; others < 20; others++ {
		at := time.Now()
		got, err := stage.Request(w.ctx, port)
		w.must(err)
		if got == name {
			last, others = at, 0
		}
		time.Sleep(pollPause)
	}
	return last.Sub(began)
}

// floor adds servers to the service's proxy by hand and waits until each takes traffic.
func (w bench) floor(port int) []time.Duration {
	w.Helper()
	socket := w.host.Path("haproxy.sock")
	proxy := fmt.Sprintf("s%d.shop-%d", port, port)
	w.must(w.host.Signal(os.Interrupt)) // it would repair what is done here
	_, err := w.host.Wait(w.ctx)
	w.must(err)
	var out []time.Duration
	for i := range taskChanges {
		name := fmt.Sprintf("floor%d", i)
		s, err := backend.ListenHTTP("127.0.0.1:0", name)
		w.must(err)
		path := proxy + "/" + name
		began := time.Now()
		w.tell(socket, fmt.Sprintf("add server %s %s weight 128; enable server %s", path, s.Addr(), path))
		w.awaitName(port, name)
		out = append(out, time.Since(began))
		w.tell(socket, fmt.Sprintf("disable server %s", path))
		w.must(stage.Until(w.ctx, func() error { // not as long as its last connection lasts
			answer, err := stage.Ask(socket, "del server "+path)
			if err == nil && !strings.HasPrefix(answer, "Server deleted.") {
				err = fmt.Errorf("del server: %s", answer)
			}
			return err
		}))
		s.Close()
	}
	w.must(w.host.Start("--marathon", w.site.URL))
	w.must(w.host.Ready(w.ctx))
	return out
}

func (w bench) tell(socket, command string) {
	w.Helper()
	_, err := stage.Ask(socket, command)
	w.must(err)
}
