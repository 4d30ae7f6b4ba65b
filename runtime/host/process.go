package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// WaitExit blocks until a process has ended or ctx does. A process that is not there has ended.
func WaitExit(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // PIDFD_NONBLOCK is refused before Linux 5.10
		return errors.Join(fmt.Errorf("watch process %d: %w", pid, err), unix.Close(fd))
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	defer file.Close()
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// CommandLineHas reports whether a process was started with a path in its command line.
func CommandLineHas(pid int, path string) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(raw), path)
}

// Processes gives all processes that are seen from here.
func Processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// Parent gives a process' parent; 0 when that is not known.
func Parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, after, _ := bytes.Cut(stat, []byte(") ")) // behind the name, which can be anything
	fields := bytes.Fields(after)
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(string(fields[1]))
	return parent
}

// Pulse tells how much a process has worked, and how often it has slept.
type Pulse struct {
	Worked time.Duration // in user and kernel mode
	Slept  uint64        // times that it gave up the processor by itself
}

// ReadPulse reads the pulse of a process from its first thread.
func ReadPulse(pid int) (Pulse, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Pulse{}, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Pulse{}, err
	}
	const tick = 10 * time.Millisecond // of /proc on every Linux: USER_HZ is 100
	var user, system int64
	var p Pulse
	_, after, _ := bytes.Cut(stat, []byte(") ")) // behind the name, which can be anything
	if fields := bytes.Fields(after); len(fields) > 12 {
		_, err = fmt.Sscan(string(fields[11])+" "+string(fields[12]), &user, &system)
	}
	_, after, found := bytes.Cut(status, []byte("\nvoluntary_ctxt_switches:"))
	if err != nil || !found {
		return Pulse{}, fmt.Errorf("read the times of process %d: %w", pid, errors.Join(err, errors.ErrUnsupported))
	}
	p.Worked = time.Duration(user+system) * tick
	_, err = fmt.Sscan(string(after), &p.Slept)
	return p, err
}

// Restless reports whether a process has worked since an earlier pulse, for half a second at least, and hardly ever slept.
func (p Pulse) Restless(earlier Pulse) bool {
	return p.Worked-earlier.Worked >= 500*time.Millisecond && p.Slept-earlier.Slept < 5
}
