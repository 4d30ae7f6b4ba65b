package haproxy

import (
	"bytes"
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

// mark wraps a section's text.
func mark(s *section) string { return beginMark + s.key.String() + "\n" + s.text + endMark + "\n" }

// fullText gives the whole of haproxy.cfg. hash goes into the description of the global section.
func fullText(o outer, sections map[catalog.Key]*section, hash string) []byte {
	size := 0
	for _, s := range sections {
		size += len(s.text) + 100
	}
	var b bytes.Buffer
	b.Grow(size)
	described := false
	for i, part := range o.parts {
		if !described {
			part, described = describe(part, hash)
		}
		b.WriteString(part)
		if i == len(o.keys) {
			break
		}
		if s, ok := sections[o.keys[i]]; ok {
			b.Truncate(len(bytes.TrimRight(b.Bytes(), " \t"))) // a mark stands at the start of a line
			if b.Len() > 0 && b.Bytes()[b.Len()-1] != '\n' {
				b.WriteByte('\n')
			}
			b.WriteString(beginMark)
			b.WriteString(s.key.String())
			b.WriteByte('\n')
			b.WriteString(s.text)
			b.WriteString(endMark + "\n")
		}
	}
	return b.Bytes()
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

// piece is a stretch of haproxy.cfg: a service's section with its marks, or what stands between two of them.
type piece struct {
	key  catalog.Key // zero between sections
	text string
}

// cutPieces cuts a file at the marks. An unfinished or unreadable mark is an error: then only a whole new text helps.
func cutPieces(file string) ([]piece, error) {
	var out []piece
	for {
		begin := findMark(file, beginMark)
		if begin < 0 {
			return append(out, piece{text: file}), nil
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
		out = append(out, piece{text: file[:begin]}, piece{key: key, text: file[begin:end]})
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

// splice gives the file with the wanted sections: server lines replaced, sections of removed services dropped, sections
// of services that came back inserted. Every other byte stays, as do the sections named in keep. An error means that the
// file is not one that was written for these sections.
func splice(file string, sections map[catalog.Key]*section, keep map[catalog.Key]bool) (string, error) {
	pieces, err := cutPieces(file)
	if err != nil {
		return "", err
	}
	var out []piece
	seen := map[catalog.Key]bool{}
	for _, p := range pieces {
		if p.key == (catalog.Key{}) || keep[p.key] {
			out = append(out, p)
			continue
		}
		s, ok := sections[p.key]
		if !ok || seen[p.key] {
			continue
		}
		seen[p.key] = true
		out = append(out, piece{p.key, spliceSection(p.text, s)})
	}
	if len(seen) < len(sections) {
		if out, err = insertMissing(out, sections, seen); err != nil {
			return "", err
		}
	}
	var b strings.Builder
	b.Grow(len(file) + 1024)
	for _, p := range out {
		b.WriteString(p.text)
	}
	return b.String(), nil
}

// insertMissing puts sections that the file lacks behind the nearest section of a lower port, or before the first.
func insertMissing(pieces []piece, sections map[catalog.Key]*section, seen map[catalog.Key]bool) ([]piece, error) {
	if len(seen) == 0 {
		return nil, fmt.Errorf("it has none of the services' sections")
	}
	for key, s := range sections {
		if seen[key] {
			continue
		}
		at := -1
		for i, p := range pieces {
			if p.key == (catalog.Key{}) {
				continue
			}
			if p.key.Compare(key) < 0 || at < 0 {
				at = i
			}
		}
		if pieces[at].key.Compare(key) < 0 {
			at++
		}
		pieces = slices.Insert(pieces, at, piece{key, mark(s)})
	}
	return pieces, nil
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
