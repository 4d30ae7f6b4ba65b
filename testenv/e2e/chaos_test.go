package e2e

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/etcd"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

// How long chaos lasts, and its seed: `make chaos`. In the tests of each day it is short.
var (
	chaosTime = flag.Duration("chaos.time", 20*time.Second, "how long TestChaos lasts")
	chaosSeed = flag.Uint64("chaos.seed", 1, "what TestChaos throws its dice with")
)

const (
	chaosPatience = time.Minute // for all to be right again after a fault
	answersOn     = time.Hour   // removed tasks go on answering: whoever still asks them loses nothing
	chaosLeak     = 3           // descriptors that proxymatic may have more at the end: connections come and go
)

// chaos is a host that meets one fault after another, under load, while its services change.
type chaos struct {
	regWorld
	*rand.Rand
	flags    []string
	tcp, udp []int // of Marathon
	docker   containers
	dns      *nameServer // nil where there can be none
	load     *stage.Load
	counts   map[string]int
	excuses  []excuse
	story    []event // what struck, and when
}

type event struct {
	at   time.Time
	name string
}

// before gives what had struck last at some time.
func (c *chaos) before(at time.Time) string {
	name := "the start"
	for _, e := range c.story {
		if e.at.Before(at) {
			name = e.name + " at " + e.at.Format("15:04:05.000")
		}
	}
	return name
}

// excuse is a time in which HAProxy was dead, or lost its listening sockets.
type excuse struct{ from, to time.Time }

// covers reports whether a request was under way then.
func (e excuse) covers(f stage.Failure) bool { return f.Ended.After(e.from) && f.Began.Before(e.to) }

// TestChaos lets faults of many kinds strike, in an order that its seed decides. After each of them everything must be as wanted
// again, and no request to a service may fail but while its HAProxy was dead, or lost its sockets. In the end nothing is left over.
func TestChaos(t *testing.T) {
	fullSpeed(t)
	c := newChaos(t)
	kinds := faults()
	if c.ownDisk() {
		kinds["the disk is full"] = (*chaos).diskFull
	}
	if c.ownDNS() {
		maps.Copy(kinds, dnsFaults())
	}
	c.ownHAProxy()
	c.addServices()
	c.begin()
	c.right("the start")
	c.load = stage.StartLoad(c.services(), 200, c.judgeAnswer)
	before := c.open()

	names := slices.Sorted(maps.Keys(kinds))
	for end, i := time.Now().Add(*chaosTime), 0; time.Now().Before(end) && !t.Failed(); i++ {
		if i%len(names) == 0 { // each kind once, before any comes again
			c.Shuffle(len(names), func(a, b int) { names[a], names[b] = names[b], names[a] })
		}
		name := names[i%len(names)]
		c.change()
		c.changeContainers()
		c.story = append(c.story, event{time.Now(), name})
		undo := kinds[name](c)
		c.change()
		if undo != nil {
			time.Sleep(c.lasting())
			undo()
		}
		c.counts[name]++
		c.right(name)
	}
	c.judge(before)
}

// newChaos gives a host on which nothing runs yet, in a cluster without services.
func newChaos(t *testing.T) *chaos {
	w := newRegWorld(t, "etcd3", etcd.Config{}, "pen")
	second, err := w.site.Marathon.Replica("127.0.0.1:0")
	w.must(err)
	t.Cleanup(second.Close)
	c := &chaos{regWorld: w, Rand: rand.New(rand.NewPCG(*chaosSeed, 0)), counts: map[string]int{},
		flags: []string{"--refresh-interval", "2", "--guard-hold", "1h", "--drain", "5s", "--marathon", w.site.URL + "," + second.URL(), "--registrator", w.url}}
	return c
}

// addServices fills the cluster.
func (c *chaos) addServices() {
	c.Helper()
	c.tcp, c.udp = c.regWorld.services(6, 3), c.udpServices(2, 3)
	c.addContainers(2, 3)
}

// services gives the ports of all TCP services.
func (c *chaos) services() []int { return slices.Concat(c.tcp, c.docker.ports) }

// judgeAnswer tells what is wrong with an answer.
func (c *chaos) judgeAnswer(port int, name string, began, ended time.Time) string {
	if slices.Contains(c.docker.ports, port) {
		return c.reg.Judge(port, name, began, ended)
	}
	return c.site.Judge(port, name, began, ended, answersOn)
}

// lasting gives how long a fault lasts: mostly less than a reading of a source takes to be believed, now and then more.
func (c *chaos) lasting() time.Duration {
	if c.IntN(4) == 0 {
		return time.Duration(2000+c.IntN(3000)) * time.Millisecond
	}
	return time.Duration(c.IntN(300)) * time.Millisecond
}

// begin starts proxymatic.
func (c *chaos) begin() {
	c.Helper()
	c.must(c.host.Start(c.flags...))
}

// change lets the cluster live on: tasks come and go.
func (c *chaos) change() {
	c.Helper()
	port := c.tcp[c.IntN(len(c.tcp))]
	switch tasks := c.site.Tasks(port); {
	case len(tasks) < 2 || len(tasks) < 5 && c.IntN(2) == 0:
		_, err := c.site.AddTask(port)
		c.must(err)
	default:
		c.site.RemoveTask(tasks[c.IntN(len(tasks))], answersOn)
	}
	if c.IntN(4) == 0 {
		port := c.udp[c.IntN(len(c.udp))]
		c.addUDPTask(port)
		c.site.RemoveTask(c.site.UDPTasks(port)[0], answersOn)
	}
}

// right waits until everything is as wanted: in HAProxy, in its file, and in the pens.
func (c *chaos) right(after string) {
	c.Helper()
	defer func() {
		if c.Failed() {
			c.Logf("that was after %s; seed %d, so far %v", after, *chaosSeed, c.counts)
		}
	}()
	c.settledWithin(chaosPatience, c.wanted)
	c.penSettled()
	c.allServed()
	c.udpServed(c.udp...)
}

// allServed waits until each TCP service is answered by one of its servers.
func (c *chaos) allServed() {
	c.Helper()
	for _, port := range c.services() {
		c.must(stage.Until(c.patient(), func() error {
			began := time.Now()
			name, err := stage.Request(c.Context(), port)
			if err != nil {
				return err
			}
			if wrong := c.judgeAnswer(port, name, began, time.Now()); wrong != "" {
				return errors.New(wrong)
			}
			return nil
		}))
	}
}

// dead kills HAProxy, and notes how long it took until it served again.
func (c *chaos) dead(what string) (undo func()) {
	c.Helper()
	worker := c.worker()
	began := time.Now()
	c.kill(what)
	c.change()
	c.must(host.WaitExit(c.patient(), worker)) // it may outlive its master for a moment
	c.allServed()
	c.excuses = append(c.excuses, excuse{began, time.Now()})
	return nil
}

// leftovers are what a host has too many of when something leaks.
type leftovers struct {
	files     int // open, of proxymatic
	processes int // of its proxies
}

// open counts what could leak, as soon as old workers have ended.
func (c *chaos) open() leftovers {
	c.Helper()
	var out leftovers
	c.must(stage.Until(c.patient(), func() error {
		if n := len(c.host.HAProxy()); n > 2 {
			return fmt.Errorf("%d processes of HAProxy", n)
		}
		return nil
	}))
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.host.Pid()))
	c.must(err)
	out.files, out.processes = len(files), len(c.host.HAProxy())+len(c.host.Pens())
	return out
}

// judge ends the load and says what came of all.
func (c *chaos) judge(before leftovers) {
	c.Helper()
	r := c.load.Stop()
	var dead time.Duration
	excused := 0
	for _, e := range c.excuses {
		dead += e.to.Sub(e.from)
	}
	for _, f := range r.Failed {
		if slices.ContainsFunc(c.excuses, func(e excuse) bool { return e.covers(f) }) {
			excused++
			continue
		}
		c.Errorf("a request failed that no dead HAProxy excuses, after %s: %s", c.before(f.Began), f)
	}
	total := 0
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(c.counts)) {
		total += c.counts[name]
		lines = append(lines, fmt.Sprintf("%4d %s", c.counts[name], name))
	}
	if c.dns != nil && c.dns.asked.Load() == 0 {
		c.Error("the name server was never asked")
	}
	c.Logf("seed %d: %d faults of %d kinds in %s, %d requests (%.0f/s), %d failed while HAProxy was dead (%s in all), %d others\n%s",
		*chaosSeed, total, len(c.counts), r.Elapsed.Round(time.Second), r.Requests, r.Rate(), excused, dead.Round(time.Millisecond),
		len(r.Failed)-excused, strings.Join(lines, "\n"))
	if r.Requests == 0 || total == 0 {
		c.Error("nothing was tried")
	}
	if after := c.open(); after.files > before.files+chaosLeak || after.processes != before.processes {
		c.Errorf("at the end there are %+v, at the beginning there were %+v", after, before)
	}
	c.quiet()
}

// faulty lets the switches of the fake Marathon be changed until the fault is over.
func (c *chaos) marathon(change func(*fakemarathon.Faults)) (undo func()) {
	c.site.Marathon.SetFaults(change)
	c.site.Marathon.Emit("group_change_success", map[string]any{"groupId": "/"})
	return func() { c.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { *f = fakemarathon.Faults{} }) }
}
