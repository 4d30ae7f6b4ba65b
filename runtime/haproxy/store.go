package haproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// keptStructures is how many structures stay in the run directory: those of the running process, of the last attempt and
// of a few before, in case an operator goes back to an older file.
const keptStructures = 8

// store keeps structures in the run directory.
type store struct {
	dir string
}

func (s store) path(hash string) string { return filepath.Join(s.dir, "structure-"+hash) }

// save writes a structure, and removes the oldest when there are many. The one that runs is kept.
func (s store) save(st structure, running string) error {
	text, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if err := writeFile(s.path(st.Hash), text); err != nil {
		return fmt.Errorf("write structure: %w", err)
	}
	s.prune(running)
	return nil
}

// load reads a structure. One that is gone or damaged is unknown, which costs a reload.
func (s store) load(hash string) (structure, bool) {
	if hash == "" || strings.ContainsAny(hash, "/\x00") {
		return structure{}, false
	}
	raw, err := os.ReadFile(s.path(hash))
	if err != nil {
		return structure{}, false
	}
	var st structure
	if json.Unmarshal(raw, &st) != nil || st.Hash != hash {
		return structure{}, false
	}
	return st, true
}

func (s store) prune(running string) {
	names, err := filepath.Glob(s.path("*"))
	if err != nil || len(names) <= keptStructures {
		return
	}
	age := map[string]time.Time{}
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			age[name] = info.ModTime()
		}
	}
	slices.SortFunc(names, func(a, b string) int { return age[b].Compare(age[a]) })
	for _, name := range names[keptStructures:] {
		if name != s.path(running) {
			_ = os.Remove(name) // a structure too many does no harm
		}
	}
}

// writeFile replaces a file so that after a crash either the old or the new content is there, whole. An existing file keeps
// its mode and, where we may, its owner; a symbolic link stays one.
func writeFile(path string, content []byte) error {
	err := replaceFile(path, content)
	var at *fs.PathError
	if errors.As(err, &at) { // without the temporary name, which is another each time
		return fmt.Errorf("%s %s: %w", at.Op, path, at.Err)
	}
	return err
}

func replaceFile(path string, content []byte) (err error) {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	mode := fs.FileMode(0o644)
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
