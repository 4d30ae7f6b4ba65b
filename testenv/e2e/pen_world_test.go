package e2e

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

// newPenWorld gives a world whose host serves everything with pen.
func newPenWorld(t *testing.T) world {
	t.Helper()
	w := worldWith(t, "pen")
	w.host.NoHAProxy = true
	return w
}

// udpServices adds UDP services with so many tasks each, on free ports.
func (w world) udpServices(n, tasks int) []int {
	w.Helper()
	ports := w.ports(n)
	for _, port := range ports {
		w.must(w.site.AddUDPService(port, tasks))
	}
	return ports
}

// startPen starts proxymatic as start does, in a world without HAProxy.
func (w world) startPen(more ...string) {
	w.Helper()
	w.must(w.host.Start(append([]string{"--marathon", w.site.URL}, more...)...))
	w.must(w.host.Ready(w.patient()))
	w.penSettled()
}

// penSettled waits until each service has one pen that has its servers and no others.
func (w world) penSettled() {
	w.Helper()
	w.must(stage.Until(w.patient(), w.pensAreWanted))
}

func (w world) pensAreWanted() error {
	for proto, wanted := range map[catalog.Proto]stage.Servers{catalog.UDP: w.site.UDPWanted(), catalog.TCP: w.site.Wanted()} {
		if proto == catalog.TCP && !w.host.NoHAProxy {
			continue
		}
		running, err := w.host.PenServers(proto)
		if err != nil {
			return err
		}
		if d := wanted.Diff(running); d != "" {
			return fmt.Errorf("%s: the pens' servers are not wanted:\n%s", proto, d)
		}
	}
	return nil
}

// pen gives the one pen of a UDP service.
func (w world) pen(port int) stage.Pen {
	w.Helper()
	return w.penOf(catalog.UDP, port)
}

func (w world) penOf(proto catalog.Proto, port int) stage.Pen {
	w.Helper()
	p, err := w.host.Pen(proto, port)
	w.must(err)
	return p
}

// samePens checks that the pens are still the processes that they were.
func (w world) samePens(before []stage.Pen) {
	w.Helper()
	if now := w.host.Pens(); !slices.Equal(now, before) {
		w.Errorf("the pens are now\n%+v, they were\n%+v", now, before)
	}
}

// flows lets clients send to UDP services, and waits until each was answered once.
func (w world) flows(ports []int, flows, perSecond int) *stage.Flows {
	w.Helper()
	f, err := stage.StartFlows(ports, flows, perSecond)
	w.must(err)
	w.must(f.Born(w.patient()))
	return f
}

// lossless ends flows of which no datagram may have been lost since a moment.
func (w world) lossless(f *stage.Flows, since time.Time) {
	w.Helper()
	w.losses(f.Stop(), since, 0)
}

// losses checks how many of the datagrams sent since a moment were lost, as a share of them.
func (w world) losses(r stage.FlowsResult, since time.Time, most float64) {
	w.Helper()
	sent, lost := r.Sent(since), r.Lost(since)
	w.Logf("%d datagrams of %d flows, %d lost, %d answers misdelivered", sent, len(r.Flows), len(lost), r.Misdelivered)
	if sent == 0 || float64(len(lost)) > most*float64(sent) {
		w.Errorf("%d of %d datagrams were lost, want at most %.1f %%: %v", len(lost), sent, 100*most, lost[:min(len(lost), 20)])
	}
}

// addUDPTask adds a task to a UDP service.
func (w world) addUDPTask(port int) *stage.Task {
	w.Helper()
	task, err := w.site.AddUDPTask(port)
	w.must(err)
	return task
}

// udpServed waits until each UDP service is answered by a task that it has now.
func (w world) udpServed(ports ...int) {
	w.Helper()
	for _, port := range ports {
		w.must(stage.Until(w.patient(), func() error {
			name, err := stage.RequestUDP(port)
			if err == nil && !has(w.site.UDPTasks(port), name) {
				err = fmt.Errorf("%q answered, which is no task of UDP service %d", name, port)
			}
			return err
		}))
	}
}

func has(tasks []*stage.Task, name string) bool {
	return slices.ContainsFunc(tasks, func(t *stage.Task) bool { return t.Name == name })
}

// ended waits until the port of a UDP service is closed and its pen is gone.
func (w world) ended(ports ...int) {
	w.Helper()
	for _, port := range ports {
		w.must(stage.Until(w.patient(), func() error {
			if pen, err := w.host.Pen(catalog.UDP, port); err == nil {
				return fmt.Errorf("%+v still runs", pen)
			}
			conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
			if err != nil {
				return err
			}
			return conn.Close()
		}))
	}
}

// penSays waits until a problem about the subject, such as "53/udp", has these words, in the status and in the log.
func (w world) penSays(subject string, words ...string) {
	w.Helper()
	w.must(stage.Until(w.patient(), func() error {
		s, err := w.host.Status(w.Context())
		if err != nil {
			return err
		}
		for _, p := range s.Problems {
			if p.Source == "pen" && strings.Contains(p.Subject, subject) && containsAll(p.Reason, words) {
				return inLog(w.host.Log(), words)
			}
		}
		return fmt.Errorf("no problem of pen about %s has %q: %+v; drivers %+v", subject, words, s.Problems, s.Drivers)
	}))
}

// penProblemsEnd waits until pen has no problem any more.
func (w world) penProblemsEnd() {
	w.Helper()
	w.must(stage.Until(w.patient(), func() error {
		s, err := w.host.Status(w.Context())
		if err != nil {
			return err
		}
		for _, p := range s.Problems {
			if p.Source == "pen" {
				return fmt.Errorf("there still is %+v", p)
			}
		}
		return nil
	}))
	w.must(w.host.Ready(w.patient()))
}

func containsAll(text string, words []string) bool {
	return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) })
}

// inLog gives an error unless one line of a log has all the words.
func inLog(log string, words []string) error {
	for line := range strings.Lines(log) {
		if containsAll(line, words) {
			return nil
		}
	}
	return errors.New("no line of the log has " + strings.Join(words, ", "))
}
