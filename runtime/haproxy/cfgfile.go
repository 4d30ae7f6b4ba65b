package haproxy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// The comments around each service's section in haproxy.cfg. Between them proxymatic keeps the managed server lines;
// every other byte of the file stays as it is until the next reload writes the whole file anew.
const (
	beginMark = "# proxymatic: begin "
	endMark   = "# proxymatic: end"
)

// piece is a stretch of haproxy.cfg: a service's section with its marks, or what stands between two of them.
type piece struct {
	key     catalog.Key // zero between sections
	text    string      // empty when it is just what the section says
	section *section
}

// pieces are a whole file, in order.
type pieces []piece

// sectionPiece is a section as the template made it.
func sectionPiece(s *section) piece { return piece{key: s.key, section: s} }

// appendTo adds the piece to a text.
func (p piece) appendTo(b []byte) []byte {
	if p.section == nil {
		return append(b, p.text...)
	}
	b = append(append(append(b, beginMark...), p.key.String()...), '\n')
	return append(append(append(b, p.section.text...), endMark...), '\n')
}

// appendTo adds the file to a text.
func (l pieces) appendTo(b []byte) []byte {
	for _, p := range l {
		b = p.appendTo(b)
	}
	return b
}

// has reports whether a text without line breaks stands anywhere in the file.
func (l pieces) has(text string) bool {
	return slices.ContainsFunc(l, func(p piece) bool {
		return strings.Contains(p.text, text) || p.section != nil && strings.Contains(p.section.text, text)
	})
}

// fullPieces gives the whole of haproxy.cfg. hash goes into the description of the global section.
func fullPieces(o outer, list sections, hash string) pieces {
	out := make(pieces, 0, 2*len(o.keys)+1)
	described := false
	between := "" // sections
	for i, part := range o.parts {
		if !described {
			part, described = describe(part, hash)
		}
		between += part
		if i == len(o.keys) {
			break
		}
		s := list.find(o.keys[i])
		if s == nil {
			continue
		}
		between = strings.TrimRight(between, " \t") // a mark stands at the start of a line
		if between != "" && !strings.HasSuffix(between, "\n") {
			between += "\n"
		}
		out = append(out, piece{text: between}, sectionPiece(s))
		between = ""
	}
	return append(out, piece{text: between})
}

// describe puts the structure's hash into the description of the first global section, if the text has one: `show info` then
// tells what the running process was built from. Of several description lines HAProxy keeps the last.
func describe(text, hash string) (string, bool) {
	lines := strings.SplitAfter(text, "\n")
	global, description := -1, -1
	for i, line := range lines {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if global >= 0 && isHeader(words[0]) {
			break
		}
		switch words[0] {
		case "global":
			global = i
		case "description":
			if global >= 0 {
				description = i
			}
		}
	}
	tag := tag(hash)
	switch {
	case global < 0:
		return text, false
	case description >= 0:
		lines[description] = strings.Replace(lines[description], "description", "description "+tag, 1)
	default:
		lines = slices.Insert(lines, global+1, "    description "+tag+"\n")
	}
	return strings.Join(lines, ""), true
}

// tag is how a structure's hash stands in a description.
func tag(hash string) string { return tagStart + hash + "]" }

const tagStart = "[proxymatic "

// isHeader reports whether a word begins a section of haproxy.cfg.
func isHeader(word string) bool {
	switch word {
	case "global", "defaults", "listen", "frontend", "backend", "peers", "resolvers", "userlist", "cache", "ring", "program",
		"mailers", "log-forward", "http-errors", "fcgi-app", "crt-store", "traces":
		return true
	}
	return false
}

// cutPieces cuts a file at the marks. An unfinished or unreadable mark is an error: then only a whole new text helps.
func cutPieces(file string) (pieces, error) {
	var out pieces
	for {
		begin := findMark(file, beginMark)
		if begin < 0 {
			return append(out, piece{text: strings.Clone(file)}), nil
		}
		word, _, _ := strings.Cut(file[begin+len(beginMark):], "\n")
		var key catalog.Key
		if err := key.UnmarshalText([]byte(strings.TrimSpace(word))); err != nil {
			return nil, err
		}
		end := findMark(file[begin:], endMark+"\n")
		if end < 0 {
			return nil, fmt.Errorf("section %s does not end", key)
		}
		end += begin + len(endMark) + 1
		if findMark(file[begin+1:end], beginMark) >= 0 {
			return nil, fmt.Errorf("section %s does not end before the next", key)
		}
		out = append(out, piece{text: strings.Clone(file[:begin])}, piece{key: key, text: file[begin:end]})
		file = file[end:]
	}
}

// findMark finds a mark at the start of a line.
func findMark(text, mark string) int {
	for at := 0; ; {
		i := strings.Index(text[at:], mark)
		if i < 0 {
			return -1
		}
		if at += i; at == 0 || text[at-1] == '\n' {
			return at
		}
		at += len(mark)
	}
}

// splice gives the file with the wanted sections, and whether that is another text: server lines replaced, sections of removed
// services dropped, sections of services that came back inserted. Every other byte stays, as do the sections named in keep. An
// error means that the file is not one that was written for these sections.
func (l pieces) splice(list sections, keep map[catalog.Key]bool) (out pieces, changed bool, err error) {
	out = make(pieces, 0, len(l)+2)
	seen := make([]bool, len(list))
	i := -1 // in list, of the section before: the next one is most probably there too
	for _, p := range l {
		if p.key == (catalog.Key{}) || keep[p.key] {
			out = append(out, p)
			continue
		}
		ok := i+1 < len(list) && (list[i+1] == p.section || list[i+1].key == p.key)
		if ok {
			i++
		} else {
			i, ok = list.search(p.key)
		}
		if !ok || seen[i] {
			i, changed = i-1, true
			continue
		}
		seen[i] = true
		next := p.splice(list[i])
		changed = changed || !next.same(p)
		out = append(out, next)
	}
	var missing sections
	for i, s := range list {
		if !seen[i] {
			missing = append(missing, s)
		}
	}
	if len(missing) == 0 {
		return out, changed, nil
	}
	if len(missing) == len(list) {
		return nil, false, fmt.Errorf("it has none of the services' sections")
	}
	return insertMissing(out, missing), true, nil
}

// insertMissing puts sections that the file lacks behind the nearest section of a lower port, or before the first.
func insertMissing(l pieces, missing sections) pieces {
	for _, s := range missing {
		at := -1
		for i, p := range l {
			if p.key == (catalog.Key{}) {
				continue
			}
			if p.key.Compare(s.key) < 0 || at < 0 {
				at = i
			}
		}
		if l[at].key.Compare(s.key) < 0 {
			at++
		}
		l = slices.Insert(l, at, sectionPiece(s))
	}
	return l
}

// same reports whether two pieces have the same text.
func (p piece) same(o piece) bool {
	if p.section == o.section {
		return p.text == o.text
	}
	return string(p.appendTo(nil)) == string(o.appendTo(nil))
}

// splice replaces the managed server lines in one section of the file.
func (p piece) splice(s *section) piece {
	if p.section == s {
		return p
	}
	whole := sectionPiece(s)
	text := spliceSection(string(p.appendTo(nil)), s)
	if text == string(whole.appendTo(nil)) {
		return whole
	}
	return piece{key: p.key, text: text}
}

// spliceSection replaces the managed server lines in one section of the file.
func spliceSection(have string, s *section) string {
	begin := strings.IndexByte(have, '\n') + 1 // behind the mark
	if have[begin:len(have)-len(endMark)-1] == s.text {
		return have
	}
	var out []string
	var proxies []string // of the file, in order
	last := map[string]int{}
	lines := serverText(s)
	for line := range strings.Lines(have) {
		words := strings.Fields(line)
		if len(words) > 1 && (words[0] == "listen" || words[0] == "frontend" || words[0] == "backend") {
			proxies = append(proxies, words[1])
		}
		if len(proxies) > 0 && len(words) > 1 && words[0] == "server" && !s.isFixed(proxies[len(proxies)-1], words[1]) {
			continue
		}
		out = append(out, line)
		if len(proxies) > 0 && len(words) > 0 && !strings.HasPrefix(words[0], "#") {
			last[proxies[len(proxies)-1]] = len(out)
		}
	}
	for _, p := range slices.Backward(proxies) {
		out = slices.Insert(out, last[p], lines[p]...)
	}
	return strings.Join(out, "")
}

// serverText gives the managed server lines of each proxy as the template wrote them.
func serverText(s *section) map[string][]string {
	names := s.managedNames()
	out := map[string][]string{}
	current := ""
	for line := range strings.Lines(s.text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "listen", "frontend", "backend":
			current = words[1]
		case "server":
			if names[words[1]] {
				out[current] = append(out[current], line)
			}
		}
	}
	return out
}

// isFixed reports whether a server is the template's own.
func (s *section) isFixed(proxyName, server string) bool {
	for _, p := range s.proxies {
		if p.name == proxyName {
			return slices.Contains(p.fixed, server)
		}
	}
	return true // a proxy that the template does not know is somebody else's
}
