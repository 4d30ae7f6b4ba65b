package e2e

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

func TestTasksComeAndGoByPen(t *testing.T) {
	fullSpeed(t)
	w := newPenWorld(t)
	ports := w.services(5, 3)
	w.startPen()
	pens := w.host.Pens()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	load := w.load(ports, 400)
	for range 60 {
		w.changeTask(random, ports[random.IntN(len(ports))])
		w.must(load.WaitRequests(w.patient(), 25))
	}
	w.penSettled()
	w.nearlyFlawless(load)
	w.samePens(pens)
	w.quiet()
}

func TestServicesComeAndGoByPen(t *testing.T) {
	w := newPenWorld(t)
	others := w.services(3, 2)
	w.startPen()
	load := w.load(others, 300)
	ports := w.services(5, 2)
	w.served(ports...)
	w.penSettled()
	for _, port := range ports {
		w.site.RemoveService(port)
	}
	w.refused(ports...)
	w.penSettled()
	w.flawless(load)
	w.quiet()
}

// Connections of a removed task go on, as with HAProxy.
func TestConnectionsOutliveTheirServersByPen(t *testing.T) {
	w := newPenWorld(t)
	port := w.services(1, 1)[0]
	w.startPen()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	w.must(err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: stage\r\n")
	w.must(err)
	old := w.site.Tasks(port)[0]
	_, err = w.site.AddTask(port)
	w.must(err)
	w.site.RemoveTask(old, time.Minute)
	w.penSettled()
	_, err = io.WriteString(conn, "Connection: close\r\n\r\n")
	w.must(err)
	if answer, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(answer), old.Name) {
		t.Errorf("the connection of a removed task: %q, %v; want %s", answer, err, old.Name)
	}
}

func TestDeadBackendCostsNothingByPen(t *testing.T) {
	fullSpeed(t)
	if !alone(t) {
		return
	}
	w := newPenWorld(t)
	port := w.services(1, 3)[0]
	w.startPen()
	pen := w.penOf(catalog.TCP, port)
	w.site.Tasks(port)[0].Die()
	died := time.Now()
	load := stage.StartLoad([]int{port}, 500, nil)
	w.must(load.WaitRequests(w.patient(), 4000))
	r := load.Stop()
	late := 0
	for _, f := range r.Failed {
		if f.Began.After(died.Add(time.Second)) {
			late++
			t.Errorf("a request failed: %s", f)
		}
	}
	t.Logf("%d requests, %d failed in the first second and %d after it; %d connects to the dead backend", r.Requests, len(r.Failed)-late, late, w.refusedConnects())
	w.calm(pen)

	// Without the time for which pen leaves out a dead server, it tries this one again and again.
	_, err := pen.Ask("blacklist 0")
	w.must(err)
	before, failed := w.refusedConnects(), 0
	began := time.Now()
	for w.refusedConnects()-before < 10000 {
		load := stage.StartLoad([]int{port}, 4000, nil)
		w.must(load.WaitRequests(w.patient(), 5000))
		r := load.Stop()
		failed += len(r.Failed)
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("only %d connects to the dead backend", w.refusedConnects()-before)
		}
	}
	t.Logf("%d connects to the dead backend in %s, %d requests failed", w.refusedConnects()-before, time.Since(began).Round(time.Millisecond), failed)
	if failed > 0 {
		t.Errorf("%d requests failed", failed)
	}
	w.calmsDown(port)
	w.served(port)
	w.quiet()
}

// refusedConnects counts the TCP connections of this network namespace that were refused.
func (w world) refusedConnects() int {
	w.Helper()
	raw, err := os.ReadFile("/proc/self/net/snmp")
	w.must(err)
	var head []string
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if f[0] != "Tcp:" {
			continue
		}
		if head == nil {
			head = f
			continue
		}
		for i := range head {
			if head[i] == "AttemptFails" {
				n, err := strconv.Atoi(f[i])
				w.must(err)
				return n
			}
		}
	}
	w.Fatal("the kernel does not count refused connections")
	return 0
}

// pulse is how long a pen is watched to see how much of a core it takes.
const pulse = 2 * time.Second

// takes gives how much of a core a pen takes, unless it ends meanwhile.
func takes(p stage.Pen) (float64, error) {
	before, err := stage.CPU(p.PID)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	time.Sleep(pulse)
	after, err := stage.CPU(p.PID)
	return float64(after-before) / float64(time.Since(began)), err
}

// calm checks that a pen without clients takes less than a tenth of a core.
func (w world) calm(p stage.Pen) {
	w.Helper()
	share, err := takes(p)
	w.must(err)
	w.Logf("pen takes %.1f %% of a core without clients", 100*share)
	if share >= 0.1 {
		w.Errorf("pen takes %.0f %% of a core without clients, want less than 10 %%", 100*share)
	}
}

// calmsDown waits until a service's pen is calm, which may be another one: failed connects leave closed sockets in pen's list, over
// which it turns in circles until they are in use again.
func (w world) calmsDown(port int) {
	w.Helper()
	began := time.Now()
	w.must(stage.Until(w.patient(), func() error {
		pen, err := w.host.Pen(catalog.TCP, port)
		if err != nil {
			return err
		}
		if share, err := takes(pen); err != nil || share >= 0.1 {
			return fmt.Errorf("pen %d takes %.0f %% of a core without clients, want less than 10 %%: %v", pen.PID, 100*share, err)
		}
		return nil
	}))
	w.Logf("pen is calm %s after its last client", (time.Since(began) - pulse).Round(time.Millisecond))
}

// Nobody can be served then, but pen must be there when that ends.
func TestPenSurvivesThatAllBackendsAreDead(t *testing.T) {
	fullSpeed(t)
	w := newPenWorld(t)
	port := w.services(1, 1)[0]
	w.startPen()
	pen := w.penOf(catalog.TCP, port)
	w.site.Tasks(port)[0].Die()
	load := stage.StartLoad([]int{port}, 4000, nil)
	w.must(load.WaitRequests(w.patient(), 10000))
	r := load.Stop()
	t.Logf("%d of %d requests failed", len(r.Failed), r.Requests)
	w.calm(pen)
	_, err := w.site.AddTask(port)
	w.must(err)
	w.penSettled()
	w.served(port)
	w.samePens([]stage.Pen{pen})
	log := filepath.Join(w.host.RunDir, "pen", fmt.Sprintf("tcp-%d.log", port))
	if info, err := os.Stat(log); err != nil || info.Size() > 8<<20 {
		t.Errorf("pen's log: %v, %v; want a file of some megabytes at most", info, err)
	}
}

// pen leaves out a dead server for some seconds, by its place in the table, whoever has that next.
func TestNewServerIsNotLeftOutForTheOneBeforeIt(t *testing.T) {
	w := newPenWorld(t)
	port := w.services(1, 1)[0]
	w.startPen()
	dead := w.site.Tasks(port)[0]
	dead.Die()
	if name, err := stage.Request(t.Context(), port); err == nil {
		t.Fatalf("%s answered, though it is dead", name)
	}
	w.site.RemoveTask(dead, 0)
	w.penSettled()
	began := time.Now()
	_, err := w.site.AddTask(port)
	w.must(err)
	w.served(port)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the new task was served after %s", took)
	}
}

// DNS has one port number for both transports.
func TestHAProxyAndPenShareAPortNumber(t *testing.T) {
	w := worldWith(t, "haproxy", "pen")
	port := w.services(1, 2)[0]
	w.must(w.site.AddUDPService(port, 2))
	plan := w.command("plan")
	w.says(plan, 2, "start HAProxy", "start pen", fmt.Sprintf("%d/tcp", port), fmt.Sprintf("%d/udp", port))
	w.start()
	w.penSettled()
	w.served(port)
	w.udpServed(port)
	w.says(w.command("plan"), 0, "nothing to change")
	load, flows := w.load([]int{port}, 200), w.flows([]int{port}, 10, 200)
	began, pens, loads := time.Now(), w.host.Pens(), w.loads()
	w.addUDPTask(port)
	_, err := w.site.AddTask(port)
	w.must(err)
	w.settled()
	w.penSettled()
	w.must(load.WaitRequests(w.patient(), 100))
	w.flawless(load)
	w.lossless(flows, began)
	w.samePens(pens)
	w.reloaded(loads, 0, "a UDP service beside")
	w.site.RemoveUDPService(port)
	w.ended(port)
	w.served(port)
	w.settled()
	if pens := w.host.Pens(); len(pens) > 0 {
		t.Errorf("pens of a removed service: %+v", pens)
	}
	if d := w.driver("haproxy"); d.Error != "" || !d.Up {
		t.Error(errors.New(d.Error))
	}
}
