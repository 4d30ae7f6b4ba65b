package haproxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// parseSim builds a process from the text of haproxy.cfg, as far as the templates of the tests go.
func parseSim(text string) (*simWorker, error) {
	w := &simWorker{}
	head, balance := "", ""
	var p *simProxy
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if isHeader(words[0]) {
			head, p = words[0], nil
			if words[0] != "listen" && words[0] != "frontend" && words[0] != "backend" {
				continue
			}
			if w.proxy(words[1]) != nil {
				return nil, fmt.Errorf("two proxies are named %s", words[1])
			}
			p = &simProxy{name: words[1], front: head != "backend", back: head != "frontend", static: !dynamicBalance(balance)}
			w.proxies = append(w.proxies, p)
			continue
		}
		switch {
		case head == "global" && words[0] == "description":
			w.description = strings.Join(words[1:], " ")
		case head == "defaults" && words[0] == "balance":
			balance = words[1]
		case p != nil:
			if err := p.read(words); err != nil {
				return nil, err
			}
		}
	}
	w.pin()
	return w, nil
}

func dynamicBalance(name string) bool {
	return slices.Contains([]string{"", "roundrobin", "leastconn", "random", "first"}, name)
}

// read takes a line of a proxy.
func (p *simProxy) read(words []string) error {
	switch words[0] {
	case "server":
		if p.server(words[1]) != nil {
			return fmt.Errorf("two servers of %s are named %s", p.name, words[1])
		}
		v, err := parseSimServer(words[1], words[2:])
		if err != nil {
			return err
		}
		p.servers = append(p.servers, v)
		return nil
	case "bind":
		a, err := netip.ParseAddrPort(words[1])
		if err != nil {
			return err
		}
		p.binds = append(p.binds, a)
	case "default_backend", "use_backend":
		p.backs = append(p.backs, words[1])
	case "balance":
		p.static = !dynamicBalance(words[1])
	}
	p.rest = append(p.rest, strings.Join(words, " "))
	return nil
}

// pin marks the servers that use-server refers to.
func (w *simWorker) pin() {
	for _, p := range w.proxies {
		for _, line := range p.rest {
			if words := strings.Fields(line); words[0] == "use-server" {
				if v := p.server(words[1]); v != nil {
					v.pinned = true
				}
			}
		}
	}
}

// parseSimServer reads what stands behind a server's name.
func parseSimServer(name string, words []string) (*simServer, error) {
	addr, err := netip.ParseAddrPort(words[0])
	if err != nil {
		return nil, err
	}
	v := &simServer{name: name, addr: addr, weight: 1}
	var other []string
	for i := 1; i < len(words); i++ {
		value := ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		switch words[i] {
		case "weight":
			v.weight, err = strconv.Atoi(value)
			if v.weight < 0 || v.weight > 256 {
				err = fmt.Errorf("weight of server %s is not within 0 and 256 (%s)..", name, value)
			}
			i++
		case "maxconn":
			v.maxconn, err = strconv.Atoi(value)
			i++
		case "pool-max-conn", "pool-purge-delay":
			i++
		case "inter":
			other = append(other, "inter", value)
			i++
		case "check":
			v.check, v.checks = true, true
		case "disabled":
			v.admin = adminMaint | 0x04
		case "send-proxy", "backup":
			other = append(other, words[i])
		default:
			err = fmt.Errorf("unknown keyword '%s'", words[i])
		}
		if err != nil {
			return nil, err
		}
	}
	v.words = strings.Join(other, " ")
	return v, nil
}

// simText gives proxies in a form that two processes share when they do the same: without the titles of services, which are for
// operators' eyes, and in order. Servers in maintenance are on their way out and left out.
func simText(proxies []*simProxy) string {
	untitled := strings.NewReplacer("alpha-", "-", "beta-", "-", "gamma-", "-")
	var blocks []string
	for _, p := range proxies {
		lines := []string{untitled.Replace(p.name + ": " + strings.Join(p.rest, "; "))}
		servers := slices.SortedFunc(slices.Values(p.servers), func(a, b *simServer) int { return cmp.Compare(a.name, b.name) })
		for _, v := range servers {
			if v.admin&adminMaint == 0 {
				lines = append(lines, "  "+v.name+" "+v.addr.String()+" weight "+strconv.Itoa(v.weight)+" maxconn "+strconv.Itoa(v.maxconn)+
					" check "+strconv.FormatBool(v.checks)+" admin "+strconv.Itoa(v.admin)+" "+v.words)
			}
		}
		blocks = append(blocks, strings.Join(lines, "\n"))
	}
	slices.Sort(blocks)
	return strings.Join(blocks, "\n")
}

// live gives the open frontends and the backends behind them.
func (w *simWorker) live() []*simProxy {
	var out []*simProxy
	for _, p := range w.proxies {
		if !p.front || p.paused {
			continue
		}
		out = append(out, p)
		for _, b := range w.behind(p) {
			if b != p {
				out = append(out, b)
			}
		}
	}
	return out
}

// leftovers tells of servers that should be gone: in maintenance and forgotten, or ready behind a closed frontend.
func (w *simWorker) leftovers(remembered map[string]leaving) []string {
	var out []string
	live := w.live()
	for _, p := range w.proxies {
		for _, v := range p.servers {
			_, known := remembered[p.name+"/"+v.name]
			switch {
			case v.admin&adminMaint != 0 && !known:
				out = append(out, p.name+"/"+v.name+" is in maintenance and forgotten")
			case v.admin&adminMaint == 0 && !slices.Contains(live, p) && v.managed():
				out = append(out, p.name+"/"+v.name+" is ready behind a closed frontend")
			}
		}
	}
	return out
}

// managed reports whether a server is a service's: the templates' own have other names.
func (v *simServer) managed() bool { return strings.Contains(v.name, ":") }

// differ gives the lines that only one of two texts has.
func differ(got, want string) error {
	have, need := strings.Split(got, "\n"), strings.Split(want, "\n")
	if slices.Equal(have, need) {
		return nil
	}
	var out []string
	for _, line := range have {
		if !slices.Contains(need, line) {
			out = append(out, "has "+line)
		}
	}
	for _, line := range need {
		if !slices.Contains(have, line) {
			out = append(out, "lacks "+line)
		}
	}
	if len(out) == 0 { // the same lines elsewhere
		return fmt.Errorf("%s\nis not\n%s", got, want)
	}
	return fmt.Errorf("%s", strings.Join(out, "\n"))
}
