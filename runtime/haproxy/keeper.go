package haproxy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// fileState is what haproxy.cfg should say beside a running process.
type fileState struct {
	outer    outer
	hash     string // of the structure that the process runs
	sections sections
	keep     map[catalog.Key]bool // sections to leave as they are: they wait for a reload
	partial  bool                 // what is here is not all that the process runs: some of it waits for a reload
}

// keeper keeps haproxy.cfg in step with the running process. The socket comes first and the file follows, since a change
// must not wait for a disk.
type keeper struct {
	path    string
	changed chan struct{} // told when something is pending

	io     sync.Mutex // around every write of the file, and what follows
	known  pieces     // what stands in the file while it is the one of stamp; nil when that is unknown
	stamp  stamp
	buffer []byte // the memory of the last text

	mu      sync.Mutex // around pending
	pending *fileState
}

// stamp tells one state of a file from another without reading it.
type stamp struct {
	dev, ino, size  int64
	changed, edited syscall.Timespec
}

// stampOf gives a file's stamp; the zero one when it has none.
func stampOf(path string) stamp {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return stamp{}
	}
	return stamp{int64(st.Dev), int64(st.Ino), st.Size, st.Ctim, st.Mtim}
}

// follow asks for the file to say this, soon.
func (k *keeper) follow(state fileState) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pending = &state
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// take gets what is to be written, once.
func (k *keeper) take() *fileState {
	k.mu.Lock()
	defer k.mu.Unlock()
	state := k.pending
	k.pending = nil
	return state
}

// flush writes what is pending. After an error it stays pending, unless something newer is.
func (k *keeper) flush() error {
	k.io.Lock()
	defer k.io.Unlock()
	state := k.take()
	if state == nil {
		return nil
	}
	err := k.write(*state)
	if err != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.pending == nil {
			k.pending = state
		}
		return fmt.Errorf("write %s: %w", k.path, err)
	}
	return nil
}

// write brings the file up to date. One that nobody else has touched since it was written is not read for that.
func (k *keeper) write(state fileState) error {
	have, raw := k.known, []byte(nil)
	if at := stampOf(k.path); have == nil || at == (stamp{}) || at != k.stamp {
		k.known = nil
		var err error
		if raw, err = os.ReadFile(k.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if have, err = cutPieces(string(raw)); err != nil {
			have = nil // not a file of ours
		}
	}
	next, changed := have.follow(state)
	if !changed {
		return nil
	}
	k.buffer = next.appendTo(k.buffer[:0])
	if raw != nil && bytes.Equal(k.buffer, raw) {
		return nil
	}
	return k.put(k.buffer, next)
}

// configMode is that of a new haproxy.cfg: HAProxy may be started as another user.
const configMode = 0o644

// put writes the file. made are the text's pieces; nil when they are unknown.
func (k *keeper) put(text []byte, made pieces) error {
	k.known = nil
	if err := host.WriteFile(k.path, text, configMode); err != nil {
		return err
	}
	k.known, k.stamp = made, stampOf(k.path)
	return nil
}

// follow gives the file after its server lines were brought up to date, and whether that is another text. A file that is not the
// running process' own (somebody replaced it, or a load that it was written for never came) is written anew, which must wait
// while anything waits for a reload.
func (l pieces) follow(state fileState) (next pieces, changed bool) {
	if l.has(tag(state.hash)) {
		if next, changed, err := l.splice(state.sections, state.keep); err == nil {
			return next, changed
		}
	}
	if state.partial {
		return l, false
	}
	return fullPieces(state.outer, state.sections, state.hash), true
}

// replace writes a whole new text, of known pieces or nil, and forgets what was pending. It gives the old text, nil when there
// was none.
func (k *keeper) replace(text []byte, made pieces) ([]byte, error) {
	k.io.Lock()
	defer k.io.Unlock()
	k.take()
	old, err := os.ReadFile(k.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", k.path, err)
	}
	if err := k.put(text, made); err != nil {
		return old, fmt.Errorf("write %s: %w", k.path, err)
	}
	return old, nil
}
