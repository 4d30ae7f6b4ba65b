package stage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Service ports lie below those that the kernel gives to clients (32768 and up), so that no client has one by chance.
const (
	firstPort = 20000
	lastPort  = 30000
)

// FreePorts gives TCP ports that nothing uses, not even a connection that was closed a moment ago.
func FreePorts(n int) ([]int, error) {
	// Go would set SO_REUSEADDR, with which TIME_WAIT does not count.
	exclusive := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 0) }), err)
	}}
	var out []int
	start := rand.N(lastPort - firstPort)
	for i := 0; i < lastPort-firstPort && len(out) < n; i++ {
		port := firstPort + (start+i)%(lastPort-firstPort)
		l, err := exclusive.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return nil, err
		}
		out = append(out, port)
	}
	if len(out) < n {
		return nil, fmt.Errorf("only %d of %d ports between %d and %d are free", len(out), n, firstPort, lastPort)
	}
	return out, nil
}
