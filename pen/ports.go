package pen

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// checkPort refuses a port that somebody else has. pen would share it with another of the same user without a word, and each
// would get a part of the clients. ours are the pens that may have it.
func checkPort(c command, ours []process) error {
	transport := host.TCP
	if c.key.Proto == catalog.UDP {
		transport = host.UDP
	}
	sockets, err := host.Sockets(transport, host.Listening, c.key.Port)
	if err != nil {
		return err
	}
	var owners map[uint32]int // costs a walk through all processes
	for _, s := range sockets {
		if s.Local.Port() != c.key.Port || !s.Excludes(c.bind) {
			continue
		}
		if owners == nil {
			owners = host.Owners()
		}
		owner := owners[s.Inode]
		if slices.ContainsFunc(ours, func(p process) bool { return p.pid == owner || owner == 0 && p.uid == int(s.UID) }) {
			continue
		}
		return fmt.Errorf("port %s is taken by %s; end that, or give the service another port", c.key, nameOf(owner, s.UID))
	}
	return nil
}

func nameOf(pid int, uid uint32) string {
	if pid == 0 { // not ours to see
		return fmt.Sprintf("a process of user %d", uid)
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(name)), pid)
}
