package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/meltwater/proxymatic/runtime/host"
)

// place is where proxies have their sockets and files. The first is the run directory itself. A run that takes over has its
// proxies beside those of the run before, so it needs a place of its own, which later runs find by the file "place".
type place int

// dir is the place's directory.
func (p place) dir(runDir string) string {
	if p == 0 {
		return runDir
	}
	return filepath.Join(runDir, fmt.Sprintf("%s%d", placePrefix, p))
}

const placePrefix = "place-"

// in gives the configuration with the proxies in another place.
func (c Config) in(p place) Config {
	c.Place = p
	return c
}

// proxyDir is where the proxies have their files.
func (c Config) proxyDir() string { return c.Place.dir(c.RunDir) }

// proxySocket is HAProxy's stats socket. --haproxy-socket leads to it.
func (c Config) proxySocket() string {
	if c.Place == 0 || c.HAProxyStart != managed {
		return c.HAProxySocket
	}
	return filepath.Join(c.proxyDir(), "haproxy.sock")
}

func placeFile(runDir string) string { return filepath.Join(runDir, "place") }

// placed is what the file "place" tells. Only the holder of the run directory writes it.
type placed struct {
	serving place // whose proxies serve
	last    place // the highest that was ever given away. None is used twice: who had it, and hung, may be back.
}

// readPlaced reads the file. Without one it is the first place that serves, and the only one.
func readPlaced(runDir string) (placed, error) {
	var p placed
	text, err := os.ReadFile(placeFile(runDir))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		_, err = fmt.Sscan(string(text), &p.serving, &p.last)
	}
	if err != nil {
		return p, fmt.Errorf("--run-dir: it cannot be told which proxies serve: %s: %w; remove it if none do", placeFile(runDir), err)
	}
	return p, nil
}

func (p placed) write(runDir string) error {
	return host.WriteFile(placeFile(runDir), fmt.Appendln(nil, int(p.serving), int(p.last)), 0o640)
}

// settle says that the place is the one whose proxies serve.
func (p place) settle(runDir string) error {
	now, err := readPlaced(runDir)
	if err != nil || now.serving == p {
		return err
	}
	return placed{p, max(p, now.last)}.write(runDir)
}

// next gives a place that nobody has ever used. The one whose proxies serve is p.
func (p place) next(runDir string) (place, error) {
	now, err := readPlaced(runDir)
	if err != nil {
		return 0, err
	}
	next := slices.Max(append(places(runDir), p, now.last)) + 1
	return next, placed{p, next}.write(runDir)
}

// places gives the places that have files, but for the first.
func places(runDir string) []place {
	names, _ := filepath.Glob(filepath.Join(runDir, placePrefix+"*")) // fails for bad patterns only
	var out []place
	for _, name := range names {
		if n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(name), placePrefix)); err == nil && n > 0 {
			out = append(out, place(n))
		}
	}
	return out
}

// link lets --haproxy-socket lead to the place's socket.
func (c Config) link() error {
	to := c.proxySocket()
	if to == c.HAProxySocket || !c.HAProxy {
		return nil
	}
	if relative, err := filepath.Rel(filepath.Dir(c.HAProxySocket), to); err == nil {
		to = relative // the run directory may have another path elsewhere
	}
	if now, err := os.Readlink(c.HAProxySocket); err == nil && now == to {
		return nil
	}
	temp := c.HAProxySocket + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(to, temp); err != nil {
		return err
	}
	return os.Rename(temp, c.HAProxySocket)
}

// clear removes the files of a place whose proxies have ended. It leaves what all places share.
func (p place) clear(runDir string) error {
	if p > 0 {
		return os.RemoveAll(p.dir(runDir))
	}
	names, _ := filepath.Glob(filepath.Join(runDir, "structure-*"))
	var errs []error
	for _, name := range append(names, filepath.Join(runDir, "haproxy-master.sock"), filepath.Join(runDir, "refused.cfg"), filepath.Join(runDir, "pen")) {
		errs = append(errs, os.RemoveAll(name))
	}
	return errors.Join(errs...)
}
