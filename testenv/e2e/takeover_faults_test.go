package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

// step is how far a hand-over has come.
type step struct {
	name    string
	without string // a program that the successor is not given, so that it comes no further
	reached func(next house) error
}

func (h house) steps() []step {
	return []step{
		{name: "it has just been started", reached: func(house) error { return nil }},
		{name: "the holder is frozen", reached: func(house) error { return h.frozen() }},
		{name: "its HAProxy starts", reached: func(next house) error { return h.begun("haproxy") }},
		{name: "its first pen starts", reached: func(next house) error { return h.begun("pen") }},
		{name: "its HAProxy serves", without: "pen", reached: func(next house) error {
			sockets, _ := filepath.Glob(h.host.RunDir + "/place-*/haproxy.sock") // fails for bad patterns only
			for _, socket := range sockets {
				if text, err := stage.Ask(socket, "show info"); err == nil && !strings.Contains(text, "\nCumReq: 0\n") {
					return nil
				}
			}
			return errors.New("the successor's HAProxy has no clients")
		}},
	}
}

// frozen gives an error unless a hand-over is under way.
func (h house) frozen() error {
	log := h.host.Log()
	if strings.Count(log, "frozen until") == strings.Count(log, "this run goes on") {
		return errors.New("the run is not frozen")
	}
	return nil
}

// begun gives an error unless a successor's process runs.
func (h house) begun(program string) error {
	out, err := exec.Command("pgrep", "-f", "(^|/)"+program+" .*"+h.host.RunDir+"/place-").Output()
	if err != nil {
		return fmt.Errorf("pgrep %s: %w, %s", program, err, out)
	}
	return nil
}

// without gives an environment that lacks a program.
func (h house) without(program string) []string {
	h.Helper()
	if program == "" {
		return nil
	}
	bin := h.host.Path("bin")
	h.must(os.Mkdir(bin, 0o755))
	for _, other := range []string{"haproxy", "pen", "sh", "mount"} {
		if other != program {
			link(h.world, other, bin)
		}
	}
	return []string{"PATH=" + bin}
}

// A successor that is killed before it has committed costs nobody anything. In a container its proxies die with it, and with them
// what they were just doing; elsewhere they are ended.
func TestSuccessorIsKilled(t *testing.T) {
	for name, contained := range map[string]bool{"on one host": false, "between containers": true} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, contained, false)
			worker, pens := h.worker(), h.host.Pens()
			load, conns, flows := h.load(h.tcp, 500), h.long(20), h.flows(h.udp, 20, 400)
			began := time.Now()
			var killed []excuse
			for _, step := range h.steps() {
				before := load.Requests()
				next := h.next()
				next.host.Env = next.without(step.without)
				h.must(next.host.Start(next.with("--take-over")...))
				h.must(stage.Until(h.patient(), func() error { return step.reached(next) }))
				kill := excuse{from: time.Now()}
				next.host.Kill()
				kill.to = time.Now()
				killed = append(killed, kill)
				h.must(load.WaitRequests(h.patient(), 50))
				h.must(stage.Until(h.patient(), func() error {
					if h.frozen() == nil || h.begun("haproxy") == nil || h.begun("pen") == nil {
						return errors.New("the successor is not cleared away")
					}
					return nil
				}))
				h.must(h.host.Ready(h.patient()))
				t.Logf("killed when %s; %d requests meanwhile", step.name, load.Requests()-before)
			}
			if good := conns.finish(); good != len(conns) {
				t.Errorf("%d of %d long connections were answered", good, len(conns))
			}
			_, err := h.site.AddTask(h.tcp[0])
			h.must(err)
			h.addUDPTask(h.udp[0])
			h.serves()
			h.must(flows.Wait(h.patient(), 500))
			h.losses(flows.Stop(), began, 0.005)
			h.sameWorker(worker)
			h.samePens(pens)
			r := load.Stop()
			t.Logf("%d requests, %d failed", r.Requests, len(r.Failed))
			for _, f := range r.Failed {
				if !contained || !slices.ContainsFunc(killed[2:], func(e excuse) bool { return e.covers(f) }) { // from when its HAProxy starts
					t.Errorf("a request failed: %s", f)
				}
			}
		})
	}
}

// Just around the commitment either the holder goes on, or it has gone and what the successor began serves on until the next start.
func TestSuccessorIsKilledAsItCommits(t *testing.T) {
	h := newHouse(t, false, false)
	load, conns, flows := h.load(h.tcp, 500), h.long(20), h.flows(h.udp, 20, 400)
	began := time.Now()
	next := h.next()
	h.must(next.host.Start(next.with("--take-over")...))
	h.must(stage.Until(h.patient(), h.placed))
	next.host.Kill()
	h.must(load.WaitRequests(h.patient(), 200))
	if good := conns.finish(); good != len(conns) {
		t.Errorf("%d of %d long connections were answered", good, len(conns))
	}
	if strings.Contains(h.host.Log(), "handed over") {
		code, err := h.host.Wait(h.patient())
		h.must(err)
		t.Log("the holder has gone with", code)
		next.begin()
		h = next
	}
	_, err := h.site.AddTask(h.tcp[0])
	h.must(err)
	h.must(h.host.Ready(h.patient()))
	h.serves()
	h.flawless(load)
	h.must(flows.Wait(h.patient(), 1000))
	h.losses(flows.Stop(), began, 0.005)
}

// fails waits for the end of a run that could not take over, and for what it says.
func (h house) fails(words string) {
	h.Helper()
	code, err := h.host.Wait(h.patient())
	h.must(err)
	if log := h.host.Log(); code != 1 || !strings.Contains(log, words) {
		h.Errorf("exit code %d, want 1 and %q in\n%s", code, words, log)
	}
}

// placed gives an error until a successor has committed.
func (h house) placed() error {
	var serving, last int
	text, err := os.ReadFile(h.host.RunDir + "/place")
	if err == nil {
		_, err = fmt.Sscan(string(text), &serving, &last)
	}
	if err == nil && serving == 0 {
		err = errors.New("the first place serves still")
	}
	return err
}

func TestHolderHangs(t *testing.T) {
	h := newHouse(t, true, false)
	load, conns, flows := h.load(h.tcp, 300), h.long(5), h.flows(h.udp, 10, 200)
	began := time.Now()
	for what, asked := range map[string]bool{"before it is asked": false, "while it is frozen": true} {
		next := h.next()
		if !asked {
			h.must(h.host.Signal(syscall.SIGSTOP))
		}
		h.must(next.host.Start(next.with("--take-over")...))
		if asked {
			next.logs("taking over: ") // it asks no pen any more, which would wait for the end of the question
			h.must(h.host.Signal(syscall.SIGSTOP))
		}
		next.fails("it hangs")
		h.must(h.host.Signal(syscall.SIGCONT))
		h.must(h.host.Ready(h.patient()))
		h.serves()
		t.Logf("hung %s: %s", what, next.host.Log())
	}
	h.losses(flows.Stop(), began, 0.005) // what is said to a pen in the moment of the stop keeps that waiting
	next := h.next()
	h.must(next.host.Start(next.with("--take-over")...))
	h.must(stage.Until(h.patient(), h.placed))
	h.must(h.host.Signal(syscall.SIGSTOP))
	h.must(next.host.Ready(h.patient()))
	h.must(load.WaitRequests(h.patient(), 500))
	h.must(h.host.Signal(syscall.SIGCONT))
	next.logs("taken over")
	if good := conns.finish(); good != len(conns) {
		t.Errorf("%d of %d long connections were answered", good, len(conns))
	}
	code, err := h.host.Wait(h.patient())
	h.must(err)
	if code != 0 {
		t.Errorf("the former run ended with %d, want 0", code)
	}
	next.serves()
	h.flawless(load)
}

// A successor that hangs is given up, and cannot commit any more when it is back.
func TestSuccessorHangs(t *testing.T) {
	h := newHouse(t, false, false)
	worker, pens := h.worker(), h.host.Pens()
	load, flows := h.load(h.tcp, 300), h.flows(h.udp, 10, 200)
	began := time.Now()
	next := h.next()
	h.must(next.host.Start(next.with("--take-over")...))
	h.must(stage.Until(h.patient(), h.frozen))
	h.must(next.host.Signal(syscall.SIGSTOP))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h.must(stage.Until(ctx, func() error {
		if h.frozen() == nil {
			return errors.New("the run is still frozen")
		}
		return nil
	}))
	t.Logf("the run goes on after %s", time.Since(began).Round(time.Second))
	h.must(h.host.Ready(h.patient()))
	_, err := h.site.AddTask(h.tcp[0])
	h.must(err)
	h.serves()
	h.must(next.host.Signal(syscall.SIGCONT))
	next.fails("--take-over: ") // the holder has broken off, or has not answered in time, as the successor sees it
	h.serves()
	h.flawless(load)
	h.losses(flows.Stop(), began, 0.005)
	h.sameWorker(worker)
	h.samePens(pens)
	worker = h.worker() // another, where the new task took a reload
	h.host.Kill()
	h.begin("--take-over") // from nobody
	h.sameWorker(worker)
}

func TestTakeOverThatCannotBe(t *testing.T) {
	h := newHouse(t, false, false)
	load := h.load(h.tcp, 300)
	for name, c := range map[string]struct {
		without string
		flags   []string
		words   string
	}{
		"other drivers":           {flags: []string{"--haproxy=false"}, words: "has another --haproxy"},
		"an HAProxy of commands":  {flags: []string{"--haproxy-start", "true", "--haproxy-reload", "true"}, words: "--haproxy-start is"},
		"pen is not there":        {without: "pen", words: "pen is not installed"},
		"a template with a fault": {flags: []string{"--haproxy-template", h.template("no-such-keyword")}, words: "no-such-keyword"},
		"not told to":             {flags: []string{"--take-over=false"}, words: fmt.Sprintf("another proxymatic (process %d on ", h.host.Pid())},
	} {
		next := h.next()
		next.host.Env = next.without(c.without)
		h.must(next.host.Start(next.with(append([]string{"--take-over"}, c.flags...)...)...))
		next.fails(c.words)
		t.Logf("%s: %s", name, next.host.Log())
		h.must(h.host.Ready(h.patient()))
		h.serves()
	}
	h.flawless(load)
}

// template writes the built-in template with one line more in its global section.
func (h house) template(line string) string {
	h.Helper()
	text, err := os.ReadFile("../../templates/haproxy.cfg.tpl")
	h.must(err)
	path := h.host.Path("t.tpl")
	h.must(os.WriteFile(path, []byte(strings.Replace(string(text), "global\n", "global\n    "+line+"\n", 1)), 0o644))
	return path
}
