package pen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"
)

const sinkRetry = 5 * time.Second

// serveSink closes every connection of the sink at once, until ctx ends. The path is always there while it runs, over a change to
// another driver too.
//
// Without it a pen whose servers all refuse connections would take a whole core from then on: with -P it forgets to take the last
// socket that failed out of its poll set, unless another takes that socket's number.
func (d *Driver) serveSink(ctx context.Context, wake func()) {
	for ctx.Err() == nil {
		err := d.acceptSink(ctx)
		if ctx.Err() != nil {
			return
		}
		text := fmt.Sprintf("%v; until that is mended, the pen of a TCP service whose servers all refuse connections takes a whole core", err)
		if d.sinkErr.Swap(&text) == nil {
			wake()
		}
		select {
		case <-ctx.Done():
		case <-time.After(sinkRetry):
		}
	}
}

// acceptSink returns when ctx ends or an error does.
func (d *Driver) acceptSink(ctx context.Context) error {
	l, err := d.files.listenSink()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	d.sinkErr.Store(nil)
	for {
		err := l.SetDeadline(time.Now().Add(sinkRetry))
		if err == nil {
			err = closeNext(l)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			_, err = os.Lstat(d.files.sink()) // somebody may have removed it
		}
		if err != nil {
			return errors.Join(err, l.Close())
		}
	}
}

func closeNext(l *net.UnixListener) error {
	c, err := l.Accept()
	if err == nil {
		_ = c.Close()
	}
	return err
}

// listenSink takes the path over from whoever had it, without a moment in which nobody has.
func (f files) listenSink() (*net.UnixListener, error) {
	if err := os.MkdirAll(f.dir(), 0o755); err != nil {
		return nil, err
	}
	temp := f.sink() + ".new"
	_ = os.Remove(temp) // left by one that was killed
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(temp, 0o666), os.Rename(temp, f.sink())); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (f files) removeSink() error {
	if err := os.Remove(f.sink()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
