package pen

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/templates"
)

// slotZero keeps slot 0 out of the rotation for some three years: pen takes an empty slot 0 for a live one, but leaves out
// what is blacklisted. The time is added to the clock in 31 bits, which bounds it.
const slotZero = "server 0 address 0.0.0.0 port 0\nserver 0 blacklist 100000000\n"

// renderer makes configurations of one template.
type renderer struct {
	template   *template.Template
	maxServers int
}

// options gives the lines of a service's configuration that are not about its servers. pen reads them when it starts, and
// does not forget one that is gone later, so they are part of what it is started with.
func (r renderer) options(s *catalog.Service) ([]string, error) {
	lines, err := r.lines(s, nil)
	if err != nil {
		return nil, err
	}
	return optionLines(lines), nil
}

// text gives the whole configuration for a table of servers.
func (r renderer) text(s *catalog.Service, options []string, next slots) (string, error) {
	lines, err := r.lines(s, next)
	if err != nil {
		return "", err
	}
	if got := optionLines(lines); !slices.Equal(got, options) {
		return "", fmt.Errorf("template %s: the options (%q) depend on the servers; make them depend on other fields", r.template.Name(), got)
	}
	missing := map[string]bool{}
	for i := range next {
		missing[serverLine(i, next)] = true
	}
	for n, line := range lines {
		if line.kind == server && !missing[line.text] {
			return "", fmt.Errorf("template %s: line %d of its text, %q, is none of .Servers; use {{.Line}} of each once", r.template.Name(), n+1, line.text)
		}
		delete(missing, line.text)
	}
	if len(missing) > 0 {
		return "", fmt.Errorf("template %s: it leaves out %q; use {{.Line}} of all .Servers", r.template.Name(), slices.Sorted(maps.Keys(missing))[0])
	}
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(line.text + "\n")
	}
	b.WriteString(slotZero)
	return b.String(), nil
}

// tableLines give a running pen another table. Options are not said again, since some add up. Slots that are empty now are told
// so, and one that was filled anew is not left out for what its former server did.
func tableLines(next slots, have table) string {
	var b strings.Builder
	b.WriteString(slotZero)
	for i := 1; i < have.size || len(next) > 0 && i <= slices.Max(slices.Collect(maps.Keys(next))); i++ {
		switch {
		case next[i] == have.slots[i] && i < have.size:
		case !next[i].IsValid():
			fmt.Fprintf(&b, "server %d address 0.0.0.0 port 0\n", i)
		default:
			fmt.Fprintf(&b, "%s\nserver %d blacklist 0\n", serverLine(i, next), i)
		}
	}
	return b.String()
}

// line is a line of a configuration that pen can be given.
type line struct {
	kind kind
	text string // with single blanks
}

type kind int

const (
	comment kind = iota // or nothing
	server
	option
)

// lines renders the template and refuses what is not known to be harmless: some lines that pen cannot read end it, others
// change something else than they say.
func (r renderer) lines(s *catalog.Service, table slots) ([]line, error) {
	data := templates.Pen{Name: catalog.CleanName(s.Name), Port: s.Port, Protocol: string(s.Proto), HTTP: s.Proto == catalog.TCP && s.Mode == catalog.ModeHTTP,
		Source: s.Source, MaxServers: r.maxServers}
	for _, i := range slices.Sorted(maps.Keys(table)) {
		data.Servers = append(data.Servers, templates.PenServer{Line: serverLine(i, table), Slot: i, IP: table[i].Addr().String(), Port: table[i].Port()})
	}
	var b strings.Builder
	if err := r.template.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	var out []line
	for n, text := range strings.Split(strings.TrimRight(b.String(), "\n"), "\n") {
		l, ok := readLine(text)
		if !ok {
			return nil, fmt.Errorf("template %s: line %d of its text, %q, is refused; allowed are comments, {{.Line}} of each server, and the options %s",
				r.template.Name(), n+1, text, allowedOptions)
		}
		out = append(out, l)
	}
	return out, nil
}

func serverLine(i int, table slots) string {
	return fmt.Sprintf("server %d address %s port %d", i, table[i].Addr(), table[i].Port())
}

// maxLine is well below the 4096 bytes at which pen cuts lines in two.
const maxLine = 1000

var unprintable = regexp.MustCompile(`[^\t -~]`)

// readLine tells what a line is; not ok when pen must not get it.
func readLine(text string) (line, bool) {
	words := strings.Fields(text)
	if len(text) > maxLine {
		return line{}, false
	}
	if len(words) == 0 || strings.HasPrefix(words[0], "#") {
		return line{comment, unprintable.ReplaceAllString(strings.TrimSpace(text), "?")}, true
	}
	l := line{option, strings.Join(words, " ")}
	if words[0] == "server" {
		l.kind = server
		return l, true // compared with the lines of .Servers later
	}
	return l, optionPattern.MatchString(l.text)
}

// allowedOptions and optionPattern say which options may stand in a configuration. Left out are those that end pen or crash it, that
// open files or ports, and the ways to choose a server by which UDP services lose most of their traffic.
const allowedOptions = "acl, client_acl, blacklist, debug, http, keepalive, tcp_fastclose, tcp_nodelay, timeout, tracking"

var optionPattern = regexp.MustCompile(`^(acl [0-9] (permit|deny) [0-9.]{7,15}( [0-9.]{7,15})?|(client_acl|debug) [0-9]|` +
	`(blacklist|timeout|tracking) [0-9]{1,6}|(no )?(http|keepalive|tcp_nodelay)|tcp_fastclose (off|up|down|both))$`)

func optionLines(lines []line) []string {
	var out []string
	for _, l := range lines {
		if l.kind == option {
			out = append(out, l.text)
		}
	}
	return out
}
