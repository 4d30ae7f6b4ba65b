package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// currentPlace reads which place's proxies serve. Without a readable file it is the first.
func currentPlace(runDir string) place {
	text, err := os.ReadFile(placeFile(runDir))
	n, parseErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || parseErr != nil || n < 0 {
		return 0
	}
	return place(n)
}

// settle says that the place is the one whose proxies serve.
func (p place) settle(runDir string) error {
	if p == currentPlace(runDir) {
		return nil
	}
	return host.WriteFile(placeFile(runDir), fmt.Appendln(nil, int(p)))
}

// places gives the places that were ever used and not removed, but for the first.
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

// nextPlace gives one that nobody uses.
func nextPlace(runDir string) place {
	last := currentPlace(runDir)
	for _, p := range places(runDir) {
		last = max(last, p)
	}
	return last + 1
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
