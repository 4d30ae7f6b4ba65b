// Package file is the source of services that an operator, or a program beside proxymatic, writes into a file.
package file

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// Name is the source's name in services, problems and logs.
const Name = "file"

// Priority is below that of the sources that follow a cluster: what they report is newer than what somebody wrote.
const Priority = 100

// DefaultInterval is how often Run looks at the file.
const DefaultInterval = 2 * time.Second

// settleTime is how long a text must stay before it counts. A list that is being written in place may be valid while its
// end is missing.
const settleTime = 100 * time.Millisecond

// maxSize keeps a wrong path, such as a disk image, from filling the memory.
const maxSize = 64 << 20

// Source reads services from one file. It keeps nothing between calls.
type Source struct {
	path     string
	interval time.Duration
}

// New gives the source of the file at path. Run looks at it once an interval; 0 means DefaultInterval.
func New(path string, interval time.Duration) *Source {
	if interval <= 0 {
		interval = DefaultInterval
	}
	return &Source{path: path, interval: interval}
}

// Name is "file".
func (s *Source) Name() string { return Name }

// Read reads the file once it stays the same for a moment. The error names the path.
func (s *Source) Read(ctx context.Context) (catalog.Snapshot, error) {
	text, err := s.text()
	if err == nil {
		text, err = s.settled(ctx, text, nil)
	}
	if err != nil {
		return catalog.Snapshot{}, err
	}
	return s.snapshot(text)
}

// Run sends a snapshot at once, and again when the file reads differently or cannot be read any more, until ctx ends.
//
// It compares the content: a watch on the file or on its directory does not see that a symlink further up now leads
// elsewhere, and the time of a file may stand still over two writes.
func (s *Source) Run(ctx context.Context, out chan<- catalog.Snapshot) error {
	tick := time.NewTicker(s.interval)
	defer tick.Stop()
	last, told := catalog.Snapshot{Source: Name, Priority: Priority}, ""
	for {
		text, err := s.text()
		if fingerprint(text, err) != told {
			text, err = s.settled(ctx, text, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if state := fingerprint(text, err); state != told {
			told = state
			last = s.next(last, text, err)
			select {
			case out <- last:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// maxLooks is how often a file is looked at that differs each time.
const maxLooks = 20

// settled looks again until two looks agree, and gives what they saw. The first look's outcome is given.
func (s *Source) settled(ctx context.Context, text []byte, err error) ([]byte, error) {
	for range maxLooks {
		select {
		case <-time.After(settleTime):
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: wait until nobody writes to it: %w", s.path, ctx.Err())
		}
		before := fingerprint(text, err)
		if text, err = s.text(); fingerprint(text, err) == before {
			return text, err
		}
	}
	return nil, fmt.Errorf("%s: it differed at each of %d looks, %s apart; write it less often", s.path, maxLooks, settleTime)
}

// next is the snapshot after one look at the file: what it says, or what it said last with the reason why that counts.
func (s *Source) next(last catalog.Snapshot, text []byte, err error) catalog.Snapshot {
	if err == nil {
		var snap catalog.Snapshot
		if snap, err = s.snapshot(text); err == nil {
			return snap
		}
	}
	last.Err = err.Error()
	return last
}

func (s *Source) snapshot(text []byte) (catalog.Snapshot, error) {
	services, problems, err := parse(text)
	if err != nil {
		return catalog.Snapshot{}, fmt.Errorf("%s: %w", s.path, err)
	}
	now := time.Now()
	return catalog.Snapshot{Source: Name, Priority: Priority, Services: services, Problems: problems, Certain: true, Succeeded: now, Heard: now}, nil
}

// text reads the whole file by its path, so that whatever the path leads to now is what counts.
func (s *Source) text() ([]byte, error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a named pipe would wait for its writer for ever
		return nil, fmt.Errorf("%s: want a regular file", s.path)
	}
	if info.Size() > maxSize {
		return nil, s.tooLarge()
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(text) > maxSize { // it grew since
		return nil, s.tooLarge()
	}
	return text, nil
}

func (s *Source) tooLarge() error { return fmt.Errorf("%s: larger than %d MiB", s.path, maxSize>>20) }

func fingerprint(text []byte, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	return fmt.Sprintf("content: %x", sha256.Sum256(text))
}
