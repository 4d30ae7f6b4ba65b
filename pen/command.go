package pen

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// files are where the pens of a run directory keep what they need.
type files struct{ runDir string }

// dir has the configurations and logs. It is ours.
func (f files) dir() string { return filepath.Join(f.runDir, "pen") }

// own has the control sockets and what else pen itself writes. It belongs to the user that pen runs as.
func (f files) own() string { return filepath.Join(f.dir(), "own") }

func fileName(key catalog.Key) string { return string(key.Proto) + "-" + strconv.Itoa(int(key.Port)) }

func (f files) config(key catalog.Key, id string) string {
	return filepath.Join(f.dir(), fileName(key)+"-"+id+".cfg")
}

// newSocket is a control socket that no other pen has, not even one that was started for the same.
func (f files) newSocket(key catalog.Key, id string) string {
	return filepath.Join(f.own(), fmt.Sprintf("%s-%s-%08x.sock", fileName(key), id, rand.Uint32()))
}

// sink is where pen sends the clients of a TCP service when no server takes them.
func (f files) sink() string { return filepath.Join(f.dir(), "none.sock") }

func (f files) log(key catalog.Key) string { return filepath.Join(f.dir(), fileName(key)+".log") }

// statistics is where pen lists its flows, commands where it is told which to close.
func (f files) statistics(key catalog.Key) string {
	return filepath.Join(f.own(), fileName(key)+".flows")
}

func (f files) commands(key catalog.Key) string {
	return filepath.Join(f.dir(), fileName(key)+".commands")
}

// readConfig takes the path of a configuration apart; not ok when it is not one of ours.
func (f files) readConfig(path string) (key catalog.Key, id string, ok bool) {
	name, found := strings.CutSuffix(path, ".cfg")
	parts := strings.Split(filepath.Base(name), "-")
	if !found || filepath.Dir(path) != f.dir() || len(parts) != 3 {
		return catalog.Key{}, "", false
	}
	if err := key.UnmarshalText([]byte(parts[1] + "/" + parts[0])); err != nil {
		return catalog.Key{}, "", false
	}
	return key, parts[2], true
}

// command is how pen is started for a service. The files' names carry the id, which stands for everything else here, so that
// a running pen's command line tells whether it was started as is wanted now.
type command struct {
	key     catalog.Key
	bind    netip.Addr
	flows   int      // connections or UDP flows at a time
	asRoot  bool     // pen must stay root, and opens no control socket unless it is told so
	options []string // of its configuration
}

// words gives the arguments without the files'. Of the ways to choose a server only -r works for UDP: with -W or without any a
// dead server gets most new clients, or keeps those it had. TCP needs -P: with epoll a client of a dead server gets an error,
// and after 100 failed connects pen serves nobody any more; pending_max is the same trap of poll.
func (c command) words() []string {
	words := []string{"-f", "-U", "-r", "-b", "5"}
	if c.key.Proto == catalog.TCP {
		words = []string{"-f", "-P", "-r", "-O", "pending_max 1000000", "-t", "2", "-b", "5"}
	}
	words = append(words, "-x", strconv.Itoa(c.flows), "-c", "256") // with -r clients (-c) are only counted: 8192 would cost 1.3 MB
	if c.asRoot {
		words = append(words, "-u", "root")
	}
	return words
}

// String tells people what is started.
func (c command) String() string { return "pen " + strings.Join(append(c.words(), c.listen()), " ") }

// id is short, and differs between commands that differ.
func (c command) id() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", c.words(), c.listen(), c.options))
	return hex.EncodeToString(sum[:4])
}

// args gives all arguments.
func (c command) args(f files, socket string) []string {
	words := c.words()
	if c.key.Proto == catalog.TCP {
		words = append(words, "-e", f.sink())
	}
	return append(words, "-C", socket, "-F", f.config(c.key, c.id()), c.listen())
}

// listen is pen's way to write an address: IPv6 without brackets, with which it crashes.
func (c command) listen() string { return c.bind.String() + ":" + strconv.Itoa(int(c.key.Port)) }

// maxSocketPath is what a unix socket's name can be; pen cuts a longer one off silently.
const maxSocketPath = 107

// checkPaths refuses a run directory whose paths pen cannot be given.
func (f files) checkPaths() error {
	longest := f.newSocket(catalog.Key{Port: 65535, Proto: catalog.UDP}, "00000000")
	if len(longest) > maxSocketPath {
		return fmt.Errorf("run directory %s: it is %d bytes too long for the paths of pen's sockets", f.runDir, len(longest)-maxSocketPath)
	}
	if strings.ContainsAny(f.runDir, " \t\r\n:") || unprintable.MatchString(f.runDir) {
		return fmt.Errorf("run directory %q: pen takes no path with blanks, colons or characters beyond ASCII", f.runDir)
	}
	return nil
}
