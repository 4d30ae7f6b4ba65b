package main

import (
	"errors"
	"go/build"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/meltwater/proxymatic/"

// arrows tells what each package may import of this module; "*" is everything but testenv. A new package needs a line,
// which is the moment to ask whether it is one.
func arrows() map[string][]string {
	return map[string][]string{
		"cmd/proxymatic":      {"*"},
		"sources/catalog":     {},
		"sources/file":        {"sources/catalog"},
		"sources/hostname":    {},
		"sources/marathon":    {"sources/catalog", "sources/hostname"},
		"sources/registrator": {"sources/catalog", "sources/hostname"},
		"runtime/policy":      {"sources/catalog"},
		"runtime/reconcile":   {"sources/catalog", "runtime/policy"},
		"runtime/status":      {"sources/catalog", "runtime/policy", "runtime/reconcile"},
		"runtime/host":        {},
		"runtime/haproxy":     {"sources/catalog", "templates", "runtime/host"},
		"pen":                 {"sources/catalog", "templates", "runtime/host"},
		"templates":           {},
	}
}

// fence keeps a library to one place: a package, or a file of one.
type fence struct{ library, place string }

func fences() []fence {
	return []fence{
		{"github.com/spf13/", "cmd/proxymatic/"},
		{"github.com/coreos/go-systemd/", "cmd/proxymatic/notify.go"},
		{"go.etcd.io/", "sources/registrator/"},
		{"github.com/haproxytech/client-native/", "runtime/haproxy/socket.go"},
		{"github.com/haproxytech/config-parser/", "runtime/haproxy/serverline.go"},
	}
}

// pure packages can neither act nor wait.
func pure() []string { return []string{"sources/catalog", "runtime/policy"} }

func impure() []string { return []string{"os", "net/http", "io", "log", "log/slog", "sync", "context"} }

// judge tells what is wrong with one import of a file, both by their paths below the module; "" for nothing.
func judge(file, imported string) string {
	dir := filepath.ToSlash(filepath.Dir(file))
	if strings.HasPrefix(dir, "testenv") {
		return ""
	}
	allowed, known := arrows()[dir]
	if !known {
		return "is a package without a line in arrows()"
	}
	if own, ok := strings.CutPrefix(imported, module); ok {
		everything := slices.Equal(allowed, []string{"*"}) && !strings.HasPrefix(own, "testenv")
		if !everything && !slices.Contains(allowed, own) {
			return "must not import " + own
		}
	}
	if slices.Contains(pure(), dir) && slices.Contains(impure(), imported) {
		return "is pure and must not import " + imported
	}
	for _, f := range fences() {
		if strings.HasPrefix(imported, f.library) && !strings.HasPrefix(file, f.place) {
			return "must not import " + imported + ", which only " + f.place + " may"
		}
	}
	return ""
}

// go/build, not `go list`: the test cache does not see what another program reads.
func TestArrows(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	packages := 0
	err = filepath.WalkDir(root, func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if name := entry.Name(); dir != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata") {
			return filepath.SkipDir
		}
		pkg, err := build.ImportDir(dir, 0)
		if none := new(build.NoGoError); errors.As(err, &none) {
			return nil
		}
		if err != nil {
			return err
		}
		packages++
		for imported, places := range pkg.ImportPos {
			for _, place := range places {
				file, err := filepath.Rel(root, place.Filename)
				if err != nil {
					return err
				}
				if wrong := judge(filepath.ToSlash(file), imported); wrong != "" {
					t.Errorf("%s %s", file, wrong)
				}
			}
		}
		return nil
	})
	if err != nil || packages < 5 {
		t.Errorf("%d packages found (%v)", packages, err)
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct{ file, imported, want string }{
		{"cmd/proxymatic/a.go", module + "runtime/status", ""},
		{"cmd/proxymatic/a.go", module + "testenv/fake", "must not import testenv/fake"},
		{"testenv/fake/a.go", module + "runtime/status", ""},
		{"runtime/status/a.go", module + "runtime/reconcile", ""},
		{"runtime/reconcile/a.go", module + "runtime/haproxy", "must not import runtime/haproxy"},
		{"runtime/haproxy/a.go", module + "runtime/reconcile", "must not import runtime/reconcile"},
		{"sources/file/a.go", module + "sources/marathon", "must not import sources/marathon"},
		{"runtime/policy/a.go", "sync", "is pure and must not import sync"},
		{"sources/file/a.go", "github.com/spf13/viper", "must not import github.com/spf13/viper, which only cmd/proxymatic/ may"},
		{"runtime/haproxy/plan.go", "github.com/haproxytech/client-native/v5/runtime",
			"must not import github.com/haproxytech/client-native/v5/runtime, which only runtime/haproxy/socket.go may"},
		{"runtime/haproxy/socket.go", "github.com/haproxytech/client-native/v5/runtime", ""},
		{"util/a.go", "fmt", "is a package without a line in arrows()"},
	} {
		if got := judge(c.file, c.imported); got != c.want {
			t.Errorf("%s imports %s: got %q, want %q", c.file, c.imported, got, c.want)
		}
	}
}
