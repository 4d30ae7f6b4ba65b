package pen

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// remove removes all files of a service.
func (f files) remove(key catalog.Key) {
	f.sweep(func(name string) bool { return keyOf(name) == fileName(key) })
}

// removeOld removes what a pen needed, unless the one that replaced it has the same.
func (f files) removeOld(old, by process) {
	if old.id != by.id {
		for _, path := range []string{f.config(old.key, old.id), f.socket(old.key, old.id)} {
			_ = os.Remove(path) // or at the next resync
		}
	}
}

// clean removes the files of pens that are gone. Those of services that are wanted stay while they are not served.
func (f files) clean(v view, results []result) {
	keep, all := map[string]bool{}, map[string]bool{}
	for i, u := range v.units {
		if u.want == nil {
			continue
		}
		name := fileName(u.key)
		all[name] = results[i].process.pid == 0
		keep[name+"-"+results[i].process.id] = true
		keep[name] = true
	}
	f.sweep(func(name string) bool {
		base := strings.TrimSuffix(name, filepath.Ext(name))
		return !keep[base] && !all[keyOf(name)]
	})
}

// sweep removes the files of pens whose names are to go. What cannot be removed is tried again at the next resync.
func (f files) sweep(goes func(name string) bool) {
	for _, dir := range []string{f.dir(), f.own()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if keyOf(e.Name()) != "" && goes(e.Name()) {
				_ = os.Remove(filepath.Join(dir, e.Name()))
			}
		}
	}
}

// keyOf gives the part of a file's name that stands for its service, such as "udp-53"; empty when it is none of ours.
func keyOf(name string) string {
	parts := strings.FieldsFunc(name, func(r rune) bool { return r == '-' || r == '.' })
	if len(parts) < 3 || parts[0] != string(catalog.TCP) && parts[0] != string(catalog.UDP) {
		return ""
	}
	return parts[0] + "-" + parts[1]
}
