package pen

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// remove removes all files of a service.
func (f files) remove(key catalog.Key) {
	f.sweep(func(path string) bool { return keyOf(filepath.Base(path)) == fileName(key) })
}

// removeOthers removes the files of a service that its pen does not need.
func (f files) removeOthers(p process) {
	need := map[string]bool{f.log(p.key): true, f.config(p.key, p.id): true, p.socket: true}
	f.sweep(func(path string) bool { return keyOf(filepath.Base(path)) == fileName(p.key) && !need[path] })
}

// clean removes the files of pens that are gone. Those of services that are wanted stay while they are not served.
func (f files) clean(v view) {
	keep, all := map[string]bool{}, map[string]bool{}
	for _, u := range v.units {
		name := fileName(u.key)
		if u.want == nil {
			continue
		}
		if all[name] = u.serving.pid == 0; !all[name] {
			for _, path := range []string{f.log(u.key), f.config(u.key, u.serving.id), u.serving.socket} {
				keep[path] = true
			}
		}
	}
	f.sweep(func(path string) bool { return !keep[path] && !all[keyOf(filepath.Base(path))] })
}

// sweep removes the files of pens that are to go. What cannot be removed is tried again at the next resync.
func (f files) sweep(goes func(path string) bool) {
	for _, dir := range []string{f.dir(), f.own()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if path := filepath.Join(dir, e.Name()); keyOf(e.Name()) != "" && goes(path) {
				_ = os.Remove(path)
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
