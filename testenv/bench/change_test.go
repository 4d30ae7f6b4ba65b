package bench

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

const (
	manyServices = 5000
	changePairs  = 300 // a task that comes and goes again
	floorChanges = 200
)

// BenchmarkChange measures one change among 5,000 services with five tasks each: a task is running, Marathon calls it alive, and
// later kills it. add is the time from that last event until the task answers a client that waits in the queue, remove that from the
// kill to the last connection that it answered; add-floor is what HAProxy and the same client need for the commands alone. cpu is
// proxymatic's whole process, file and all, without what it takes when nothing happens (idle). list and app are the requests that
// Marathon got for each change.
func BenchmarkChange(b *testing.B) {
	b.Run(fmt.Sprintf("services=%d", manyServices), func(b *testing.B) {
		w := newBench(b, manyServices)
		p := w.probe()
		idle := w.idle()
		var added, removed []time.Duration
		requests, passes, began, cpu := w.site.Marathon.Requests(), w.passes(), time.Now(), w.cpu()
		for w.Loop() {
			for range changePairs {
				added = append(added, p.add())
				pause()
				removed = append(removed, p.remove())
				pause()
			}
		}
		changes := float64(len(added) + len(removed))
		spent, took := (w.cpu() - cpu).Seconds(), time.Since(began).Seconds()
		w.requests(requests, changes)
		b.ReportMetric((spent-idle*took)*1000/changes, "cpu-ms/change")
		b.ReportMetric(idle*1000, "idle-cpu-ms/s")
		b.ReportMetric((w.passes()-passes)/changes, "passes/change")
		b.ReportMetric(changes/took, "changes/s")
		b.ReportMetric(w.memory(), "rss-MB")
		w.report("add-floor", p.floor())
		w.report("add", added)
		w.report("remove", removed)
		b.ReportMetric(0, "ns/op") // of a whole round, which says nothing
	})
}

// pause lets the machine come to rest, for not always the same time.
func pause() { time.Sleep(10*time.Millisecond + rand.N(20*time.Millisecond)) }

// idle waits until the start is over and gives the share of a processor that proxymatic takes while nothing happens.
func (w bench) idle() float64 {
	w.Helper()
	const look = 5 * time.Second
	w.settle()
	time.Sleep(2 * time.Second)
	before := w.cpu()
	time.Sleep(look)
	return (w.cpu() - before).Seconds() / look.Seconds()
}

// passes is how many passes proxymatic has made.
func (w bench) passes() float64 {
	w.Helper()
	s, err := w.host.Status(w.ctx)
	w.must(err)
	return float64(s.Pass.Count)
}

// requests reports how many of each kind Marathon got since.
func (w bench) requests(since map[string]int, changes float64) {
	w.Helper()
	kinds := map[string]float64{"list/change": 0, "app/change": 0}
	for request, n := range w.site.Marathon.Requests() {
		switch path := strings.TrimPrefix(request, "GET "); {
		case path == "/v2/apps":
			kinds["list/change"] += float64(n - since[request])
		case strings.HasPrefix(path, "/v2/apps/"):
			kinds["app/change"] += float64(n - since[request])
		case n > since[request]:
			w.Logf("%d requests %s", n-since[request], request)
		}
	}
	for kind, n := range kinds {
		w.ReportMetric(n/changes, kind)
	}
}

// probe is a service with one task, and another that comes and goes.
type probe struct {
	bench
	app   string
	port  int   // of the service
	other []int // where the task that comes and goes listens: each time elsewhere, as Marathon would have it
	task  string
}

// names of the backends: one byte, so that nothing but a connection is measured.
const (
	usual  = 'u'
	coming = 'c'
)

// atATime is how many connections a task takes. With 1, HAProxy 2.6 now and then forgets a client in the queue that no other follows.
const atATime = 2

// otherPorts is how many ports the task has by turns.
const otherPorts = 16

// probe adds a service whose backends say who they are. Each takes few connections at a time, so that a client can wait for the next
// task to come without asking again and again, which would take the processors from those that are measured.
func (w bench) probe() *probe {
	w.Helper()
	ports, err := freeport.Get(1)
	w.must(err)
	p := &probe{bench: w, app: "/bench/probe", port: ports[0]}
	for range otherPorts {
		p.other = append(p.other, w.backend(coming))
	}
	w.site.Marathon.PutApp(fakemarathon.App{ID: p.app, HealthChecks: 1, Ports: []fakemarathon.PortMapping{{ServicePort: p.port}},
		Labels: map[string]string{"com.meltwater.proxymatic.port.0.maxconn": strconv.Itoa(atATime)}})
	w.site.Marathon.AddTask(p.app, fakemarathon.Task{Ports: []int{w.backend(usual)}, Health: []bool{true}})
	w.must(poll(w.ctx, func() bool { return p.ask() == usual }))
	return p
}

// backend listens and answers each connection with a byte; it ends with the client's.
func (w bench) backend(name byte) int {
	w.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	w.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = c.Write([]byte{name})
				_, _ = io.Copy(io.Discard, c)
				c.Close()
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// open opens a connection.
func (p *probe) open() (net.Conn, error) {
	return net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", p.port), time.Second)
}

// name reads who answers; 0 for nobody.
func name(c net.Conn) byte {
	var name [1]byte
	_ = c.SetReadDeadline(time.Now().Add(patience / 6))
	_, _ = io.ReadFull(c, name[:]) // who does not answer is nobody
	return name[0]
}

// ask opens a connection and gives who answers; 0 for nobody.
func (p *probe) ask() byte {
	c, err := p.open()
	if err != nil {
		return 0
	}
	defer c.Close()
	return name(c)
}

// served lets a client wait while the usual task is busy, makes a task come, and gives the time until it has answered the client.
func (p *probe) served(come func()) time.Duration {
	p.Helper()
	for range atATime {
		busy, err := p.open()
		p.must(err)
		defer busy.Close()
		if got := name(busy); got != usual {
			p.Fatalf("the service answers %q", got)
		}
	}
	waits, err := p.open()
	p.must(err)
	defer waits.Close()
	pause()
	began := time.Now()
	come()
	got := name(waits)
	took := time.Since(began)
	if got != coming {
		p.Fatalf("after %s the client that waited is answered by %q; log:\n%s", took, got, tail(p.host.Log()))
	}
	return took
}

// add lets a task run, and then be alive, which makes it routable.
func (p *probe) add() time.Duration {
	p.Helper()
	p.task = p.site.Marathon.AddTask(p.app, fakemarathon.Task{Ports: []int{p.other[0]}}).ID
	p.other = append(p.other[1:], p.other[0])
	return p.served(func() { p.site.Marathon.SetHealth(p.task, true) })
}

// remove kills the task and gives the time until the last connection began that it answered: so many others answered after it that
// it would have had its turn.
func (p *probe) remove() time.Duration {
	p.Helper()
	began := time.Now()
	p.site.Marathon.Kill(p.task)
	last := began
	for others := 0; others < 10; others++ {
		at := time.Now()
		switch p.ask() {
		case coming:
			last, others = at, 0
		case usual:
		default:
			p.Fatalf("the service does not answer; log:\n%s", tail(p.host.Log()))
		}
	}
	return last.Sub(began)
}

// floor adds the server by hand, with nobody beside, as often as it is told.
func (p *probe) floor() []time.Duration {
	p.Helper()
	socket := p.host.Path("haproxy.sock")
	path := fmt.Sprintf("probe.bench-%d/floor", p.port)
	p.host.Kill()
	var out []time.Duration
	for range floorChanges {
		out = append(out, p.served(func() {
			p.tell(socket, fmt.Sprintf("add server %s 127.0.0.1:%d weight 128 maxconn %d; enable server %s", path, p.other[0], atATime, path))
		}))
		p.tell(socket, "disable server "+path)
		p.must(stage.Until(p.ctx, func() error {
			answer, err := stage.Ask(socket, "del server "+path)
			if err == nil && !strings.HasPrefix(answer, "Server deleted.") {
				err = fmt.Errorf("del server: %s", answer)
			}
			return err
		}))
		pause()
	}
	return out
}

// tail gives the end of a log.
func tail(log string) string { return log[max(0, len(log)-2000):] }
