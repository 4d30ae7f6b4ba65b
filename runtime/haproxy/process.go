package haproxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process starts HAProxy and makes it load its file anew. Whether that worked is judged by the worker that answers.
type process interface {
	// start starts HAProxy, which does not answer now. One that is deaf serves until the new one does.
	start(ctx context.Context) error
	// deaf reports whether HAProxy runs and listens on services' ports, though nobody answers on its stats socket. A reload
	// does not bring the socket back: the new worker inherits the old one's, which has no path any more.
	deaf() bool
	// reload makes the running HAProxy build a new worker from the file. An error means that it was refused.
	reload(ctx context.Context) error
	// refused tells why a start or reload that was begun has failed, as far as that can be known; nil while it may succeed.
	refused(ctx context.Context) error
	// binder gives the user that binds HAProxy's ports, and whether that is known.
	binder() (uid int, known bool)
	// stop ends HAProxy, which runs, when its connections have ended, and at the latest when ctx ends.
	stop(ctx context.Context) error
}

// findHAProxy looks for the program, also where unprivileged users do not.
func findHAProxy() (string, error) {
	path, err := exec.LookPath("haproxy")
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin/", "/usr/local/sbin/"} {
		if _, statErr := os.Stat(dir + "haproxy"); statErr == nil {
			return dir + "haproxy", nil
		}
	}
	return "", fmt.Errorf("haproxy is not installed: install the package haproxy: %w", err)
}

// checkConfig lets haproxy read a configuration and gives its complaints. It binds nothing.
func checkConfig(ctx context.Context, path string) error {
	program, err := findHAProxy()
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, program, "-c", "-f", path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("haproxy refuses %s: %s", path, complaints(string(out)))
	}
	return nil
}

// processID stands in each line of HAProxy's output, and would make one trouble look like another each time.
var processID = regexp.MustCompile(`(\[\w+\])\s+\(\d+\) : `)

// complaints keeps the lines of HAProxy's output that say what is wrong.
func complaints(out string) string {
	var lines []string
	for line := range strings.Lines(processID.ReplaceAllString(out, "$1 ")) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "[ALERT]") {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return strings.TrimSpace(out)
	}
	if len(lines) > 5 {
		lines = append(lines[:5], "...")
	}
	return strings.Join(lines, "; ")
}

// waitExit blocks until a process has ended or ctx does. A process that is not there has ended.
func waitExit(ctx context.Context, pid int) error {
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

// listening gives the processes that were started with a path in their command line and that listen on a TCP port.
func listening(path string) []int {
	sockets, err := tcpSockets(listenStates, 0)
	if err != nil {
		return nil
	}
	owners := socketOwners()
	var out []int
	seen := map[int]bool{}
	for _, s := range sockets {
		if pid := owners[s.inode]; pid != 0 && !seen[pid] {
			if seen[pid] = true; commandLineHas(pid, path) && pid != os.Getpid() {
				out = append(out, pid)
			}
		}
	}
	return out
}
