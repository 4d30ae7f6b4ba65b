package file

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

const (
	one = "- {name: one, port: 1}\n"
	two = "- {name: two, port: 2}\n"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run starts the source in a bubble of fake time. What it returns waits until the source has looked once more and
// tells what it has sent since, "" when nothing.
func run(t *testing.T, path string) (look func() string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, done := make(chan catalog.Snapshot), make(chan error, 1)
	go func() { done <- New(path, 0).Run(ctx, out) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want that the context ended", err)
		}
	})
	return func() string {
		select {
		case snap := <-out:
			if snap.Source != "file" || snap.Priority != 100 {
				t.Errorf("snapshot of %q with priority %d, want file and 100", snap.Source, snap.Priority)
			}
			got := strings.TrimSpace(catalog.Format(snap.Services))
			if snap.Err != "" {
				got += " ERR " + strings.ReplaceAll(snap.Err, path, "FILE")
			}
			return got
		case <-time.After(DefaultInterval + time.Second):
			return ""
		}
	}
}

const (
	sawOne = "1/tcp one mode=tcp source=file"
	sawTwo = "2/tcp two mode=tcp source=file"
)

func TestRunSeesEveryWayToChangeAFile(t *testing.T) {
	for _, c := range []struct {
		way    string
		path   string
		before func(t *testing.T, dir string)
		change func(t *testing.T, dir string)
	}{
		{"write in place", "f",
			func(t *testing.T, dir string) { write(t, dir+"/f", one) },
			func(t *testing.T, dir string) { write(t, dir+"/f", two) }},
		{"rename over", "f",
			func(t *testing.T, dir string) { write(t, dir+"/f", one) },
			func(t *testing.T, dir string) { write(t, dir+"/new", two); must(t, os.Rename(dir+"/new", dir+"/f")) }},
		{"removed and created", "f",
			func(t *testing.T, dir string) { write(t, dir+"/f", one) },
			func(t *testing.T, dir string) { must(t, os.Remove(dir+"/f")); write(t, dir+"/f", two) }},
		{"symlink swapped", "f",
			func(t *testing.T, dir string) {
				write(t, dir+"/1", one)
				write(t, dir+"/2", two)
				must(t, os.Symlink("1", dir+"/f"))
			},
			func(t *testing.T, dir string) {
				must(t, os.Symlink("2", dir+"/new"))
				must(t, os.Rename(dir+"/new", dir+"/f"))
			}},
		{"symlink's target renamed over", "f",
			func(t *testing.T, dir string) { write(t, dir+"/1", one); must(t, os.Symlink("1", dir+"/f")) },
			func(t *testing.T, dir string) { write(t, dir+"/new", two); must(t, os.Rename(dir+"/new", dir+"/1")) }},
		{"symlink of the directory swapped", "data/f",
			func(t *testing.T, dir string) {
				write(t, dir+"/1/f", one)
				write(t, dir+"/2/f", two)
				must(t, os.Symlink("1", dir+"/data"))
			},
			func(t *testing.T, dir string) {
				must(t, os.Symlink("2", dir+"/new"))
				must(t, os.Rename(dir+"/new", dir+"/data"))
			}},
		{"directory replaced", "data/f",
			func(t *testing.T, dir string) { write(t, dir+"/data/f", one) },
			func(t *testing.T, dir string) {
				must(t, os.Rename(dir+"/data", dir+"/old"))
				write(t, dir+"/data/f", two)
			}},
	} {
		t.Run(c.way, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				c.before(t, dir)
				look := run(t, filepath.Join(dir, c.path))
				if got := look(); got != sawOne {
					t.Fatalf("at start: got %q, want %q", got, sawOne)
				}
				if got := look(); got != "" {
					t.Fatalf("nothing changed: got %q, want nothing", got)
				}
				c.change(t, dir)
				if got := look(); got != sawTwo {
					t.Fatalf("after the change: got %q, want %q", got, sawTwo)
				}
			})
		})
	}
}

func TestRunKeepsTheLastServicesWhileTheFileCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "f")
		write(t, path, one)
		look := run(t, path)
		steps := []struct {
			what string
			do   func()
			want string
		}{
			{"start", func() {}, sawOne},
			{"removed", func() { must(t, os.Remove(path)) }, sawOne + " ERR stat FILE: no such file or directory"},
			{"still not there", func() {}, ""},
			{"the same again", func() { write(t, path, one) }, sawOne},
			{"truncated", func() { write(t, path, "") }, sawOne + " ERR FILE: the file is empty; write [] for no services"},
			{"half written", func() { write(t, path, "- {name: two, po") }, sawOne + " ERR FILE: yaml: line 1: did not find expected ',' or '}'"},
			{"written", func() { write(t, path, two) }, sawTwo},
			{"a directory", func() { must(t, os.Remove(path)); must(t, os.Mkdir(path, 0o755)) }, sawTwo + " ERR FILE: want a regular file"},
			{"a named pipe", func() { must(t, os.Remove(path)); must(t, syscall.Mkfifo(path, 0o600)) }, ""},
			{"too large", func() { must(t, os.Remove(path)); write(t, path, one); must(t, os.Truncate(path, maxSize+1)) }, sawTwo + " ERR FILE: larger than 64 MiB"},
		}
		for _, s := range steps {
			s.do()
			if got := look(); got != s.want {
				t.Fatalf("%s: got %q, want %q", s.what, got, s.want)
			}
		}
	})
}

func TestRunBeforeItsFirstSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		out, done := make(chan catalog.Snapshot), make(chan error, 1)
		go func() { done <- New("/nonexistent/f", 0).Run(ctx, out) }()
		if snap := <-out; snap.Err == "" || !snap.Succeeded.IsZero() {
			t.Errorf("got %+v, want an error and a zero Succeeded", snap)
		}
		cancel()
		<-done
	})
}

// An empty list is an answer: it takes all services away, unlike a file without a word.
func TestRunTakesAnEmptyList(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "f")
		write(t, path, one)
		ctx, cancel := context.WithCancel(t.Context())
		out, done := make(chan catalog.Snapshot), make(chan error, 1)
		go func() { done <- New(path, 0).Run(ctx, out) }()
		first := <-out
		write(t, path, "[]")
		second := <-out
		if len(first.Services) != 1 || len(second.Services) != 0 || second.Err != "" || !second.Succeeded.After(first.Succeeded) {
			t.Errorf("got %+v then %+v, want one service, then a later good answer with none", first, second)
		}
		cancel()
		<-done
	})
}

// A list in YAML is valid wherever a writer pauses between two entries.
func TestAHalfWrittenListDoesNotCount(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "f")
		write(t, path, one+two)
		look := run(t, path)
		if got := look(); got != sawOne+"\n"+sawTwo {
			t.Fatalf("at start: got %q", got)
		}
		rewrite := func() {
			write(t, path, one)
			time.Sleep(50 * time.Millisecond) // less than what the source waits
			write(t, path, one+two)
		}
		time.Sleep(DefaultInterval - settleTime - 25*time.Millisecond)
		rewrite() // around its next look
		if got := look(); got != "" {
			t.Errorf("Run took the half for the whole: %q", got)
		}
		write(t, path, one)
		time.AfterFunc(50*time.Millisecond, func() { write(t, path, one+two) })
		if snap, err := New(path, 0).Read(t.Context()); err != nil || len(snap.Services) != 2 {
			t.Errorf("Read took the half for the whole: %+v, %v", snap, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), settleTime/2)
		defer cancel()
		if _, err := New(path, 0).Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Read after its time: %v", err)
		}
	})
}

func TestReadNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if _, err := New(path, 0).Read(t.Context()); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("without a file: got %v, want an error with the path", err)
	}
	write(t, path, "x")
	if _, err := New(path, 0).Read(t.Context()); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("with a file that is no list: got %v, want an error with the path", err)
	}
	write(t, path, one)
	if snap, err := New(path, 0).Read(t.Context()); err != nil || catalog.Format(snap.Services) != sawOne+"\n" || snap.Succeeded.IsZero() {
		t.Errorf("got %+v, %v, want %s", snap, err, sawOne)
	}
}
