// Package freeport hands out port numbers to tests, so that no two of them, in whichever process, get the same one.
package freeport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Ports for services lie below those that the kernel gives to clients (32768 and up), so that no client has one by chance.
const (
	first     = 20000
	last      = 32000
	blockSize = 50
)

// A block belongs to the process that listens on the abstract unix socket of its name: the kernel frees it with the process,
// however that ends. A port is given once in the life of a process: that a test has closed it does not make it free, for the
// test may open it again, or check that nothing answers there.
var given struct {
	sync.Mutex
	next, end int // of the newest block
	blocks    []net.Listener
}

// Get gives n ports, in rising order, that nothing uses with TCP or UDP, not even a connection that was closed a moment ago.
func Get(n int) ([]int, error) {
	given.Lock()
	defer given.Unlock()
	out := make([]int, 0, n)
	for len(out) < n {
		if given.next == given.end {
			if err := takeBlock(); err != nil {
				return nil, fmt.Errorf("%d of %d ports found: %w", len(out), n, err)
			}
		}
		if port := given.next; unused(port) {
			out = append(out, port)
		}
		given.next++
	}
	slices.Sort(out)
	return out, nil
}

func takeBlock() error {
	for _, i := range rand.Perm((last - first) / blockSize) {
		start := first + i*blockSize
		l, err := net.Listen("unix", fmt.Sprintf("@proxymatic-test-ports-%d", start))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return err
		}
		given.blocks = append(given.blocks, l)
		given.next, given.end = start, start+blockSize
		return nil
	}
	return fmt.Errorf("all between %d and %d are taken", first, last)
}

// unused leaves out SO_REUSEADDR, which Go would set, and with which a connection in TIME_WAIT does not count.
func unused(port int) bool {
	exclusive := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 0) }), err)
	}}
	l, err := exclusive.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return false
	}
	p, err := exclusive.ListenPacket(context.Background(), "udp", fmt.Sprintf(":%d", port))
	if err == nil {
		err = p.Close()
	}
	return errors.Join(l.Close(), err) == nil
}
