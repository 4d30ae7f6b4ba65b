package pen

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// wanted is a service as pen should serve it.
type wanted struct {
	service *catalog.Service
	command command
	uid     int    // as whom
	limit   int    // most servers
	refused string // why it cannot be served; empty when it can
}

// observed is what runs for a service.
type observed struct {
	process           // of the pen that serves it; its pid is 0 when there is none
	table   table     // its servers
	spins   bool      // it takes a whole core, and has no connection
	deaf    error     // why its control socket does not answer; nil when it does
	lost    bool      // it will not answer any more
	strays  []process // others, which take a part of the traffic
	died    string    // how the pen that served it has ended, if it is known
}

// action is what brings a service from what runs to what is wanted.
type action string

const (
	nothing action = ""
	start   action = "start pen"
	replace action = "replace pen" // by another, which is there first where it can be
	update  action = "update pen"  // tell it its servers
	stop    action = "stop pen"
)

// plan is what to do about one service.
type plan struct {
	action  action
	next    slots            // the table that is wanted
	changes []catalog.Change // what it comes to, for people
}

// makePlan compares. want is nil for a service that is gone. A service that cannot be served as it is wanted now goes on as it is.
func makePlan(key catalog.Key, want *wanted, have observed) plan {
	title := key.String()
	if want != nil {
		title = want.service.Title()
	}
	p := plan{}
	switch {
	case want == nil && have.pid != 0:
		p.action = stop
		p.changes = []catalog.Change{{Service: title, Action: string(stop), Detail: fmt.Sprintf("pid %d: the service is gone", have.pid)}}
	case want != nil && want.refused == "":
		p = planServed(title, *want, have)
	}
	for _, s := range have.strays {
		p.changes = append(p.changes, catalog.Change{Service: title, Action: string(stop), Detail: fmt.Sprintf("pid %d: another serves this port", s.pid)})
	}
	return p
}

func planServed(title string, want wanted, have observed) plan {
	flows := have.table.flows
	if want.service.Proto == catalog.TCP { // which moves nobody: its connections stay with their server
		flows = nil
	}
	p := plan{next: assign(shares(want.service.Servers, have.table.slots, want.limit), have.table.slots, flows)}
	reason := ""
	switch {
	case have.pid == 0:
		p.action, reason = start, have.died
		if reason == "" {
			reason = want.command.String()
		}
	case have.id != want.command.id():
		p.action, reason = replace, want.command.String()
	case have.uid != want.uid:
		p.action, reason = replace, fmt.Sprintf("it runs as user %d instead of %d", have.uid, want.uid)
	case have.deaf != nil && !have.lost:
		return plan{} // nothing is known of it
	case have.deaf != nil:
		p.action, reason = replace, have.deaf.Error()
	case have.spins:
		p.action, reason = replace, fmt.Sprintf("pid %d takes a whole core and has no connection", have.pid)
	case !maps.Equal(p.next, have.table.slots):
		p.action = update
		p.changes = tableChanges(title, have.table.slots, p.next)
		return p
	default:
		return p
	}
	p.changes = []catalog.Change{{Service: title, Action: string(p.action), Detail: reason}}
	return p
}

// tableChanges tells what makes of one table another, by server.
func tableChanges(title string, have, next slots) []catalog.Change {
	before, after := have.counts(), next.counts()
	var out []catalog.Change
	add := func(addr netip.AddrPort, action, detail string) {
		out = append(out, catalog.Change{Service: title, Server: serverName(addr), Action: action, Detail: detail})
	}
	for _, addr := range slices.SortedFunc(maps.Keys(after), netip.AddrPort.Compare) {
		switch n := after[addr]; {
		case before[addr] == 0:
			add(addr, "add server", slotsOf(next, addr))
		case before[addr] != n:
			add(addr, "set weight", slotsOf(next, addr))
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(before), netip.AddrPort.Compare) {
		if after[addr] == 0 {
			add(addr, "remove server", slotsOf(have, addr))
		}
	}
	if len(out) == 0 { // slots that moved alone, such as out of slot 0
		out = append(out, catalog.Change{Service: title, Action: "set slots"})
	}
	return out
}

func slotsOf(table slots, addr netip.AddrPort) string {
	var words []string
	for _, i := range slices.Sorted(maps.Keys(table)) {
		if table[i] == addr {
			words = append(words, strconv.Itoa(i))
		}
	}
	return "slot " + strings.Join(words, ", ")
}

// serverName gives a server's name, which is the one that it has in HAProxy: IPv6 without brackets.
func serverName(addr netip.AddrPort) string { return fmt.Sprintf("%s:%d", addr.Addr(), addr.Port()) }
