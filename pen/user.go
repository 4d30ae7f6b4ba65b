package pen

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// fallbackUser is who pen runs as when --pen-user is unknown.
const fallbackUser = "nobody"

// identity is the user that pens run as.
//
// pen is never told to become somebody else by itself (-u): it would open its port as root and then, for each flow, another
// socket on it as that user, which Linux refuses. It would look well and lose every datagram.
type identity struct {
	name     string
	uid, gid int
	change   bool   // we are root and become this user for pen
	bindLow  bool   // pen gets the right to bind ports below 1024, which we have
	problem  string // why it is not who was asked for
}

// findIdentity finds out who pens of the given user can run as.
func findIdentity(name string) (identity, error) {
	low := canBindLow()
	if uid := os.Geteuid(); uid != 0 {
		own := identity{name: strconv.Itoa(uid), uid: uid, gid: os.Getegid(), bindLow: low}
		if u, err := user.LookupId(own.name); err == nil {
			own.name = u.Username
		}
		if own.name != name {
			own.problem = fmt.Sprintf("pen runs as %s, not as %s: only root can start it as another user; start proxymatic as root, or give --pen-user %s",
				own.name, name, own.name)
		}
		return own, nil
	}
	u, err := user.Lookup(name)
	problem := ""
	if unknown := new(user.UnknownUserError); errors.As(err, unknown) {
		if u, err = user.Lookup(fallbackUser); err != nil {
			return identity{}, fmt.Errorf("user %s does not exist; create it (useradd --system %s), or give another as --pen-user", name, name)
		}
		problem = fmt.Sprintf("pen runs as %s, since the user %s does not exist; create it (useradd --system %s), or give another as --pen-user",
			fallbackUser, name, name)
	}
	if err != nil {
		return identity{}, fmt.Errorf("look for user %s: %w", name, err)
	}
	uid, err := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	return identity{name: u.Username, uid: uid, gid: gid, change: uid != 0, bindLow: low && uid != 0, problem: problem}, errors.Join(err, gidErr)
}

// canBindLow reports whether we have CAP_NET_BIND_SERVICE.
func canBindLow() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Permitted&(1<<unix.CAP_NET_BIND_SERVICE) != 0
}

// attributes are how a pen is started: in a session of its own, so that it outlives us.
func (i identity) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true}
	if i.change {
		a.Credential = &syscall.Credential{Uid: uint32(i.uid), Gid: uint32(i.gid)}
	}
	if i.bindLow {
		a.AmbientCaps = []uintptr{unix.CAP_NET_BIND_SERVICE}
	}
	return a
}

// prepare makes the directories of the run directory, and checks that pens can get into them.
func (f files) prepare(i identity) error {
	if err := os.MkdirAll(f.own(), 0o755); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(f.dir(), 0o755), os.Chmod(f.own(), 0o700)); err != nil {
		return err
	}
	if !i.change {
		return nil
	}
	if err := os.Chown(f.own(), i.uid, i.gid); err != nil {
		return err
	}
	for dir := f.runDir; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && !enters(info.Mode(), stat, i) {
			return fmt.Errorf("%s is closed to user %s, as whom pen runs; open it (chmod o+x %s), or give another --run-dir", dir, i.name, dir)
		}
	}
	return nil
}

// enters reports whether a user may pass through a directory.
func enters(mode os.FileMode, stat *syscall.Stat_t, i identity) bool {
	switch {
	case int(stat.Uid) == i.uid:
		return mode&0o100 != 0
	case int(stat.Gid) == i.gid:
		return mode&0o010 != 0
	}
	return mode&0o001 != 0
}
