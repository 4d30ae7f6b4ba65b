package haproxy

import (
	"slices"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// kept is how a service ran before.
type kept struct {
	text  string
	built builtService
	of    *section // for which made was made
	made  *section
}

// keep gives a service's section of a file; nil where it has none.
func (l pieces) keep(key catalog.Key, b builtService) *kept {
	for _, p := range l {
		if p.key != key {
			continue
		}
		_, text, _ := strings.Cut(string(p.appendTo(nil)), "\n") // behind the mark
		return &kept{text: strings.TrimSuffix(text, endMark+"\n"), built: b}
	}
	return nil
}

// section gives the form that ran before, with the servers that are wanted now. Where that cannot be, it is the form that is refused.
func (k *kept) section(s *section, lines *lineParser) *section {
	if k.of == s {
		return k.made
	}
	fixed := map[string]bool{}
	for _, p := range k.built.Proxies {
		for _, name := range p.Fixed {
			fixed[name] = true
		}
	}
	text := k.refill(s, fixed)
	made, err := parseSection(s.key, k.built.Name, text, func(name string) bool { return !fixed[name] }, nil, lines)
	if err != nil {
		made = s
	} else {
		made.service, made.head, made.outside, made.hash, made.static = s.service, s.head, s.outside, k.built.Hash, k.built.Static
		if made.head.Name = k.built.Name; k.built.Static != "" && text != k.text {
			made.hash = hashText(k.built.Hash + text)
		}
	}
	k.of, k.made = s, made
	return made
}

// refill replaces the servers in a section's text by those of another form of it: proxy by proxy, in order.
func (k *kept) refill(s *section, fixed map[string]bool) string {
	var servers [][]string // of each proxy that has some
	byName := serverText(s)
	for _, p := range s.proxies {
		if p.back {
			servers = append(servers, byName[p.name])
		}
	}
	var out []string
	at := 0 // behind the last line of the proxy
	end := func() {
		if at > 0 && len(servers) > 0 {
			out = slices.Insert(out, at, servers[0]...)
			servers = servers[1:]
		}
		at = 0
	}
	back := false
	for line := range strings.Lines(k.text) {
		words := strings.Fields(line)
		if len(words) > 1 && isHeader(words[0]) {
			end()
			back = words[0] != "frontend"
		}
		if len(words) > 1 && words[0] == "server" && !fixed[words[1]] {
			continue
		}
		if out = append(out, line); back && len(words) > 0 && words[0][0] != '#' {
			at = len(out)
		}
	}
	end()
	return strings.Join(out, "")
}
