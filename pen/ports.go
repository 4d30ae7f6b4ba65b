package pen

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// checkPort refuses a port that somebody else has. pen would share it with another of the same user without a word, and each
// would get a part of the clients. ours are the pens that may have it.
func checkPort(c command, ours []process) error {
	sockets, err := listeners(c)
	if err != nil {
		return err
	}
	for _, s := range sockets {
		if !slices.ContainsFunc(ours, func(p process) bool { return holds(p, s) }) {
			return fmt.Errorf("port %s is taken by %s; end that, or give the service another port", c.key, nameOf(host.Owners()[s.Inode], s.UID))
		}
	}
	return nil
}

// sharer tells who else listens on the port of pens that serve; empty when nobody does.
func sharer(c command, ours []process) string {
	if sockets, err := listeners(c); err == nil && len(sockets) < 2 {
		return ""
	}
	if err := checkPort(c, ours); err != nil {
		return err.Error() + "; until then a part of the clients goes there"
	}
	return ""
}

// listeners gives the sockets that stand in the way of another on a service's port, or would share it.
func listeners(c command) ([]host.Socket, error) {
	transport := host.TCP
	if c.key.Proto == catalog.UDP {
		transport = host.UDP
	}
	sockets, err := host.Sockets(transport, host.Listening, c.key.Port)
	return slices.DeleteFunc(sockets, func(s host.Socket) bool { return s.Local.Port() != c.key.Port || !s.Excludes(c.bind) }), err
}

// holds reports whether a pen has a socket. In a container it may not be seen whose a socket is, only of which user.
func holds(p process, s host.Socket) bool {
	if p.pid == 0 { // of another run
		return p.uid == int(s.UID)
	}
	inodes, err := host.SocketsOf(p.pid)
	return inodes[s.Inode] || errors.Is(err, fs.ErrPermission) && p.uid == int(s.UID)
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
