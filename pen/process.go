package pen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	readyTimeout = 2 * time.Second // for the control socket of a pen that was started; it takes some 5 ms
	readyPause   = 2 * time.Millisecond
	stopTimeout  = 2 * time.Second // for a pen to end when it is told to; it takes some 3 ms
	maxLog       = 1 << 20         // of a service's log, in bytes
)

// process is a pen that runs.
type process struct {
	pid    int
	uid    int
	key    catalog.Key
	id     string // of the command that it was started with
	socket string // its control socket's path
}

// scan finds the pens of this run directory, by their command lines.
func (f files) scan() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("find running pens: %w", err)
	}
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, ok, err := f.inspect(pid)
		if err != nil {
			return nil, fmt.Errorf("find running pens: %w", err)
		}
		if ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// inspect tells whether a process is one of our pens; an error that this cannot be known. A pen in a container of this host is
// none, though its paths may be the same text.
func (f files) inspect(pid int) (process, bool, error) {
	proc := fmt.Sprintf("/proc/%d", pid)
	raw, err := os.ReadFile(proc + "/cmdline")
	if hidden(err) {
		return process{}, false, nil
	}
	args := strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
	at, socketAt := slices.Index(args, "-F")+1, slices.Index(args, "-C")+1
	if err != nil || filepath.Base(args[0]) != "pen" || at == 0 || at >= len(args) || socketAt == 0 || socketAt >= len(args) {
		return process{}, false, err
	}
	key, id, ok := f.readConfig(args[at])
	if !ok || filepath.Dir(args[socketAt]) != f.own() {
		return process{}, false, nil
	}
	status, err := os.ReadFile(proc + "/status")
	if hidden(err) || err == nil && namespaces(status) > 1 {
		return process{}, false, nil
	}
	var uid int
	if _, after, found := bytes.Cut(status, []byte("\nUid:")); err == nil && found {
		_, err = fmt.Sscan(string(after), &uid)
	}
	return process{pid: pid, uid: uid, key: key, id: id, socket: args[socketAt]}, err == nil, err
}

// hidden is an error of a process that is gone, or that we may not see: one that we could neither have started nor drive.
func hidden(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, fs.ErrPermission)
}

// namespaces counts the process namespaces that a process is in, from ours down to its own.
func namespaces(status []byte) int {
	_, after, _ := bytes.Cut(status, []byte("\nNSpid:"))
	line, _, _ := bytes.Cut(after, []byte("\n"))
	return len(bytes.Fields(line))
}

// gone reports whether a pen has ended. What cannot be known is not so.
func (d *Driver) gone(p process) bool {
	d.mu.Lock()
	c := d.children[p.pid]
	d.mu.Unlock()
	if c != nil {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid)); err == nil && bytes.Contains(stat, []byte(") Z ")) {
			<-c.done // it has ended and is about to be reaped
		}
		select {
		case <-c.done:
			return true
		default:
			return false
		}
	}
	is, ok, err := d.files.inspect(p.pid)
	return err == nil && (!ok || is != p)
}

// child is a pen that we started.
type child struct {
	process
	began  time.Time
	logged int64         // bytes that its log had before
	done   chan struct{} // closed when it has ended
	err    error         // how; to be read when done is closed
}

// start starts a pen and waits until it answers. Its configuration must have been written.
func (d *Driver) start(c command) (*child, error) {
	program, err := exec.LookPath("pen")
	if err != nil {
		return nil, errNotInstalled
	}
	log, err := d.files.openLog(c.key)
	if err != nil {
		return nil, fmt.Errorf("log of pen: %w", err)
	}
	defer log.Close()
	logged, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("log of pen: %w", err)
	}
	socket := d.files.newSocket(c.key, c.id())
	cmd := exec.Command(program, c.args(d.files, socket)...)
	cmd.Dir = "/"                                            // where a core that it leaves is written, or rather not
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"} // our own may have passwords
	// Never a pipe: pen would stop when nobody reads it. stdout only repeats what is asked over the control socket.
	cmd.Stderr = log
	cmd.SysProcAttr = d.user.attributes()
	began := d.now()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	started := &child{process: process{cmd.Process.Pid, d.user.uid, c.key, c.id(), socket}, began: began, logged: logged, done: make(chan struct{})}
	go func() { // ends with the child; nobody else reaps it
		_ = host.WaitExit(context.Background(), started.pid) // which holds no thread, unlike Wait, where that can be had
		started.err = cmd.Wait()
		close(started.done)
	}()
	if err := awaitReady(started); err != nil {
		_ = cmd.Process.Kill() // it may have ended already
		<-started.done
		_ = os.Remove(socket) // it may not have made it
		return nil, fmt.Errorf("%w: %s", err, d.files.ending(started))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.children[started.pid] = started
	return started, nil
}

// errNotInstalled says what is missing.
var errNotInstalled = errors.New("pen is not installed: install the package pen")

// awaitReady waits until the control socket is answered by the new process. Earlier a signal would end it, and what it was told
// be lost.
func awaitReady(started *child) error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout) // short, and to be finished once it has begun
	defer cancel()
	for {
		if _, pid, err := (control{started.socket}).ask(ctx, "pid"); err == nil && pid == started.pid {
			return nil
		}
		select {
		case <-started.done:
			return errors.New("pen ended as soon as it was started")
		case <-ctx.Done():
			return fmt.Errorf("pen was started, and its control socket did not answer within %s", readyTimeout)
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
	if is, ok, err := f.inspect(p.pid); err != nil {
		return fmt.Errorf("stop pen %d: %w", p.pid, err)
	} else if !ok || is != p {
		return nil // it has ended already
	}
	for _, signal := range signals {
		if err = handle.Signal(signal); errors.Is(err, os.ErrProcessDone) {
			return nil
		}
		if err == nil {
			limited, cancel := context.WithTimeout(ctx, stopTimeout)
			err = host.WaitExit(limited, p.pid)
			cancel()
		}
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("stop pen %d: %w", p.pid, err)
	}
	return nil
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

// maxWords is how much is read of a log for its last line.
const maxWords = 4096

// ending tells how a pen has ended, and what it said last if it ended by itself.
func (f files) ending(c *child) string {
	if c.err == nil {
		return "without an error"
	}
	var exit *exec.ExitError
	if !errors.As(c.err, &exit) || exit.ExitCode() < 0 {
		return c.err.Error()
	}
	words := ""
	if log, err := os.Open(f.log(c.key)); err == nil {
		defer log.Close()
		if info, err := log.Stat(); err == nil {
			from := max(c.logged, info.Size()-maxWords)
			text, _ := io.ReadAll(io.NewSectionReader(log, from, maxWords)) // what there is must do
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			words = unprintable.ReplaceAllString(lines[len(lines)-1], "?")
		}
	}
	if words == "" {
		return c.err.Error()
	}
	return fmt.Sprintf("%v; it said last: %s", c.err, words[:min(len(words), maxLine)])
}
