package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

// cannotServe is what a successor says of which not all serves.
const cannotServe = "2 services are not served"

// beside starts a successor and waits until its HAProxy has clients. It cannot take over, and gives up after some seconds: its pens end.
func (h house) beside(more ...string) house {
	h.Helper()
	next := h.next()
	next.host.Env = next.without("pen")
	h.must(os.WriteFile(next.host.Path("bin/pen"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	h.must(next.host.Start(next.with(append([]string{"--take-over"}, more...)...)...))
	steps := h.steps()
	h.must(stage.Until(h.patient(), func() error { return steps[len(steps)-1].reached(next) }))
	return next
}

// shared gives long connections of which some are the successor's.
func (h house) shared() long {
	h.Helper()
	var conns long
	sockets, _ := filepath.Glob(h.host.RunDir + "/place-*/haproxy.sock") // fails for bad patterns only
	h.must(stage.Until(h.patient(), func() error {
		conns = append(conns, h.long(20)...)
		for _, socket := range sockets {
			text, _ := stage.Ask(socket, "show info") // of a successor that has ended there is none
			_, rest, _ := strings.Cut(text, "\nCurrConns: ")
			if n, err := strconv.Atoi(strings.SplitN(rest, "\n", 2)[0]); err == nil && n >= 5 { // requests are fewer at a time
				return nil
			}
		}
		return errors.New("the successor has no connections")
	}))
	return conns
}

// swept waits until no proxy is left in any place but the first.
func (h house) swept() {
	h.Helper()
	h.must(stage.Until(h.patient(), func() error {
		left, _ := filepath.Glob(h.host.RunDir + "/place-*") // fails for bad patterns only
		if len(left) > 0 || h.begun("haproxy") == nil || h.begun("pen") == nil {
			return errors.New("what killed runs had begun is still there")
		}
		return nil
	}))
}

// answered lets requests that are under way come to their ends.
func (h house) answered(conns long) {
	h.Helper()
	if good := conns.finish(); good != len(conns) {
		h.Errorf("%d of %d long connections were answered", good, len(conns))
	}
}

// A holder that dies while it is frozen is succeeded all the same. Where its proxies live on, they serve until the successor's do.
func TestHolderIsKilledWhileFrozen(t *testing.T) {
	for name, contained := range map[string]bool{"on one host": false, "between containers": true} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, contained, false)
			load, conns := h.load(h.tcp, 500), h.long(10)
			next := h.next()
			h.must(next.host.Start(next.with("--take-over")...))
			next.logs("taking over: ")
			killed := time.Now()
			h.host.Kill()
			next.logs("taken over")
			if strings.Contains(h.host.Log(), "handed over") {
				t.Skip("the holder was too fast to be killed")
			}
			h.must(next.host.Ready(h.patient()))
			back := time.Now()
			if !contained {
				h.answered(conns)
			}
			_, err := h.site.AddTask(h.tcp[0])
			h.must(err)
			next.serves()
			next.logs("the former holder has ended")
			h.must(stage.Until(h.patient(), func() error {
				if pids := h.host.HAProxy(); !contained && slices.ContainsFunc(pids, func(pid int) bool { return !slices.Contains(next.host.HAProxy(), pid) }) {
					return errors.New("the former HAProxy runs on")
				}
				return nil
			}))
			h.must(load.WaitRequests(h.patient(), 100))
			failed := load.Stop().Failed
			for _, f := range failed[:min(len(failed), 20)] {
				if !contained || !(excuse{killed, back}).covers(f) {
					t.Errorf("a request failed: %s", f)
				}
			}
		})
	}
}

// A successor whose proxies do not come to serve leaves those of a holder that died alone, for the next start.
func TestHolderIsKilledAndTheSuccessorCannotServe(t *testing.T) {
	h := newHouse(t, false, false)
	worker, pens, load := h.worker(), h.host.Pens(), h.load(h.tcp, 300)
	next := h.beside()
	h.host.Kill()
	next.logs("has ended before it could hand over")
	next.fails(cannotServe)
	h.begin()
	h.sameWorker(worker)
	h.samePens(pens)
	h.swept()
	h.flawless(load)
}

// What a holder and its successor leave that were both killed is ended by the next start, which takes the holder's proxies as they are.
func TestBothAreKilled(t *testing.T) {
	h := newHouse(t, false, false)
	worker, pens, load := h.worker(), h.host.Pens(), h.load(h.tcp, 300)
	next := h.beside()
	conns := h.shared()
	h.must(h.host.Signal(syscall.SIGSTOP))
	next.host.Kill()
	h.host.Kill()
	h.must(load.WaitRequests(h.patient(), 50))
	h.begin()
	h.answered(conns)
	h.swept()
	h.sameWorker(worker)
	h.samePens(pens)
	h.flawless(load)
}

// The connections that a sweep waits for are not cut by the end of the run. The next one waits for them, too.
func TestRestartDuringASweep(t *testing.T) {
	h := newHouse(t, false, false)
	h.flags = append(h.flags, "--on-exit", "leave")
	h.host.Kill()
	h.begin()
	load := h.load(h.tcp, 300)
	next := h.beside()
	conns := h.shared()
	next.host.Kill()
	h.logs("this run goes on")
	h.must(h.host.Ready(h.patient()))
	h.must(load.WaitRequests(h.patient(), 300)) // more than a moment
	h.end(syscall.SIGTERM)
	h.begin()
	if h.begun("haproxy") != nil {
		t.Error("the HAProxy of the killed successor does not drain")
	}
	h.answered(conns)
	h.swept()
	h.flawless(load)
}

// The holder goes on with the templates that it has read, whatever has become of them.
func TestHolderGoesOnWithoutItsTemplate(t *testing.T) {
	h := newHouse(t, false, false)
	own := h.template("# as it was")
	h.host.Kill()
	h.begin("--haproxy-template", own)
	worker, load := h.worker(), h.load(h.tcp, 300)
	h.must(os.WriteFile(own, []byte("{{ if }}"), 0o644))

	next := h.next()
	h.must(next.host.Start(next.with("--take-over", "--haproxy-template", own)...))
	next.fails(own)
	if strings.Contains(h.host.Log(), "frozen until") {
		t.Error("a successor whose template is at fault froze the holder")
	}

	next = h.beside()
	_, err := h.site.AddTask(h.tcp[0])
	h.must(err)
	next.fails(cannotServe)
	h.must(h.host.Ready(h.patient()))
	h.serves()
	h.swept()
	h.sameWorker(worker)
	h.flawless(load)
}

// While one takes over, a second one is told so.
func TestTwoSuccessorsAtOnce(t *testing.T) {
	h := newHouse(t, false, false)
	load := h.load(h.tcp, 300)
	first, second := h.next(), h.next()
	h.must(first.host.Start(first.with("--take-over")...))
	first.logs("taking over: ")
	h.must(first.host.Signal(syscall.SIGSTOP))
	h.must(second.host.Start(second.with("--take-over")...))
	second.fails("another one takes over")
	h.must(first.host.Signal(syscall.SIGCONT))
	first.logs("taken over")
	if code, err := h.host.Wait(h.patient()); code != 0 || err != nil {
		t.Errorf("the former run ended with %d, %v, want 0", code, err)
	}
	first.serves()
	h.flawless(load)
}

// Docker sends TERM to a container that is drained already: that is no second signal.
func TestTermAfterTheHandOver(t *testing.T) {
	h := newHouse(t, false, false)
	load, conns := h.load(h.tcp, 300), h.long(10)
	next := h.next()
	h.must(next.host.Start(next.with("--take-over")...))
	h.logs("handed over; draining")
	h.must(h.host.Signal(syscall.SIGTERM))
	h.must(load.WaitRequests(h.patient(), 100))
	h.answered(conns)
	if code, err := h.host.Wait(h.patient()); code != 0 || err != nil {
		t.Errorf("the former run ended with %d, %v, want 0", code, err)
	}
	next.serves()
	h.flawless(load)
}

// A successor that fails says why at once, and leaves the holder the status endpoint, though it still has connections.
func TestSuccessorFailsWithConnections(t *testing.T) {
	h := newHouse(t, false, false)
	load := h.load(h.tcp, 300)
	next := h.beside()
	conns := h.shared()
	next.logs("not taken over")
	h.must(h.host.Ready(h.patient()))
	if h.begun("haproxy") != nil {
		t.Error("the HAProxy of the successor does not drain")
	}
	h.answered(conns)
	next.fails(cannotServe)
	h.serves()
	h.flawless(load)
}
