package pen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	readyTimeout = 5 * time.Second // for the control socket of a pen that was started; it takes some 5 ms
	readyPause   = 2 * time.Millisecond
	stopTimeout  = 2 * time.Second // for a pen to end when it is told to; it takes some 3 ms
	maxLog       = 1 << 20         // of a service's log, in bytes
)

// process is a pen that runs.
type process struct {
	pid int
	uid int
	key catalog.Key
	id  string
}

// scan finds the pens of this run directory, by their command lines. Those of another process namespace are not seen.
func (f files) scan() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("find running pens: %w", err)
	}
	var out []process
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil {
			continue
		}
		if p, ok := f.inspect(pid); ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// inspect tells whether a process is one of our pens.
func (f files) inspect(pid int) (process, bool) {
	proc := fmt.Sprintf("/proc/%d", pid)
	raw, err := os.ReadFile(proc + "/cmdline")
	args := strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
	i := slices.Index(args, "-F")
	if err != nil || filepath.Base(args[0]) != "pen" || i < 0 || i+1 >= len(args) {
		return process{}, false
	}
	key, id, ok := f.readConfig(args[i+1])
	info, err := os.Stat(proc)
	if !ok || err != nil {
		return process{}, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return process{pid: pid, uid: int(stat.Uid), key: key, id: id}, ok
}

// child is a pen that we started.
type child struct {
	process
	began time.Time
	ended atomic.Pointer[string] // how
	done  chan struct{}          // closed when it has
}

// start starts a pen and waits until it answers. Its configuration must have been written.
func (d *Driver) start(ctx context.Context, c command) (*child, error) {
	program, err := exec.LookPath("pen")
	if err != nil {
		return nil, fmt.Errorf("pen is not installed: install the package pen: %w", err)
	}
	log, err := d.files.openLog(c.key)
	if err != nil {
		return nil, fmt.Errorf("log of pen: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(program, c.args(d.files)...)
	cmd.Dir = "/" // where a core that it leaves is written, or rather not
	// Never a pipe: pen would stop when nobody reads it. stdout only repeats what is asked over the control socket.
	cmd.Stderr = log
	cmd.SysProcAttr = d.user.attributes()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	started := &child{process: process{pid: cmd.Process.Pid, uid: d.user.uid, key: c.key, id: c.id()}, began: d.now(), done: make(chan struct{})}
	go func() { // ends with the child; nobody else reaps it
		text := "ended"
		if err := cmd.Wait(); err != nil {
			text = err.Error()
		}
		started.ended.Store(&text)
		close(started.done)
	}()
	if err := d.awaitReady(ctx, c, started); err != nil {
		_ = cmd.Process.Kill() // it may have ended already
		<-started.done
		return nil, fmt.Errorf("%w; it said last: %s", err, d.files.lastWords(c.key))
	}
	return started, nil
}

// awaitReady waits until the control socket is answered by the new process. Earlier a signal would end it, and what it was told
// be lost.
func (d *Driver) awaitReady(ctx context.Context, c command, started *child) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		if _, pid, err := (control{d.files.socket(c.key, c.id())}).ask(ctx, "pid"); err == nil && pid == started.pid {
			return nil
		}
		select {
		case <-started.done:
			return fmt.Errorf("pen ended as soon as it was started: %s", *started.ended.Load())
		case <-ctx.Done():
			return fmt.Errorf("pen was started, but its control socket does not answer: %w", ctx.Err())
		case <-time.After(readyPause):
		}
	}
}

// stop ends a pen and waits for that. One that does not listen to reason is killed.
func (f files) stop(ctx context.Context, p process) error {
	return f.end(ctx, p, syscall.SIGTERM, syscall.SIGKILL)
}

// kill ends a pen that would not hear anything else.
func (f files) kill(ctx context.Context, p process) error { return f.end(ctx, p, syscall.SIGKILL) }

func (f files) end(ctx context.Context, p process, signals ...syscall.Signal) error {
	handle, err := os.FindProcess(p.pid) // holds on to this process, so that no other with its id is meant
	if err != nil {
		return fmt.Errorf("stop pen %d: %w", p.pid, err)
	}
	if is, ok := f.inspect(p.pid); !ok || is != p {
		return nil // it has ended already
	}
	for _, signal := range signals {
		if err := handle.Signal(signal); errors.Is(err, os.ErrProcessDone) {
			return nil
		} else if err != nil {
			return fmt.Errorf("stop pen %d: %w", p.pid, err)
		}
		limited, cancel := context.WithTimeout(ctx, stopTimeout)
		err = host.WaitExit(limited, p.pid)
		cancel()
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("stop pen %d: %w", p.pid, err)
}

// openLog opens the log of a service's pens, empty if it had become long.
func (f files) openLog(key catalog.Key) (*os.File, error) {
	f.trimLog(key)
	return os.OpenFile(f.log(key), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
}

// trimLog empties a log that has become long. pen appends, so it goes on at the beginning.
func (f files) trimLog(key catalog.Key) {
	if info, err := os.Stat(f.log(key)); err == nil && info.Size() > maxLog {
		_ = os.Truncate(f.log(key), 0) // it is tried again at the next resync
	}
}

// lastWords gives the last line of a service's log; empty when there is none.
func (f files) lastWords(key catalog.Key) string {
	text, err := os.ReadFile(f.log(key))
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	last := unprintable.ReplaceAllString(string(lines[len(lines)-1]), "?")
	return last[:min(len(last), maxLine)]
}
