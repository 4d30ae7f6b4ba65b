package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

// strike lets a fault begin, and gives what ends it; nil where it is over at once.
type strike func(*chaos) (undo func())

// faults are all kinds of them.
func faults() map[string]strike {
	out := map[string]strike{
		"proxymatic is killed":              (*chaos).killed,
		"proxymatic is restarted":           (*chaos).restarted,
		"proxymatic stands still":           func(c *chaos) func() { return c.still(c.host.Pid()) },
		"proxymatic has no descriptors":     (*chaos).exhausted,
		"HUP":                               (*chaos).hup,
		"a second proxymatic":               (*chaos).second,
		"HAProxy is killed":                 func(c *chaos) func() { return c.dead("all") },
		"the worker is killed":              func(c *chaos) func() { return c.dead("worker") },
		"the master is killed":              func(c *chaos) func() { return c.dead("master") },
		"HAProxy stands still":              func(c *chaos) func() { return c.still(c.host.HAProxy()...) },
		"HAProxy is reloaded by others":     (*chaos).reloadedByOthers,
		"the stats socket is gone":          (*chaos).socketGone,
		"haproxy.cfg is broken":             func(c *chaos) func() { return c.file("nonsense\n") },
		"haproxy.cfg is empty":              func(c *chaos) func() { return c.file("") },
		"haproxy.cfg cannot be replaced":    func(c *chaos) func() { return c.unwritable(c.host.Config()) },
		"the directory is read-only":        func(c *chaos) func() { return c.unwritable(c.host.Dir) },
		"HAProxy's program is replaced":     (*chaos).upgraded,
		"a server is put in maintenance":    func(c *chaos) func() { return c.operator("set server %s state maint") },
		"a server is drained":               func(c *chaos) func() { return c.operator("set server %s state drain") },
		"a server gets another address":     func(c *chaos) func() { return c.operator("set server %s addr 127.0.0.9 port 9") },
		"a pen is killed":                   (*chaos).penKilled,
		"a pen stands still":                func(c *chaos) func() { return c.still(c.host.Pens()[c.IntN(len(c.udp))].PID) },
		"a port is taken by somebody":       (*chaos).thief,
		"the saved state is broken":         (*chaos).stateBroken,
		"the clock is set":                  (*chaos).clockSet,
		"event streams are cut":             func(c *chaos) func() { c.site.Marathon.CloseStreams(); return nil },
		"event streams fall silent":         func(c *chaos) func() { c.site.Marathon.FreezeStreams(); return c.site.Marathon.CloseStreams },
		"another replica leads":             (*chaos).failOver,
		"events that make no sense":         (*chaos).nonsense,
		"Marathon is stale":                 func(c *chaos) func() { return c.marathon(func(f *fakemarathon.Faults) { f.Stale = true }) },
		"Marathon is slow":                  func(c *chaos) func() { return c.marathon(func(f *fakemarathon.Faults) { f.Delay = time.Second }) },
		"Marathon drops events":             func(c *chaos) func() { return c.marathon(func(f *fakemarathon.Faults) { f.DropEvents = always }) },
		"Marathon's streams end at once":    func(c *chaos) func() { return c.streams(func(f *fakemarathon.Faults) { f.StreamEOF = always }) },
		"Marathon's streams are HTML pages": func(c *chaos) func() { return c.streams(func(f *fakemarathon.Faults) { f.StreamPage = always }) },
	}
	for name, field := range map[string]func(*fakemarathon.Faults) *fakemarathon.Times{
		"Marathon is unavailable":     func(f *fakemarathon.Faults) *fakemarathon.Times { return &f.Unavailable },
		"Marathon answers nothing":    func(f *fakemarathon.Faults) *fakemarathon.Times { return &f.EmptyBody },
		"Marathon answers half":       func(f *fakemarathon.Faults) *fakemarathon.Times { return &f.Truncated },
		"Marathon answers HTML":       func(f *fakemarathon.Faults) *fakemarathon.Times { return &f.WrongType },
		"Marathon's answers break":    func(f *fakemarathon.Faults) *fakemarathon.Times { return &f.CutOff },
		"Marathon forgets everything": func(f *fakemarathon.Faults) *fakemarathon.Times { return &f.EmptyLists },
		"Marathon forgets half":       func(f *fakemarathon.Faults) *fakemarathon.Times { return &f.HalfTasks },
	} {
		out[name] = func(c *chaos) func() {
			times := always
			if c.IntN(2) == 0 {
				times = 1
			}
			return c.marathon(func(f *fakemarathon.Faults) { *field(f) = times })
		}
		out["proxymatic is killed while "+name] = func(c *chaos) func() {
			undo := c.marathon(func(f *fakemarathon.Faults) { *field(f) = always })
			c.host.Kill()
			c.begin()
			return undo
		}
	}
	maps.Copy(out, etcdFaults())
	return out
}

func (c *chaos) killed() func() {
	c.host.Kill()
	return c.begin
}

func (c *chaos) restarted() func() {
	c.must(c.host.Signal(syscall.SIGTERM))
	_, err := c.host.Wait(c.patient())
	c.must(err)
	return c.begin
}

// still stops processes until the fault is over.
func (c *chaos) still(pids ...int) func() {
	for _, pid := range pids {
		c.signal(pid, syscall.SIGSTOP)
	}
	return func() {
		for _, pid := range pids {
			c.signal(pid, syscall.SIGCONT)
		}
	}
}

// signal sends a signal to a process of this host, which may have ended.
func (c *chaos) signal(pid int, s syscall.Signal) {
	c.Helper()
	if err := syscall.Kill(pid, s); !errors.Is(err, syscall.ESRCH) {
		c.must(err)
	}
}

// exhausted lets proxymatic open no more files.
func (c *chaos) exhausted() func() {
	var before unix.Rlimit
	c.must(unix.Prlimit(c.host.Pid(), unix.RLIMIT_NOFILE, nil, &before))
	c.must(unix.Prlimit(c.host.Pid(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}, nil))
	return func() { c.must(unix.Prlimit(c.host.Pid(), unix.RLIMIT_NOFILE, &before, nil)) }
}

func (c *chaos) hup() func() {
	c.must(c.host.Signal(syscall.SIGHUP))
	return nil
}

// second starts a proxymatic on the same run directory, which must name the first one and leave it alone.
func (c *chaos) second() func() {
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	out, err := c.host.Command(ctx, c.host.Flags(c.flags...)...)
	c.must(err)
	if out.Code != 1 || !strings.Contains(out.Stderr, fmt.Sprintf("another proxymatic (process %d ", c.host.Pid())) {
		c.Errorf("a second proxymatic: %+v, want that it names process %d", out, c.host.Pid())
	}
	return nil
}

// reloadedByOthers has HAProxy's master read its file again, which may be behind.
func (c *chaos) reloadedByOthers() func() {
	worker := c.worker()
	for _, pid := range c.host.HAProxy() {
		if pid != worker {
			c.signal(pid, syscall.SIGUSR2)
		}
	}
	return nil
}

// socketGone takes away the socket over which a new worker gets the listening sockets of the old one: connections that wait in those
// to be accepted are lost with it.
func (c *chaos) socketGone() func() {
	began := time.Now()
	c.must(os.Remove(c.host.Path("haproxy.sock")))
	c.change()
	c.must(stage.Until(c.patient(), func() error {
		_, err := c.host.Worker()
		return err
	}))
	c.excuses = append(c.excuses, excuse{began, time.Now()})
	return nil
}

// file lets somebody write nonsense into haproxy.cfg.
func (c *chaos) file(text string) func() {
	c.must(os.WriteFile(c.host.Config(), []byte(text), 0o644))
	return nil
}

// operator lets somebody change a server on the stats socket: it is drift, and lasts until everything is looked at.
func (c *chaos) operator(command string) func() {
	c.settledWithin(chaosPatience, c.wanted) // nobody takes a server whose only other one is just leaving
	running, err := c.host.Running()
	c.must(err)
	port := c.tcp[c.IntN(len(c.tcp))]
	if len(running[port]) < 2 { // the last one is not an operator's to take
		return nil
	}
	text, err := stage.Ask(c.host.Path("haproxy.sock"), "show servers state")
	c.must(err)
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 18 && strings.Contains(f[1], fmt.Sprintf("-%d", port)) && f[6] == "0" {
			_, err := stage.Ask(c.host.Path("haproxy.sock"), fmt.Sprintf(command, f[1]+"/"+f[3]))
			c.must(err)
			return nil
		}
	}
	return nil
}

func (c *chaos) penKilled() func() {
	c.signal(c.host.Pens()[c.IntN(len(c.udp))].PID, syscall.SIGKILL)
	return nil
}

// thief takes the port of a service that comes then.
func (c *chaos) thief() func() {
	port := c.ports(1)[0]
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	c.must(err)
	c.must(c.site.AddService(port, 1))
	return func() {
		c.must(l.Close())
		c.site.RemoveService(port)
	}
}

func (c *chaos) stateBroken() func() {
	_ = os.WriteFile(c.host.Path("state/services.json"), []byte("{"), 0o600) // there may be none yet
	return c.killed()
}

// failOver makes another replica lead, which knows of no health, and learns of it in a storm of events.
func (c *chaos) failOver() func() {
	c.site.Marathon.FailOver(c.counts["another replica leads"] % 2)
	return c.site.Marathon.RestoreHealth
}

func (c *chaos) nonsense() func() {
	c.site.Marathon.WriteStreams("event: status_update_event\ndata: {\"taskStatus\": 7, \"appId\": [\n\n")
	c.site.Marathon.WriteStreams("event: \x00\xff\ndata\ndata: []\n\n")
	c.site.Marathon.Emit("status_update_event", map[string]any{"appId": "/nobody", "taskStatus": "TASK_KILLED", "taskId": "nobody.1"})
	return nil
}

// streams lets new streams fail, and the old ones end.
func (c *chaos) streams(change func(*fakemarathon.Faults)) func() {
	undo := c.marathon(change)
	c.site.Marathon.CloseStreams()
	return undo
}
