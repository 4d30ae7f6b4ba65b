package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// makeDir makes a directory unless it is there, and finds out whether it can be written to.
func makeDir(option, path string) error {
	err := os.MkdirAll(path, 0o755)
	if err == nil {
		var probe *os.File
		if probe, err = os.CreateTemp(path, ".probe-*"); err == nil {
			_ = probe.Close() // it is empty
			err = os.Remove(probe.Name())
		}
	}
	if err != nil {
		return fmt.Errorf("--%s: %w; make %s a directory that user %d can write to, or give another one", option, err, path, os.Getuid())
	}
	return nil
}

// heldError says who holds the run directory.
type heldError struct{ dir, holder string }

func (e *heldError) Error() string {
	return fmt.Sprintf("--run-dir: another proxymatic (process %s) holds %s; end it, let this one --take-over, or give each its own directory", e.holder, e.dir)
}

// lock takes the run directory: the file that it returns is the lock, until it is closed. The kernel gives it back when the process
// ends, however it ends. The error is a heldError when somebody has it.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("--run-dir: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }() // nothing was written to it
		holder, _ := os.ReadFile(f.Name())
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("--run-dir: lock %s: %w", f.Name(), err)
		}
		return nil, &heldError{dir, strings.TrimSpace(string(holder))}
	}
	_ = f.Truncate(0)                             // what it says is for people; the lock is held all the same
	_, _ = f.WriteAt([]byte(self(time.Now())), 0) // as above
	return f, nil
}

// self names this process to others. In a container its number alone would say little.
func self(now time.Time) string {
	name, err := os.Hostname()
	if err != nil {
		name = "an unknown host"
	}
	return fmt.Sprintf("%d on %s, since %s\n", os.Getpid(), name, now.Format(time.RFC3339))
}
