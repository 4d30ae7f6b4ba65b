package haproxy

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// One taken port in a reload makes HAProxy 2.6 refuse the connections of all services for two seconds, and `haproxy -c`
// does not see it. So each new port is proven free, and held, before it is written.

// ports tells about the TCP ports of this host; the tests have another.
type ports interface {
	// look gives those of the addresses that somebody other than HAProxy listens on, and who. self is the worker's
	// process, 0 when there is none. connections says that sockets which do not listen count too.
	look(addrs []netip.AddrPort, self int, connections bool) (map[netip.AddrPort]string, error)
	// bind takes an address as the given way says, without listening on it.
	bind(addr netip.AddrPort, how binding) (io.Closer, error)
}

// binding is how an address is taken.
type binding int

const (
	// hold takes the address so that nobody but HAProxy, bound by the same user, can take it too.
	hold binding = iota
	// try binds as HAProxy does, to see whether it could; to be closed at once, since it would be in HAProxy's way.
	try
)

// hostPorts are the ports of the network namespace that we live in.
type hostPorts struct{}

func (hostPorts) look(addrs []netip.AddrPort, self int, connections bool) (map[netip.AddrPort]string, error) {
	taken := map[netip.AddrPort]string{}
	if len(addrs) == 0 {
		return taken, nil
	}
	sockets, err := tcpSockets(listenStates, 0)
	if err != nil {
		return nil, err
	}
	wanted := map[uint16][]netip.AddrPort{}
	for _, a := range addrs {
		if connections {
			more, err := tcpSockets(allStates, a.Port())
			if err != nil {
				return nil, err
			}
			sockets = append(sockets, more...)
		}
		wanted[a.Port()] = append(wanted[a.Port()], a)
	}
	for _, s := range sockets {
		for _, a := range wanted[s.local.Port()] {
			if _, known := taken[a]; known || !overlap(a.Addr(), s.local.Addr()) {
				continue
			}
			if who, foreign := holder(s, self); foreign {
				taken[a] = who
			}
		}
	}
	return taken, nil
}

// overlap reports whether two bound addresses exclude each other on one port.
func overlap(a, b netip.Addr) bool {
	a, b = a.Unmap(), b.Unmap()
	return a == b || a.IsUnspecified() || b.IsUnspecified()
}

// holder tells who has a socket, and whether that is anybody but HAProxy. A connection of an HAProxy (an old worker's, say)
// does not stop another from binding; a listener of an HAProxy that is not ours does.
func holder(s tcpSocket, self int) (string, bool) {
	kind := "a connection"
	if s.listen {
		kind = "a listener"
	}
	if s.inode == 0 {
		return "a connection that was closed less than a minute ago (TIME_WAIT)", true
	}
	pid, program := owner(s.inode)
	switch {
	case pid == 0:
		return fmt.Sprintf("%s of user %d", kind, s.uid), true
	case pid == self, program == "haproxy" && !s.listen:
		return "", false
	}
	return fmt.Sprintf("%s of %s (pid %d)", kind, program, pid), true
}

// owner finds the process that has a socket; pid 0 when it cannot be seen.
func owner(inode uint32) (pid int, program string) {
	target := fmt.Sprintf("socket:[%d]", inode)
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, ""
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != target {
			continue
		}
		dir := filepath.Dir(filepath.Dir(link))
		name, _ := os.ReadFile(filepath.Join(dir, "comm"))
		if _, err := fmt.Sscanf(filepath.Base(dir), "%d", &pid); err == nil {
			return pid, strings.TrimSpace(string(name))
		}
	}
	return 0, ""
}

// bind never listens: clients are still refused. A hold has SO_REUSEPORT without SO_REUSEADDR: HAProxy can bind beside it,
// nobody else can, and a connection that uses the port as its own source makes it fail. A try has both, like HAProxy.
func (hostPorts) bind(addr netip.AddrPort, how binding) (io.Closer, error) {
	family := unix.AF_INET
	var sockaddr unix.Sockaddr
	if addr.Addr().Is4() {
		sockaddr = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	} else {
		family = unix.AF_INET6
		sockaddr = &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", addr, err)
	}
	held := descriptor(fd)
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	if how == try {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bind %s: %w", addr, err), held.Close())
	}
	return held, nil
}

// descriptor is an open file descriptor.
type descriptor int

// Close closes it.
func (d descriptor) Close() error { return unix.Close(int(d)) }

// reservations are held through a reload.
type reservations []io.Closer

// release lets the ports go. Nothing can be done about an error of close.
func (r reservations) release() {
	for _, c := range r {
		_ = c.Close()
	}
}

// prove gives those of the addresses that HAProxy could not bind, and who has them. The others are held when how is hold:
// that needs HAProxy to bind as our own user, since a reservation of another would itself be the thief.
func prove(p ports, addrs []netip.AddrPort, self int, how binding) (map[netip.AddrPort]string, reservations, error) {
	taken, err := p.look(addrs, self, false)
	if err != nil {
		return nil, nil, err
	}
	var held reservations
	for _, a := range addrs {
		if _, known := taken[a]; known {
			continue
		}
		c, err := p.bind(a, how)
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			taken[a] = who(p, a, self)
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			taken[a] = "nobody, but this host does not have the address"
		case errors.Is(err, syscall.EACCES): // HAProxy may have a right that we lack
		case err != nil:
			held.release()
			return nil, nil, err
		case how == try:
			reservations{c}.release()
		default:
			held = append(held, c)
		}
	}
	return taken, held, nil
}

// who names the holder of an address that could not be bound.
func who(p ports, a netip.AddrPort, self int) string {
	if found, err := p.look([]netip.AddrPort{a}, self, true); err == nil && found[a] != "" {
		return found[a]
	}
	return "somebody who cannot be seen from here"
}
