// Package host asks the kernel of this host what no library does for us: who has which port, and whether a process lives.
// It also replaces files without a moment in which they are not whole.
package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// WriteFile replaces a file so that after a crash either the old or the new content is there, whole. An existing file keeps
// its mode and, where we may, its owner; a symbolic link stays one. A new one gets the mode that is given.
func WriteFile(path string, content []byte, mode fs.FileMode) error {
	err := replaceFile(path, content, mode)
	var at *fs.PathError
	if errors.As(err, &at) { // without the temporary name, which is another each time
		return fmt.Errorf("%s %s: %w", at.Op, path, at.Err)
	}
	return err
}

func replaceFile(path string, content []byte, mode fs.FileMode) (err error) {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	owner := func(*os.File) error { return nil }
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
		if was, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
			owner = func(f *os.File) error { return f.Chown(int(was.Uid), int(was.Gid)) }
		}
	}
	dir := filepath.Dir(path)
	temp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp.Name()))
		}
	}()
	if _, err := temp.Write(content); err != nil {
		return errors.Join(err, temp.Close())
	}
	if err := errors.Join(owner(temp), temp.Chmod(mode), temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
