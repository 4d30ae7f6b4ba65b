package host

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestWriteFileKeepsTheModeAndTheLink(t *testing.T) {
	dir := t.TempDir()
	mode := func(path string) fs.FileMode {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode()
	}
	write := func(path, text string) {
		if err := WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	write(file, "one")
	if got := mode(file); got != 0o640 {
		t.Errorf("a new file has mode %v", got)
	}
	if err := os.Chmod(file, 0o604); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	write(link, "two")
	if got := mode(file); got != 0o604 || mode(link)&fs.ModeSymlink == 0 {
		t.Errorf("the file has mode %v, the link %v", got, mode(link))
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "two" {
		t.Errorf("the file says %q, %v", text, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("the directory has %v, %v", left, err)
	}
}
