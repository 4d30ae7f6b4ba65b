package haproxy

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/meltwater/proxymatic/runtime/host"
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
type hostPorts struct {
	config string                  // an HAProxy with this file in its command line is ours
	beside *atomic.Pointer[Beside] // whose ports will be ours
}

func (h hostPorts) look(addrs []netip.AddrPort, self int, connections bool) (map[netip.AddrPort]string, error) {
	taken := map[netip.AddrPort]string{}
	if len(addrs) == 0 {
		return taken, nil
	}
	sockets, err := host.Sockets(host.TCP, host.Listening, 0)
	if err != nil {
		return nil, err
	}
	wanted := map[uint16][]netip.AddrPort{}
	for _, a := range addrs {
		if connections {
			more, err := host.Sockets(host.TCP, host.Any, a.Port())
			if err != nil {
				return nil, err
			}
			sockets = append(sockets, more...)
		}
		wanted[a.Port()] = append(wanted[a.Port()], a)
	}
	var owners map[uint32]int // costs a walk through all processes
	for _, s := range sockets {
		for _, a := range wanted[s.Local.Port()] {
			if _, known := taken[a]; known || !s.Excludes(a.Addr()) || h.beside.Load().has(s.Local) {
				continue
			}
			if owners == nil {
				owners = host.Owners()
			}
			if who, foreign := h.holder(s, owners[s.Inode], self); foreign {
				taken[a] = who
			}
		}
	}
	return taken, nil
}

// holder tells who has a socket, and whether that is anybody but HAProxy. A connection of an HAProxy (an old worker's, say)
// does not stop another from binding; a listener of an HAProxy that is not ours does.
func (h hostPorts) holder(s host.Socket, pid, self int) (string, bool) {
	kind := "a connection"
	if s.Listen {
		kind = "a listener"
	}
	switch {
	case s.Inode == 0:
		return "a connection that was closed less than a minute ago (TIME_WAIT)", true
	case pid == 0:
		return fmt.Sprintf("%s of user %d", kind, s.UID), true
	case pid == self:
		return "", false
	}
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	program := strings.TrimSpace(string(name))
	if program == "haproxy" && (!s.Listen || host.CommandLineHas(pid, h.config)) {
		return "", false
	}
	return fmt.Sprintf("%s of %s (pid %d)", kind, program, pid), true
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
		case errors.Is(err, syscall.EACCES) && how == hold && !moreThanWe():
			taken[a] = "nobody, but neither proxymatic nor its HAProxy may bind it: ports below net.ipv4.ip_unprivileged_port_start need " +
				"root or CAP_NET_BIND_SERVICE"
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

// moreThanWe reports whether HAProxy's program carries capabilities of its own.
func moreThanWe() bool {
	program, err := findHAProxy()
	if err != nil {
		return false
	}
	size, err := unix.Getxattr(program, "security.capability", nil)
	return err == nil && size > 0
}

// who names the holder of an address that could not be bound.
func who(p ports, a netip.AddrPort, self int) string {
	if found, err := p.look([]netip.AddrPort{a}, self, true); err == nil && found[a] != "" {
		return found[a]
	}
	return "somebody who cannot be seen from here"
}
