package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

// diskSize is that of the disk which only the host in chaos has: so that it can be filled.
const diskSize = "64m"

// ownDisk gives the host's directory a disk of its own, and reports whether that can be: it takes root.
func (c *chaos) ownDisk() bool {
	if err := unix.Mount("none", c.host.Dir, "tmpfs", 0, "size="+diskSize+",mode=755"); err != nil {
		c.Logf("no disk of its own, which is never full then: %v", err)
		return false
	}
	return true
}

// diskFull fills the host's disk.
func (c *chaos) diskFull() func() {
	f, err := os.Create(c.host.Path("filler"))
	c.must(err)
	zeroes := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(zeroes)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		c.must(err)
	}
	c.must(f.Close())
	return func() { c.must(os.Remove(f.Name())) }
}

// unwritable makes a file or directory one that nobody can change, where the file system knows that.
func (c *chaos) unwritable(path string) func() {
	f, err := os.Open(path)
	c.must(err)
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|immutableFlag)
	}
	return func() {
		if err == nil {
			c.must(unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags))
		}
		c.must(f.Close())
	}
}

// immutableFlag is FS_IMMUTABLE_FL of linux/fs.h.
const immutableFlag = 0x10

// ownHAProxy lets the host use a copy of HAProxy's program, so that it can be replaced.
func (c *chaos) ownHAProxy() {
	c.must(os.Mkdir(c.host.Path("bin"), 0o755))
	c.copyHAProxy()
	c.host.Env = append(os.Environ(), "PATH="+c.host.Path("bin")+":"+os.Getenv("PATH"))
}

// copyHAProxy puts another copy of HAProxy's program in the place of the host's.
func (c *chaos) copyHAProxy() {
	path, err := exec.LookPath("haproxy")
	if err != nil {
		path = "/usr/sbin/haproxy"
	}
	from, err := os.Open(path)
	c.must(err)
	defer from.Close()
	fresh := c.host.Path("haproxy.fresh")
	to, err := os.OpenFile(fresh, os.O_CREATE|os.O_WRONLY, 0o755)
	c.must(err)
	_, err = io.Copy(to, from)
	c.must(errors.Join(err, to.Close()))
	c.must(os.Rename(fresh, filepath.Join(c.host.Path("bin"), "haproxy")))
}

// upgraded replaces HAProxy's program, and has the running master become it.
func (c *chaos) upgraded() func() {
	c.copyHAProxy()
	return c.reloadedByOthers()
}

// clockSet lets the host's clock be set, by a day at most, while proxymatic is away and before its sources tell anything again: all
// that was written down is from the future then, or from long ago.
func (c *chaos) clockSet() func() {
	undo := c.marathon(func(f *fakemarathon.Faults) { f.EmptyLists = always })
	c.host.Kill()
	by := time.Duration(c.Int64N(int64(48*time.Hour))) - 24*time.Hour
	c.must(filepath.WalkDir(c.host.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		return os.Chtimes(path, time.Time{}, time.Now().Add(by))
	}))
	c.shiftState(by)
	c.begin()
	return undo
}

// shiftState moves the times in the saved state.
func (c *chaos) shiftState(by time.Duration) {
	c.Helper()
	path := c.host.Path("state/services.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) { // nothing was worth saving so far
		return
	}
	c.must(err)
	var file map[string]any
	var sources []map[string]any
	var raw struct{ Sources json.RawMessage }
	c.must(errors.Join(json.Unmarshal(text, &file), json.Unmarshal(text, &raw), json.Unmarshal(raw.Sources, &sources)))
	for _, s := range sources {
		read, err := time.Parse(time.RFC3339Nano, s["succeeded"].(string))
		c.must(err)
		s["succeeded"] = read.Add(by)
	}
	fresh, err := json.Marshal(sources)
	c.must(err)
	file["sources"], file["sha256"] = json.RawMessage(fresh), fmt.Sprintf("%x", sha256.Sum256(fresh))
	text, err = json.Marshal(file)
	c.must(err)
	c.must(os.WriteFile(path, text, 0o640))
}
