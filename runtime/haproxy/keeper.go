package haproxy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// fileState is what haproxy.cfg should say beside a running process.
type fileState struct {
	outer    outer
	hash     string // of the structure that the process runs
	sections map[catalog.Key]*section
	keep     map[catalog.Key]bool // sections to leave as they are: they wait for a reload
	partial  bool                 // what is here is not all that the process runs: some of it waits for a reload
}

// keeper keeps haproxy.cfg in step with the running process. The socket comes first and the file follows, since a change
// must not wait for a disk.
type keeper struct {
	path    string
	changed chan struct{} // told when something is pending

	io      sync.Mutex // around every write of the file
	mu      sync.Mutex // around pending
	pending *fileState
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

func (k *keeper) write(state fileState) error {
	raw, err := os.ReadFile(k.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := follow(string(raw), state)
	if text == string(raw) {
		return nil
	}
	return host.WriteFile(k.path, []byte(text))
}

// follow gives the file's text after its server lines were brought up to date. A file that is not the running process' own
// (somebody replaced it, or a load that it was written for never came) is written anew, which must wait while anything
// waits for a reload.
func follow(file string, state fileState) string {
	if strings.Contains(file, tag(state.hash)) {
		if text, err := splice(file, state.sections, state.keep); err == nil {
			return text
		}
	}
	if state.partial {
		return file
	}
	return string(fullText(state.outer, state.sections, state.hash))
}

// replace writes a whole new text and forgets what was pending. It gives the old text, nil when there was none.
func (k *keeper) replace(text []byte) ([]byte, error) {
	k.io.Lock()
	defer k.io.Unlock()
	k.take()
	old, err := os.ReadFile(k.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", k.path, err)
	}
	if err := host.WriteFile(k.path, text); err != nil {
		return old, fmt.Errorf("write %s: %w", k.path, err)
	}
	return old, nil
}
