package haproxy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/templates"
)

// section is a service's part of haproxy.cfg: the proxies that the template makes of it, and their servers. It is never
// changed once made.
type section struct {
	key     catalog.Key
	service *catalog.Service         // what it was made of
	head    templates.HAProxyService // what the outer text is told of it
	outside string                   // why the defaults of the outer text forbade changing servers at run time when it was made
	name    string                   // the name that the template was given
	text    string                   // ends in a line break
	hash    string                   // of what only a reload can change
	proxies []proxy
	binds   []netip.AddrPort
	static  string // why every change of it needs a reload; empty when the runtime socket can do it

	expected int // how many servers a proxy will have, as far as that is known while it is read
}

// proxy is one listen, frontend or backend of a section.
type proxy struct {
	name    string
	front   bool // it listens
	back    bool // it has servers
	servers []serverLine
	fixed   []string // servers that are the template's own, not the service's
}

// usualLine is a server's line as the template was offered it.
type usualLine struct {
	text string
	serverLine
}

// parseSection reads a section's text. managed says which server names are the service's; the others are the template's
// own and part of the structure. usual are server lines that need no reading, in the order in which each proxy has them.
func parseSection(key catalog.Key, name, text string, managed func(string) bool, usual []usualLine, lines *lineParser) (*section, error) {
	s := &section{key: key, name: name, text: text, expected: strings.Count(text, "server ")}
	var structure strings.Builder
	structure.Grow(512)
	next := 0 // of usual
	for line := range strings.Lines(text) {
		if next == len(usual) {
			next = 0
		}
		if next < len(usual) && strings.TrimSpace(line) == usual[next].text {
			if err := s.addServer(usual[next].serverLine); err != nil {
				return nil, err
			}
			next++
			continue
		}
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		if words[0] == "server" && len(words) > 1 && managed(words[1]) {
			l, err := lines.parse(words)
			if err != nil {
				return nil, err
			}
			if err := s.addServer(l); err != nil {
				return nil, err
			}
			continue
		}
		for _, w := range words {
			structure.WriteString(w)
			structure.WriteByte(' ')
		}
		structure.WriteByte('\n')
		s.readLine(words)
	}
	if s.static != "" {
		structure.WriteString(text) // every change of the text counts
	}
	s.hash = hashText(structure.String())
	return s, nil
}

func (s *section) addServer(l serverLine) error {
	if len(s.proxies) == 0 || !s.proxies[len(s.proxies)-1].back {
		return fmt.Errorf("the line of server %s stands outside of a listen or backend section", l.name)
	}
	p := &s.proxies[len(s.proxies)-1]
	if p.servers == nil {
		p.servers = make([]serverLine, 0, s.expected)
	}
	p.servers = append(p.servers, l)
	if l.static != "" {
		s.static = l.static
	}
	return nil
}

// readLine takes what matters to a driver from a line of structure.
func (s *section) readLine(words []string) {
	switch words[0] {
	case "listen", "frontend", "backend":
		if len(words) > 1 {
			s.proxies = append(s.proxies, proxy{name: words[1], front: words[0] != "backend", back: words[0] != "frontend"})
		}
		return
	case "bind":
		if len(words) > 1 {
			s.binds = append(s.binds, bindAddresses(words[1])...)
		}
	case "server":
		if len(words) > 1 && len(s.proxies) > 0 {
			p := &s.proxies[len(s.proxies)-1]
			p.fixed = append(p.fixed, words[1])
		}
	}
	if reason := staticReason(words); reason != "" {
		s.static = reason
	}
}

// staticReason tells why a line of a section or of defaults forbids changing servers at run time. Seen on 2.6: dynamic
// servers ignore default-server; map-based balancing answers "Backend must use a dynamic load balancing"; servers that
// others refer to cannot be removed.
func staticReason(words []string) string {
	switch words[0] {
	case "default-server", "use-server", "server-template":
		return fmt.Sprintf("it uses `%s`, which servers that are added at run time do not follow", words[0])
	case "balance":
		if len(words) > 1 {
			switch name, _, _ := strings.Cut(words[1], "("); name {
			case "roundrobin", "leastconn", "random", "first":
			default:
				return fmt.Sprintf("`balance %s` does not take servers at run time", name)
			}
		}
	}
	return ""
}

// managedNames gives the names of the section's managed servers.
func (s *section) managedNames() map[string]bool {
	names := map[string]bool{}
	for _, p := range s.proxies {
		for _, l := range p.servers {
			names[l.name] = true
		}
	}
	return names
}

// hasServers reports whether any of the section's proxies has a server, the template's own ones included.
func (s *section) hasServers() bool {
	for _, p := range s.proxies {
		if len(p.servers) > 0 || len(p.fixed) > 0 {
			return true
		}
	}
	return false
}

func hashText(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}
