package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The kernel is asked for sockets through sock_diag (man 7 sock_diag): /proc/net/tcp lists every connection in TIME_WAIT too,
// and reading it made passes take seconds under load.

// Transport is what a socket speaks.
type Transport uint8

// The two transports, by the kernel's numbers.
const (
	TCP Transport = unix.IPPROTO_TCP
	UDP Transport = unix.IPPROTO_UDP
)

// Socket is a TCP or UDP socket of this network namespace.
type Socket struct {
	Local  netip.AddrPort
	Listen bool   // it takes what comes from anybody: a TCP listener, or a UDP socket that is not connected
	UID    uint32 // who made it
	Inode  uint32 // 0 when no process has it any more (TIME_WAIT)
	only6  bool   // an IPv6 listener that takes no IPv4 connections
}

// States selects sockets, a bit a state.
type States uint32

// Listening are the sockets with Listen, Any are all.
const (
	Listening States = 1<<tcpListen | 1<<tcpClose
	Any       States = 0xfff
)

const (
	tcpClose  = 7  // TCP_CLOSE (include/net/tcp_states.h of Linux), which a UDP socket has that is bound and not connected
	tcpListen = 10 // TCP_LISTEN
	diagSize  = 72 // of struct inet_diag_msg
)

// Sockets gives the sockets of both IP families that are in one of the states; of one local port, or of all when it is 0.
func Sockets(transport Transport, states States, port uint16) ([]Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	defer unix.Close(fd)
	var out []Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := unix.Sendto(fd, diagRequest(family, transport, states, port), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return nil, fmt.Errorf("ask sock_diag: %w", err)
		}
		if out, err = readDiag(fd, out); err != nil {
			return nil, fmt.Errorf("read sock_diag: %w", err)
		}
	}
	return out, nil
}

// diagRequest is a struct nlmsghdr and a struct inet_diag_req_v2.
func diagRequest(family uint8, transport Transport, states States, port uint16) []byte {
	const size = 16 + 56
	b := make([]byte, size)
	order := binary.NativeEndian
	order.PutUint32(b[0:], size)
	order.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	order.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b[16], b[17] = family, byte(transport)
	order.PutUint32(b[20:], uint32(states))
	binary.BigEndian.PutUint16(b[24:], port)
	return b
}

// readDiag reads answers up to the end of the list.
func readDiag(fd int, out []Socket) ([]Socket, error) {
	buffer := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil {
			return nil, err
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return out, nil
			case unix.NLMSG_ERROR:
				return out, diagError(m.Data)
			case unix.SOCK_DIAG_BY_FAMILY:
				if len(m.Data) < diagSize {
					return nil, fmt.Errorf("a message of %d bytes", len(m.Data))
				}
				out = append(out, diagSocket(m.Data))
			}
		}
	}
}

// diagError reads a struct nlmsgerr. A kernel without the family, or without the diag module, has nothing to tell: binding
// will show what it can.
func diagError(data []byte) error {
	if len(data) < 4 {
		return errors.New("a short error")
	}
	errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(data)))
	if errno == 0 || errno == syscall.ENOENT || errno == syscall.EINVAL {
		return nil
	}
	return errno
}

// diagSocket reads a struct inet_diag_msg.
func diagSocket(b []byte) Socket {
	addr := netip.AddrFrom4([4]byte(b[8:12]))
	if b[0] == unix.AF_INET6 {
		addr = netip.AddrFrom16([16]byte(b[8:24]))
	}
	return Socket{Local: netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[4:])), Listen: 1<<b[1]&Listening != 0, only6: only6(b[diagSize:]),
		UID: binary.NativeEndian.Uint32(b[64:]), Inode: binary.NativeEndian.Uint32(b[68:])}
}

// only6 looks for the attribute INET_DIAG_SKV6ONLY, which IPv6 listeners have.
func only6(attributes []byte) bool {
	const head, skv6only = 4, 11
	for len(attributes) > head {
		size := int(binary.NativeEndian.Uint16(attributes))
		if size < head || size > len(attributes) {
			return false
		}
		if binary.NativeEndian.Uint16(attributes[2:]) == skv6only && size > head {
			return attributes[head] != 0
		}
		attributes = attributes[min(len(attributes), (size+3)&^3):]
	}
	return false
}

// Excludes reports whether a socket's address stands in the way of another on its port.
func (s Socket) Excludes(a netip.Addr) bool {
	if a.Is4() && s.only6 {
		return false
	}
	return Overlap(a, s.Local.Addr())
}

// Overlap reports whether two bound addresses exclude each other on one port.
func Overlap(a, b netip.Addr) bool {
	a, b = a.Unmap(), b.Unmap()
	return a == b || a.IsUnspecified() || b.IsUnspecified()
}

// Owners gives the process of each socket by its inode, as far as we may see it. It walks through all processes.
func Owners() map[uint32]int {
	out := map[uint32]int{}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return out
	}
	for _, link := range links {
		to, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(to, "socket:[") {
			continue
		}
		var inode uint32
		var pid int
		if _, err := fmt.Sscanf(to, "socket:[%d]", &inode); err != nil {
			continue
		}
		if _, err := fmt.Sscanf(link, "/proc/%d/", &pid); err == nil {
			out[inode] = pid
		}
	}
	return out
}

// SocketsOf gives the sockets of one process by their inodes; an error where that may not be seen.
func SocketsOf(pid int) (map[uint32]bool, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	out := map[uint32]bool{}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		var inode uint32
		if _, err := fmt.Sscanf(to, "socket:[%d]", &inode); err == nil {
			out[inode] = true
		}
	}
	return out, nil
}
