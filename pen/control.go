package pen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// answerTimeout is how long pen may take to answer. It answers between two packets; what it has to do takes milliseconds.
	answerTimeout = time.Second
	// maxAnswer bounds what is read of an answer: a line of `servers` has some 100 bytes, and tables some dozens of slots.
	maxAnswer = 1 << 20
)

// control is the control socket of a pen.
//
// pen serves it in its only loop: from the connection until the command has come it does nothing else. So the command is sent
// at once, and there is one a connection.
type control struct{ path string }

// ask sends a command and gives the answer and the process that gave it.
func (c control) ask(ctx context.Context, command string) (answer string, pid int, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			err = fmt.Errorf("its control socket does not answer %s: %w", strings.Fields(command)[0], err)
		}
	}()
	conn, err := c.tell(command)
	if err != nil {
		return "", 0, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", 0, err
		}
	}
	if pid, err = peer(conn); err != nil {
		return "", 0, err
	}
	text, err := io.ReadAll(io.LimitReader(conn, maxAnswer))
	return string(text), pid, err
}

// tell connects and sends a command, one right after the other: pen stands still in between, and would for as long as this process
// did if it was stopped there.
func (c control) tell(command string) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), c.path)
	defer file.Close() // the connection has another
	line, address := []byte(command+"\n"), &unix.SockaddrUnix{Name: c.path}
	if err := unix.Connect(fd, address); err != nil {
		return nil, err
	}
	if n, err := unix.Write(fd, line); err != nil || n != len(line) {
		return nil, errors.Join(err, fmt.Errorf("%d of %d bytes were sent", n, len(line)))
	}
	return net.FileConn(file)
}

// peer gives the process that listens on the other end.
func peer(conn net.Conn) (int, error) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a unix socket")
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// table is what `servers` answers.
type table struct {
	slots slots
	size  int         // slots that the table has, empty ones included
	flows map[int]int // by slot, what goes through it; connections of TCP services that are being made are not counted
}

// servers reads the table, and the process that has it.
func (c control) servers(ctx context.Context) (table, int, error) {
	text, pid, err := c.ask(ctx, "servers")
	if err != nil {
		return table{}, pid, err
	}
	t, err := readServers(text)
	return t, pid, err
}

// readServers reads lines such as
//
//	1 addr 10.0.0.1 port 31000 conn 3 max 0 hard 0 weight 0 prio 0 sx 6 rx 0
//	2 addr (unknown address family 0 port 0 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0
//
// of which the second is a slot that was never filled.
func readServers(text string) (table, error) {
	t := table{slots: slots{}, flows: map[int]int{}}
	for line := range strings.Lines(text) {
		w := strings.Fields(strings.Replace(line, "(unknown address family 0", "0.0.0.0", 1))
		if len(w) < 7 || w[1] != "addr" || w[3] != "port" || w[5] != "conn" {
			return table{}, fmt.Errorf("its control socket answers no table of servers: %q", line)
		}
		i, err := strconv.Atoi(w[0])
		port, portErr := strconv.ParseUint(w[4], 10, 16)
		flows, flowsErr := strconv.Atoi(w[6])
		if err = errors.Join(err, portErr, flowsErr); err != nil || i != t.size {
			return table{}, fmt.Errorf("its control socket answers no table of servers: %q", line)
		}
		t.size++
		t.flows[i] = flows
		if addr, err := netip.ParseAddr(w[2]); err == nil && !addr.Unmap().IsUnspecified() && port > 0 {
			t.slots[i] = netip.AddrPortFrom(addr.Unmap(), uint16(port))
		}
	}
	return t, nil
}

// include makes pen read a file of commands. pen says nothing to it: what it did must be looked at.
func (c control) include(ctx context.Context, path string) error {
	_, _, err := c.ask(ctx, "include "+path)
	return err
}
