package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// hold makes the run directory and takes it for this process. The file that it returns is the lock: it lasts until that
// is closed, at the latest with the process.
func hold(c Config) (*os.File, error) {
	if err := makeDir("run-dir", c.RunDir); err != nil {
		return nil, err
	}
	return lock(c.RunDir)
}

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

// lock takes the run directory. The kernel gives it back when the process ends, however it ends.
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
		return nil, fmt.Errorf("--run-dir: another proxymatic (process %s) holds %s; end it, or give each its own directory",
			strings.TrimSpace(string(holder)), dir)
	}
	pid := fmt.Sprintln(os.Getpid())
	if err := f.Truncate(0); err != nil {
		return nil, fmt.Errorf("--run-dir: %w", err)
	}
	if _, err := f.WriteAt([]byte(pid), 0); err != nil {
		return nil, fmt.Errorf("--run-dir: %w", err)
	}
	return f, nil
}
