package haproxy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
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
	if err := host.WriteFile(s.path(st.Hash), text, 0o640); err != nil {
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
