package haproxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// The kernel is asked for sockets through sock_diag (man 7 sock_diag): /proc/net/tcp lists every connection in TIME_WAIT too,
// and reading it made passes take seconds under load.

// tcpSocket is a TCP socket of this network namespace.
type tcpSocket struct {
	local  netip.AddrPort
	listen bool
	only6  bool // an IPv6 listener that takes no IPv4 connections
	uid    uint32
	inode  uint32 // 0 when no process has it any more (TIME_WAIT)
}

const (
	tcpListen    = 10             // TCP_LISTEN (include/net/tcp_states.h of Linux)
	listenStates = 1 << tcpListen // sockets that listen
	allStates    = 0xfff          // every socket
	diagSize     = 72             // of struct inet_diag_msg
)

// tcpSockets gives the sockets of both families that are in one of the states; of one local port, or of all when it is 0.
func tcpSockets(states uint32, port uint16) ([]tcpSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	defer unix.Close(fd)
	var out []tcpSocket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := unix.Sendto(fd, diagRequest(family, states, port), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return nil, fmt.Errorf("ask sock_diag: %w", err)
		}
		if out, err = readDiag(fd, out); err != nil {
			return nil, fmt.Errorf("read sock_diag: %w", err)
		}
	}
	return out, nil
}

// diagRequest is a struct nlmsghdr and a struct inet_diag_req_v2.
func diagRequest(family uint8, states uint32, port uint16) []byte {
	const size = 16 + 56
	b := make([]byte, size)
	order := binary.NativeEndian
	order.PutUint32(b[0:], size)
	order.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	order.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b[16], b[17] = family, unix.IPPROTO_TCP
	order.PutUint32(b[20:], states)
	binary.BigEndian.PutUint16(b[24:], port)
	return b
}

// readDiag reads answers up to the end of the list.
func readDiag(fd int, out []tcpSocket) ([]tcpSocket, error) {
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
func diagSocket(b []byte) tcpSocket {
	addr := netip.AddrFrom4([4]byte(b[8:12]))
	if b[0] == unix.AF_INET6 {
		addr = netip.AddrFrom16([16]byte(b[8:24]))
	}
	return tcpSocket{local: netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[4:])), listen: b[1] == tcpListen, only6: only6(b[diagSize:]),
		uid: binary.NativeEndian.Uint32(b[64:]), inode: binary.NativeEndian.Uint32(b[68:])}
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
