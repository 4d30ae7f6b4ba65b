package haproxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// dialect is what versions of HAProxy do differently. Whatever depends on the version is decided here; the rest of the driver
// goes by the answers.
type dialect struct {
	adds   bool // servers can be added and deleted at run time
	pauses bool // `show stat` tells a frontend that is paused from one that was shut down for good
	pools  bool // a server that was added at run time keeps idle connections without being told to
}

// dialectOf gives the dialect of a version as `show info` tells it, such as "2.6.12-1+deb12u4". 2.2 has no `add server` and says
// STOP of paused frontends; 2.4 and 2.5 have `add server` only in a mode for experiments. A version that cannot be read is taken for a
// new one.
func dialectOf(version string) dialect {
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return dialect{adds: true, pauses: true, pools: true}
	}
	since26 := major > 2 || major == 2 && minor >= 6
	return dialect{adds: since26, pauses: since26, pools: major > 2}
}

// problems tells operators what their version costs them.
func (d dialect) problems(version string) []catalog.Problem {
	if d.adds {
		return nil
	}
	return []catalog.Problem{{Source: "haproxy", Subject: "HAProxy " + version,
		Reason: "it cannot add servers at run time, so that each new server takes a reload; HAProxy 2.6 or newer needs none"}}
}

// addCommands gives the commands that add a server and let it take traffic. Never `enabled` on the line: 2.6 then shows the
// server as up, sends it nothing, and takes the whole backend down when it is disabled; 3.0 refuses it. 2.6 keeps no idle
// connections for a server that was added unless it is told to.
func (d dialect) addCommands(path string, line serverLine) []string {
	words := line.addWords()
	if !d.pools && !strings.Contains(words, "pool-max-conn") {
		words += " pool-max-conn -1 pool-purge-delay 5s"
	}
	commands := []string{"add server " + path + " " + words, "enable server " + path}
	if line.checked {
		commands = append(commands, "enable health "+path)
	}
	return commands
}

// standIns gives the servers of a backend, by name, that are to go and yet stay until the load that brings all those that are
// wanted, which nobody else could serve for: under its old name each gets the address of a new one. nobody reports that there is
// not even such a server. fixed are not ours to take.
func (d dialect) standIns(wanted []serverLine, running map[string]server, fixed []string) (stands map[string]netip.AddrPort, nobody bool) {
	if d.adds || len(wanted) == 0 {
		return nil, false
	}
	var free []netip.AddrPort // of those that are wanted and that nobody stands in for
	for _, line := range wanted {
		if _, ok := running[line.name]; ok {
			return nil, false
		}
		free = append(free, line.addr)
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(running)), func(name string) bool {
		return running[name].admin&adminMaint != 0 || slices.Contains(fixed, name)
	})
	takesTraffic := func(name string) bool { s := running[name]; return s.admin == 0 && s.weight > 0 && s.up }
	if slices.ContainsFunc(names, takesTraffic) { // one that is drained, say, is better than none only
		names = slices.DeleteFunc(names, func(name string) bool { return !takesTraffic(name) })
	}
	stands = map[string]netip.AddrPort{}
	for _, name := range names { // those that stand in already
		if i := slices.Index(free, running[name].addr); i >= 0 {
			stands[name] = free[i]
			free = slices.Delete(free, i, i+1)
		}
	}
	for _, name := range names {
		if _, ok := stands[name]; !ok && len(free) > 0 {
			stands[name], free = free[0], free[1:]
		}
	}
	return stands, len(stands) == 0
}
