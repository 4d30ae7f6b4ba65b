package haproxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The commands of a simulated HAProxy, with the answers of 2.6.

const (
	noServer  = "[3]: No such server."
	noBackend = "[3]: No such backend."
)

// execute does one command and gives its answer. A stopping process says so.
func (w *simWorker) execute(command string, in *world, stopping bool) string {
	words := strings.Fields(command)
	arg := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	name, version := arg(0)+" "+arg(1), "2.6.12-1+deb12u4"
	if in.old {
		version = "2.2.9-2+deb11u7"
	}
	switch {
	case in.old && (name == "add server" || name == "del server"):
		return "[6]: Unknown command. Please enter one of the following commands only :"
	case in.old && name == "show stat":
		return strings.ReplaceAll(w.showStat(arg(2)), "PAUSED", "STOP")
	}
	switch name {
	case "show info":
		return fmt.Sprintf("Name: HAProxy\nVersion: %s\nPid: %d\nnode: sim\n%sStopping: %d\n", version, w.pid, w.describe(), toInt(stopping))
	case "show servers":
		return w.showState(arg(3))
	case "show stat":
		return w.showStat(arg(2))
	case "add server":
		return w.addServer(arg(2), words[min(3, len(words)):])
	case "enable frontend", "disable frontend":
		return w.frontend(arg(2), arg(0) == "disable", in)
	case "shutdown sessions", "set maxconn":
		return w.onServer(arg(3), arg(0)+" "+arg(1), words[min(4, len(words)):])
	case "del server", "enable server", "disable server", "enable health", "set server":
		return w.onServer(arg(2), arg(0)+" "+arg(1), words[min(3, len(words)):])
	}
	return "[6]: Unknown command, but maybe one of the following ones is a better match:\n  help [<command>] : list matching or all commands"
}

func (w *simWorker) describe() string {
	if w.description == "" {
		return ""
	}
	return "description: " + w.description + "\n"
}

func (w *simWorker) proxy(name string) *simProxy {
	i := slices.IndexFunc(w.proxies, func(p *simProxy) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	return w.proxies[i]
}

func (w *simWorker) backend(name string) *simProxy {
	if p := w.proxy(name); p != nil && p.back {
		return p
	}
	return nil
}

func (p *simProxy) server(name string) *simServer {
	i := slices.IndexFunc(p.servers, func(v *simServer) bool { return v.name == name })
	if i < 0 {
		return nil
	}
	return p.servers[i]
}

func (w *simWorker) showState(name string) string {
	if name != "" && w.backend(name) == nil {
		return "[3]: Can't find backend."
	}
	var b strings.Builder
	b.WriteString("1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change " +
		"srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord\n")
	for i, p := range w.proxies {
		if !p.back || (name != "" && p.name != name) {
			continue
		}
		for j, v := range p.servers {
			op := 2
			if v.down || v.admin&adminMaint != 0 {
				op = 0
			}
			check := strconv.Itoa(2*toInt(v.check) + 4*toInt(v.checks))
			words(&b, strconv.Itoa(i+2), p.name, strconv.Itoa(j+1), v.name, v.addr.Addr().String(), strconv.Itoa(op), strconv.Itoa(v.admin),
				strconv.Itoa(v.weight), "1 0 1 0 2", check, "0 0 0 -", strconv.Itoa(int(v.addr.Port())), "-\n")
		}
	}
	return b.String()
}

func (w *simWorker) showStat(name string) string {
	if name != "-1" && w.proxy(name) == nil {
		return "[3]: No such proxy."
	}
	var b strings.Builder
	b.WriteString("# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,\n")
	row := func(proxy, name, limit, status string) {
		b.WriteString(proxy + "," + name + ",0,0,0,0," + limit + ",0,0,0,0,0,0,0,0,0,0," + status + ",\n")
	}
	for _, p := range w.proxies {
		if name != "-1" && p.name != name {
			continue
		}
		if p.front {
			row(p.name, "FRONTEND", "100", map[bool]string{false: "OPEN", true: "PAUSED"}[p.paused])
		}
		for _, v := range p.servers {
			limit := ""
			if v.maxconn > 0 {
				limit = strconv.Itoa(v.maxconn)
			}
			row(p.name, v.name, limit, "no check")
		}
		if p.back {
			row(p.name, "BACKEND", "10", "UP")
		}
	}
	return b.String()
}

func (w *simWorker) addServer(path string, words []string) string {
	name, server, ok := strings.Cut(path, "/")
	if !ok {
		return "[3]: Require 'backend/server'."
	}
	if i := strings.IndexFunc(server, badInName); i >= 0 {
		return fmt.Sprintf("[3]: character '%c' is not permitted in server name '%s'.", server[i], server)
	}
	p := w.backend(name)
	switch {
	case p == nil:
		return noBackend
	case p.static:
		return "[3]: Backend must use a dynamic load balancing to support dynamic servers."
	case len(words) == 0:
		return "[3]: 'server' expects <name> and <addr>[:<port>] as arguments."
	}
	v, err := parseSimServer(server, words)
	if err != nil {
		return "[3]: " + err.Error()
	}
	if p.server(server) != nil {
		return "[3]: Already exists a server with the same name in backend."
	}
	v.admin, v.checks = adminMaint, false
	p.servers = append(p.servers, v)
	return "[6]: New server registered."
}

func badInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_.:-", r)
}

func (w *simWorker) frontend(name string, pause bool, in *world) string {
	p := w.proxy(name)
	switch {
	case p == nil || !p.front:
		return "[3]: No such frontend."
	case p.paused && pause:
		return "[5]: All sockets are already disabled."
	case !p.paused && !pause:
		return "[5]: All sockets are already enabled."
	case !pause && in.busy(p):
		return "[3]: Failed to resume frontend, check logs for precise cause (port conflict?)."
	}
	p.paused = pause
	return ""
}

// onServer executes a command about one server.
func (w *simWorker) onServer(path, command string, args []string) string {
	name, server, ok := strings.Cut(path, "/")
	p := w.backend(name)
	if !ok {
		return "[3]: Require 'backend/server'."
	}
	if p == nil {
		return noBackend
	}
	v := p.server(server)
	if v == nil {
		return noServer
	}
	switch command {
	case "enable server":
		v.admin &^= adminMaint | adminDrain
	case "disable server":
		v.admin = v.admin&^adminDrain | adminMaint
	case "enable health":
		if !v.check {
			return "[3]: Health check was not configured on this server, cannot enable."
		}
		v.checks = true
	case "shutdown sessions":
		v.ending = true
	case "set maxconn":
		n, err := strconv.Atoi(cmp.Or(args...))
		if err != nil {
			return "[3]: maxconn string empty or preceded by garbage"
		}
		v.maxconn = n
	case "del server":
		return p.del(v)
	case "set server":
		return v.set(args)
	}
	return ""
}

func (p *simProxy) del(v *simServer) string {
	switch {
	case v.pinned:
		return "[3]: This server cannot be removed at runtime due to other configuration elements pointing to it."
	case v.admin&adminMaint == 0:
		return "[3]: Only servers in maintenance mode can be deleted."
	case v.conns > 0:
		return "[3]: Server still has connections attached to it, cannot remove it."
	}
	p.servers = slices.DeleteFunc(p.servers, func(o *simServer) bool { return o == v })
	return "[6]: Server deleted."
}

// words writes words with blanks between them. It is what the long stories spend their time with.
func words(b *strings.Builder, words ...string) {
	for i, word := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(word)
	}
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// set does what `set server` says.
func (v *simServer) set(args []string) string {
	if len(args) < 2 {
		return "[3]: usage: set server <backend>/<server> addr | agent | agent-addr | agent-port | agent-send | check-addr | check-port | " +
			"fqdn | health | ssl | state | weight"
	}
	switch args[0] + " " + args[1] {
	case "state ready":
		v.admin &^= adminMaint | adminDrain
		return ""
	case "state maint":
		v.admin = v.admin&^adminDrain | adminMaint
		return ""
	case "state drain":
		v.admin = v.admin&^adminMaint | adminDrain
		return ""
	case "health down":
		v.down = true
		return ""
	case "health up":
		v.down = false
		return ""
	}
	switch args[0] {
	case "state":
		return "[3]: 'set server <srv> state' expects 'ready', 'drain' and 'maint'."
	case "weight":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return "[3]: Empty weight string empty or preceded by garbage"
		}
		if n < 0 || n > 256 {
			return "[3]: Absolute weight can only be between 0 and 256 inclusive."
		}
		v.weight = n
		return ""
	}
	return v.setAddr(args)
}

func (v *simServer) setAddr(args []string) string {
	addr, err := netip.ParseAddr(args[1])
	if err != nil {
		return fmt.Sprintf("[4]: Invalid addr '%s' by 'stats socket command'", args[1])
	}
	to := netip.AddrPortFrom(addr, v.addr.Port())
	if len(args) > 3 {
		port, err := strconv.ParseUint(args[3], 10, 16)
		if err != nil {
			return "[4]: provided port is not an integer"
		}
		to = netip.AddrPortFrom(addr, uint16(port))
	}
	text := "no need to change the addr"
	if to.Addr() != v.addr.Addr() {
		text = fmt.Sprintf("IP changed from '%s' to '%s'", v.addr.Addr(), to.Addr())
	}
	if to.Port() != v.addr.Port() {
		text += fmt.Sprintf(", port changed from '%d' to '%d'", v.addr.Port(), to.Port())
	} else if len(args) > 3 {
		text += ", no need to change the port"
	}
	v.addr = to
	return "[4]: " + text + " by 'stats socket command'"
}
