package pen

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A limit cannot be raised again by who is not root, so it is lowered in a process of its own: the test runs itself.
func TestFlowsFitTheLimitOfOpenFiles(t *testing.T) {
	const short = "a service has at most %d connections or flows instead of --pen-clients %d: that needs %d open files, and the limit is %d; raise it " +
		"(ulimit -n, LimitNOFILE=) or lower --pen-clients"
	for _, c := range []struct {
		name          string
		limit, wanted int
		root          bool
		want          string // flows, what children get, problem, error
	}{
		{"enough", 2064, 1000, false, `1000 2064 ""`},
		{"one too few", 2063, 1000, false, `999 2063 "` + fmt.Sprintf(short, 999, 1000, 2064, 2063) + `"`},
		{"one flow", 66, 1000, false, `1 66 "` + fmt.Sprintf(short, 1, 1000, 2064, 66) + `"`},
		{"none", 65, 1000, false, `0 65 "" 65 open files are too few for pen; raise the limit (ulimit -n, LimitNOFILE=)`},
		{"a limit of millions is not used up", 1 << 19, 1000, false, `1000 65536 ""`},
		{"unless it must be", 1 << 19, 100_000, false, `100000 200064 ""`},
		{"root raises it", 1000, 1000, true, `1000 2064 ""`},
	} {
		if !mayRaise() && (c.root || uint64(c.limit) > hardLimit(t)) {
			t.Logf("%s: left out, for want of CAP_SYS_RESOURCE", c.name)
			continue
		}
		cmd := exec.Command(os.Args[0], "-test.run", "^TestPrintFit$")
		cmd.Env = append(os.Environ(), fmt.Sprintf("PM_FIT=%d %d %t", c.limit, c.wanted, c.root))
		out, err := cmd.CombinedOutput()
		got, _, _ := strings.Cut(string(out), "\n")
		if err != nil || got != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.name, got, err, c.want)
		}
	}
}

func mayRaise() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func hardLimit(t *testing.T) uint64 {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return limit.Max
}

// TestPrintFit does nothing but in the process that TestFlowsFitTheLimitOfOpenFiles starts.
func TestPrintFit(t *testing.T) {
	var limit, wanted int
	var root bool
	if _, err := fmt.Sscan(os.Getenv("PM_FIT"), &limit, &wanted, &root); err != nil {
		return
	}
	runtime.LockOSThread() // capabilities belong to threads
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(min(limit, 64)), Max: uint64(limit)}); err != nil {
		t.Fatal(err)
	}
	if !root {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			t.Fatal(err)
		}
	}
	flows, problem, fitErr := fitFlows(wanted)
	inherited, err := exec.Command("sh", "-c", "ulimit -n").Output()
	if err != nil {
		t.Fatal(err)
	}
	line := fmt.Sprintf("%d %s %q", flows, strings.TrimSpace(string(inherited)), problem)
	if fitErr != nil {
		line += " " + fitErr.Error()
	}
	fmt.Println(line)
}

func TestWhoEntersADirectory(t *testing.T) {
	nobody := identity{uid: 65534, gid: 65534}
	for _, c := range []struct {
		mode     os.FileMode
		uid, gid uint32
		want     bool
	}{
		{0o755, 0, 0, true}, {0o701, 0, 0, true}, {0o750, 0, 0, false}, {0o700, 0, 0, false}, {0o744, 0, 0, false},
		{0o700, 65534, 0, true}, {0o100, 65534, 0, true}, {0o677, 65534, 65534, false}, // the owner's bit alone counts for the owner
		{0o710, 0, 65534, true}, {0o767, 0, 65534, false},
	} {
		if got := enters(c.mode|os.ModeDir, &syscall.Stat_t{Uid: c.uid, Gid: c.gid}, nobody); got != c.want {
			t.Errorf("%v of %d:%d: got %t", c.mode, c.uid, c.gid, got)
		}
	}
}
