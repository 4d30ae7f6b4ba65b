package haproxy

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/meltwater/proxymatic/runtime/host"
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
	// dismiss lets processes end that a start was to replace, and did not because it was interrupted: they still listen on the addresses,
	// beside the worker that answers.
	dismiss(worker int, addrs []netip.AddrPort) error
	// binder gives the user that binds HAProxy's ports, and whether that is known.
	binder() (uid int, known bool)
	// elders gives the old workers, which have connections from before a reload, beside the one that answers. An error means that
	// they are not known now.
	elders(ctx context.Context, worker int) ([]int, error)
	// end ends an old worker, with its connections.
	end(worker int) error
	// stop ends HAProxy, if it runs, when its connections have ended, and at the latest when ctx ends.
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
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return &refusedError{"haproxy refuses " + path, string(out)}
	}
	return nil
}

// processID stands in each line of HAProxy's output, behind the time in 2.2, and would make one trouble look like another each time.
var processID = regexp.MustCompile(`(\[\w+\])\s+(?:\d+/\d+ )?\(\d+\) : `)

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

// listening gives the processes that were started with a path in their command line and that listen on a TCP port: on one of the
// addresses, nil for any.
func listening(path string, addrs []netip.AddrPort) []int {
	sockets, err := host.Sockets(host.TCP, host.Listening, 0)
	if err != nil {
		return nil
	}
	owners := host.Owners()
	var out []int
	seen := map[int]bool{}
	for _, s := range sockets {
		if addrs != nil && !slices.Contains(addrs, s.Local) {
			continue
		}
		if pid := owners[s.Inode]; pid != 0 && !seen[pid] {
			if seen[pid] = true; host.CommandLineHas(pid, path) && pid != os.Getpid() {
				out = append(out, pid)
			}
		}
	}
	return out
}

// endWorker ends an old worker, and its connections, at once. A process whose command line does not have the path of haproxy.cfg
// is another, as when it was seen from another container.
func endWorker(pid int, config string) error {
	if !host.CommandLineHas(pid, config) {
		return fmt.Errorf("process %d is not one of HAProxy here", pid)
	}
	return syscall.Kill(pid, syscall.SIGTERM)
}

// siblings gives the processes that a process' own parent started with a path in their command line, without that process.
func siblings(pid int, path string) []int {
	parent := host.Parent(pid)
	if parent == 0 {
		return nil
	}
	var out []int
	for _, other := range host.Processes() {
		if other != pid && host.Parent(other) == parent && host.CommandLineHas(other, path) {
			out = append(out, other)
		}
	}
	return out
}
