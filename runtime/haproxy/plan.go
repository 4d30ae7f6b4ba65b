package haproxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// The actions that others ask about.
const (
	removeServer  = "remove server"
	pauseFrontend = "pause frontend"
	addServer     = "add server"
	enableServer  = "enable server"
)

// step is one change through the stats socket.
type step struct {
	key      catalog.Key
	change   catalog.Change
	path     string // of the server that it is about, as PROXY/NAME; empty where it is about a frontend
	commands []string

	deletes bool           // a server that is in maintenance
	addr    netip.AddrPort // of that server
	ensures bool           // a server that most probably is there, so that HAProxy refuses it
}

// plan is what turns an observed HAProxy into the wanted one. It is data: logs, `proxymatic plan`, status and tests show
// the same changes.
type plan struct {
	steps   []step
	deletes []step        // servers in maintenance that can go when their last connection has; nothing waits for them
	reloads []string      // why a new process must be built; empty when the socket suffices
	start   bool          // there is no process
	fresh   []catalog.Key // services that the running process cannot serve before the reload
	dialect dialect       // of the running process
}

// makePlan compares what is wanted with what is. keys are the services to look at, in order; nil means all, wanted and
// running. Services that must wait (a taken port) are not in want: if they run, they are paused like removed ones.
//
// release names services whose paused ports have been held long enough.
func makePlan(want sections, o outer, have observed, keys, release []catalog.Key) plan {
	p := plan{dialect: dialectOf(have.version)}
	if !have.alive {
		p.start, p.reloads = true, []string{"HAProxy does not run"}
		if have.deaf {
			p.reloads = []string{"HAProxy runs, but its stats socket is gone"}
		}
		p.fresh = want.keys()
		return p
	}
	if !have.known {
		p.reloads = append(p.reloads, fmt.Sprintf("the running HAProxy (pid %d) was not built from a configuration that proxymatic knows", have.pid))
		p.fresh = want.keys()
		return p
	}
	if o.hash != have.built.Outer {
		p.reloads = append(p.reloads, "the text outside of the services' sections changed")
	}
	for _, key := range release {
		if b, ok := have.built.service(key); ok && want.find(key) == nil {
			p.reloads = append(p.reloads, fmt.Sprintf("release the port of %s, removed a while ago", title(b.Name, key)))
		}
	}
	for _, key := range keysOr(keys, want, have) {
		p.service(key, want.find(key), have)
	}
	return p
}

// keysOr gives keys, or all keys that are wanted or running when it is nil.
func keysOr(keys []catalog.Key, want sections, have observed) []catalog.Key {
	if keys != nil {
		return keys
	}
	all := want.keys()
	for key := range have.built.Services {
		if want.find(key) == nil {
			all = append(all, key)
		}
	}
	slices.SortFunc(all, catalog.Key.Compare)
	return all
}

// service plans one service. want is nil when it is not wanted.
func (p *plan) service(key catalog.Key, want *section, have observed) {
	b, built := have.built.service(key)
	runs := built && have.runs(b)
	switch {
	case want == nil && !runs:
		return
	case !built:
		p.reload(key, fmt.Sprintf("new service %s", title(want.name, key)))
		return
	case !runs:
		p.reload(key, fmt.Sprintf("service %s was shut down, or is not in the running HAProxy", title(want.name, key)))
		return
	case want != nil && want.hash != b.Hash:
		p.reload(key, fmt.Sprintf("service %s changed in what only a reload can change", title(want.name, key))+because(want.static))
		if b.Static != "" {
			return // the load is all that can be done
		}
	}
	if want == nil {
		p.fronts(key, b, have, false)
	}
	waits := false // nobody can serve before the load
	for _, proxy := range b.Proxies {
		if proxy.Back && (want == nil || want.has(proxy.Name)) {
			waits = p.backend(key, b, proxy, want, have) || waits
		}
	}
	if want != nil && !waits {
		p.fronts(key, b, have, true)
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func (p *plan) reload(key catalog.Key, reason string) {
	p.reloads = append(p.reloads, reason)
	if n := len(p.fresh); n == 0 || p.fresh[n-1] != key {
		p.fresh = append(p.fresh, key)
	}
}

// fronts plans whether a service's frontends listen. A paused one refuses connections and can be opened again.
func (p *plan) fronts(key catalog.Key, b builtService, have observed, open bool) {
	for _, proxy := range b.Proxies {
		if !proxy.Front || have.open[proxy.Name] == open {
			continue
		}
		action, command := pauseFrontend, "disable frontend "+proxy.Name
		if open {
			action, command = "open frontend", "enable frontend "+proxy.Name
		}
		p.add(key, b, "", action, command)
	}
}

// backend plans one proxy's servers: what is new comes before what is gone leaves. It reports whether nobody is left to serve until
// a load brings the new ones.
func (p *plan) backend(key catalog.Key, b builtService, proxy builtProxy, want *section, have observed) (waits bool) {
	wanted := map[string]bool{}
	for _, line := range want.lines(proxy.Name) {
		wanted[line.name] = true
		p.server(key, b, proxy.Name, line, have)
	}
	running := have.servers[proxy.Name]
	stands, waits := p.dialect.standIns(want.lines(proxy.Name), running, proxy.Fixed)
	for _, name := range slices.Sorted(maps.Keys(running)) {
		if wanted[name] || slices.Contains(proxy.Fixed, name) {
			continue
		}
		path := proxy.Name + "/" + name
		if addr, ok := stands[name]; ok {
			if running[name].addr != addr {
				p.add(key, b, path, removeServer, setAddress(path, addr))
			}
			continue
		}
		if running[name].admin&adminMaint == 0 {
			p.add(key, b, path, removeServer, "disable server "+path)
		}
		p.deletes = append(p.deletes, step{key: key, path: path, commands: []string{"del server " + path}, deletes: true, addr: running[name].addr})
	}
	return waits
}

// has reports whether the section has a proxy of that name: until a reload that is due, the running one may have others.
func (s *section) has(proxyName string) bool {
	return slices.ContainsFunc(s.proxies, func(p proxy) bool { return p.name == proxyName })
}

// lines gives the wanted servers of a proxy; a section that is not wanted has none.
func (s *section) lines(proxyName string) []serverLine {
	if s == nil {
		return nil
	}
	for _, p := range s.proxies {
		if p.name == proxyName {
			return p.servers
		}
	}
	return nil
}

// server plans one wanted server.
func (p *plan) server(key catalog.Key, b builtService, backend string, line serverLine, have observed) {
	is, ok := have.servers[backend][line.name]
	path := backend + "/" + line.name
	if !ok {
		switch {
		case b.Static != "":
			p.reload(key, fmt.Sprintf("server %s is missing in %s", line.name, title(b.Name, key))+because(b.Static))
			return
		case line.static != "":
			return // such a line is new in the section, and waits for its load
		case !p.dialect.adds:
			p.reload(key, fmt.Sprintf("server %s is new in %s, and HAProxy %s cannot add it at run time", line.name, title(b.Name, key), have.version))
			return
		}
		p.add(key, b, path, addServer, p.dialect.addCommands(path, line)...)
		return
	}
	if is.addr != line.addr {
		p.add(key, b, path, "correct address", setAddress(path, line.addr))
	}
	if is.weight != line.weight {
		p.add(key, b, path, "set weight", fmt.Sprintf("set server %s weight %d", path, line.weight))
	}
	if is.maxconn != line.maxconn {
		p.add(key, b, path, "set maxconn", fmt.Sprintf("set maxconn server %s %d", path, line.maxconn))
	}
	if is.admin&(adminMaint|adminDrain) != 0 {
		p.add(key, b, path, enableServer, "set server "+path+" state ready")
	}
	if !is.up && !line.checked && is.admin == 0 { // somebody said so on the socket: nothing else would ever bring it back
		p.add(key, b, path, "correct health", "set server "+path+" health up")
	}
	if line.checked && !is.checked {
		p.add(key, b, path, "enable check", "enable health "+path)
	}
}

func setAddress(path string, addr netip.AddrPort) string {
	return fmt.Sprintf("set server %s addr %s port %d", path, addr.Addr(), addr.Port())
}

func (p *plan) add(key catalog.Key, b builtService, path, action string, commands ...string) {
	p.steps = append(p.steps, newStep(key, b, path, action, commands...))
}

func newStep(key catalog.Key, b builtService, path, action string, commands ...string) step {
	_, server, _ := strings.Cut(path, "/")
	return step{key: key, path: path, commands: commands, change: catalog.Change{Service: title(b.Name, key), Server: server,
		Action: action, Detail: strings.Join(commands, "; ")}}
}
