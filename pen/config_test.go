package pen

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/templates"
)

func parsed(t testing.TB, text string) renderer {
	t.Helper()
	tpl, err := template.New("t").Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return renderer{tpl, 32}
}

func builtIn(t testing.TB) renderer {
	t.Helper()
	tpl, err := templates.ParsePen("")
	if err != nil {
		t.Fatal(err)
	}
	return renderer{tpl, 32}
}

// whole gives the text for a table, or the error.
func (r renderer) whole(s *catalog.Service, next slots) string {
	options, err := r.options(s)
	if err != nil {
		return err.Error()
	}
	text, err := r.text(s, options, next)
	if err != nil {
		return err.Error()
	}
	return text
}

func TestConfigurations(t *testing.T) {
	dns := &catalog.Service{Key: catalog.Key{Port: 53, Proto: catalog.UDP}, Name: "dns", Mode: catalog.ModeTCP}
	web := &catalog.Service{Key: catalog.Key{Port: 80, Proto: catalog.TCP}, Name: "web\nlisten 81", Mode: catalog.ModeHTTP}
	const end = "server 0 address 0.0.0.0 port 0\nserver 0 blacklist 100000000\n"
	for _, c := range []struct {
		name    string
		r       renderer
		service *catalog.Service
		next    slots
		want    string
	}{
		{"no servers", builtIn(t), dns, slots{}, "# dns: written by proxymatic; what is changed here by hand is lost.\n" + end},
		{"http", builtIn(t), web, slots{1: at(1)},
			"# web_listen_81: written by proxymatic; what is changed here by hand is lost.\nhttp\nserver 1 address 10.0.0.1 port 31000\n" + end},
		{"all fields, in any order", parsed(t, "timeout {{.MaxServers}}\ndebug {{len .Protocol}}\n{{range .Servers}}# {{$.Name}} {{$.Port}} {{$.HTTP}} {{.Slot}} {{.IP}} {{.Port}}\n{{.Line}}\n{{end}}tcp_nodelay"),
			dns, slots{1: at(1)}, "timeout 32\ndebug 3\n# dns 53 false 1 10.0.0.1 31000\nserver 1 address 10.0.0.1 port 31000\ntcp_nodelay\n" + end},
		{"blanks", parsed(t, "\t timeout \t5 \r\n{{range .Servers}}  {{.Line}}\t\n{{end}}"), dns, slots{1: at(1)},
			"timeout 5\nserver 1 address 10.0.0.1 port 31000\n" + end},
		{"options that depend on servers", parsed(t, "{{if .Servers}}timeout 3{{end}}\n{{range .Servers}}{{.Line}}\n{{end}}"), dns, slots{1: at(1)},
			`template t: the options (["timeout 3"]) depend on the servers; make them depend on other fields`},
		{"options that depend on how many", parsed(t, "timeout {{len .Servers}}\n{{range .Servers}}{{.Line}}\n{{end}}"), dns, slots{1: at(1)},
			`template t: the options (["timeout 1"]) depend on the servers; make them depend on other fields`},
		{"a server is left out", parsed(t, "{{with .Servers}}{{(index . 0).Line}}{{end}}"), dns, slots{1: at(1), 3: at(2), 4: at(4)},
			`template t: it leaves out "server 3 address 10.0.0.2 port 31000"; use {{.Line}} of all .Servers`},
		{"a server is repeated", parsed(t, "{{range .Servers}}{{.Line}}\n{{.Line}}\n{{end}}"), dns, slots{1: at(1)},
			`template t: line 2 of its text, "server 1 address 10.0.0.1 port 31000", is none of .Servers; use {{.Line}} of each once`},
		{"a server of its own", parsed(t, "{{range .Servers}}{{.Line}}\n{{end}}server 9 address 10.9.9.9 port 9"), dns, slots{1: at(1)},
			`template t: line 2 of its text, "server 9 address 10.9.9.9 port 9", is none of .Servers; use {{.Line}} of each once`},
		{"a host name", parsed(t, "server 1 address localhost port 31000"), dns, slots{1: at(1)},
			`template t: line 1 of its text, "server 1 address localhost port 31000", is none of .Servers; use {{.Line}} of each once`},
		{"more than the address of a server", parsed(t, "{{range .Servers}}{{.Line}} max 5\n{{end}}"), dns, slots{1: at(1)},
			`template t: line 1 of its text, "server 1 address 10.0.0.1 port 31000 max 5", is none of .Servers; use {{.Line}} of each once`},
		{"a field that there is not", parsed(t, "{{.Nosuch}}"), dns, nil,
			"template: template: t:1:2: executing \"t\" at <.Nosuch>: can't evaluate field Nosuch in type templates.Pen"},
		{"a line that is refused", parsed(t, "# x\nlisten 81\n"), dns, nil,
			`template t: line 2 of its text, "listen 81", is refused; allowed are comments, {{.Line}} of each server, and the options ` + allowedOptions},
	} {
		if got := c.r.whole(c.service, c.next); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}

func TestOptionsAreTheLinesThatAreNotAboutServers(t *testing.T) {
	r := parsed(t, "# a\ntimeout 5\n{{if .HTTP}}http\n{{end}}acl 1 permit 10.0.0.0 255.0.0.0\n{{range .Servers}}{{.Line}}\n{{end}}")
	s := &catalog.Service{Key: catalog.Key{Port: 80, Proto: catalog.TCP}, Mode: catalog.ModeHTTP}
	got, err := r.options(s)
	if want := []string{"timeout 5", "http", "acl 1 permit 10.0.0.0 255.0.0.0"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	s.Proto = catalog.UDP // has no mode
	if got, err := r.options(s); err != nil || slices.Contains(got, "http") {
		t.Errorf("UDP: got %q, %v", got, err)
	}
}

// allowedLines are examples of each.
func allowedLines() []string {
	return []string{"acl 1 permit 10.0.0.0 255.0.0.0", "acl 9 deny 10.0.0.1", "client_acl 1", "blacklist 5", "debug 0", "http", "no http", "keepalive", "no keepalive",
		"tcp_fastclose off", "tcp_fastclose both", "tcp_nodelay", "no tcp_nodelay", "timeout 5", "tracking 0"}
}

func TestAllowedLines(t *testing.T) {
	for _, text := range allowedLines() {
		if got, ok := readLine(text); !ok || got != (line{option, text}) {
			t.Errorf("%q: got %v, %t", text, got, ok)
		}
	}
	for text, want := range map[string]line{
		"":                   {comment, ""},
		"# a":                {comment, "# a"},
		"#include /x":        {comment, "#include /x"},
		" \t # ü\x00\x1b\r?": {comment, "# ?????"},
		"\u00a0# a":          {comment, "# a"},
		"\u2003":             {comment, ""},
		"server 1 x  y":      {server, "server 1 x y"},
		"timeout\v\u00a05\r": {option, "timeout 5"},
	} {
		if got, ok := readLine(text); !ok || got != want {
			t.Errorf("%q: got %v, %t, want %v", text, got, ok, want)
		}
	}
}

func TestRefusedLines(t *testing.T) {
	for _, text := range []string{
		"listen 81", "log /dev/null", "log", "include /etc/pen.cfg", "conn_max 5", "source 10.0.0.1", "hash", "no hash", "weight", "no weight", "prio", "no prio",
		"roundrobin", "no roundrobin", "stubborn", "control 127.0.0.1:1", "web_stats /tmp/x", "status", "write /tmp/x", "exit", "abort", "close 1", "pid", "transparent",
		"servers", "no server", "no acl", "no acl 1", "no", "no no http", "no timeout", "no debug 1", "ssl_keyfile /etc/x", "idle_timeout 3", "pending_max 5",
		"timeout", "timeout -1", "timeout 5 6", "timeout 1234567", "timeout 5s", "timeout 5;listen 81", "timeout 5\x00", "timeout 5\rlisten 81", "timeout 5\vlisten 81",
		"http on", "debug 10", "debug", "blacklist x", "tracking 1.5", "tcp_fastclose", "tcp_fastclose sideways", "acl 1 permit", "acl x permit 10.0.0.1",
		"acl 10 permit 10.0.0.1", "acl 1 permit localhost", "acl 1 permit 10.0.0.1 255.0.0.0 x", "acl 1 permit 2001:db8::1", "client_acl", "client_acl 10",
		"TIMEOUT 5", "\x00", "\x00timeout 5", "ü", "{{.Line}}", "${server.ip}", "% for server in service.servers:", "http # not a comment", "; timeout 5",
		"timeout " + strings.Repeat(" ", maxLine) + "5", "#" + strings.Repeat("x", maxLine), strings.Repeat("x", 5000),
	} {
		if got, ok := readLine(text); ok {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}

func TestTemplatesThatNoServiceCouldUseAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"line 1 of its text, \"conn_max 5\", is refused": "conn_max 5",
		"depend on the servers":                          "{{if .Servers}}timeout 5{{end}}\n{{range .Servers}}{{.Line}}\n{{end}}",
		"leaves out":                                     "timeout 5",
		"line 2 of its text, \"hash\", is refused":       "timeout 5\n{{if .HTTP}}hash{{end}}\n{{range .Servers}}{{.Line}}\n{{end}}",
		"parse template":                                 "{{",
		"this is a Mako template":                        "% for slot, server in service.slots(maxservers):\nserver ${slot} address ${server.ip} port ${server.port}\n% endfor\n",
	} {
		path := filepath.Join(t.TempDir(), "pen.cfg.tpl")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := New(Config{TemplateFile: path, Servers: 32})
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: error %v, want %q and the file's name", text, err, name)
		}
		if mako := strings.Contains(name, "Mako"); errors.Is(err, templates.ErrMako) != mako {
			t.Errorf("%q: %v is ErrMako: %t", text, err, !mako)
		}
	}
	if _, err := New(Config{TemplateFile: filepath.Join(t.TempDir(), "none"), Servers: 32}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no template: %v", err)
	}
}

// What may stand in a configuration must not end pen, nor keep it from answering.
func TestRealPenTakesAllAllowedLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pen.cfg.tpl")
	lines := append(allowedLines(), "", "# {{.Name}}", " \t# \x00\x1b\u00a0", "\u00a0# x", "\u2003", "#"+strings.Repeat("x", maxLine-1))
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n{{range .Servers}}{{.Line}}\n{{end}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *Config) { c.TemplateFile = path })
	a, b := echo(t, "a"), echo(t, "b")
	u, w := udp(port(t), a, b), tcp(port(t), a)
	w.Mode = catalog.ModeHTTP
	if got := text(r.apply(u, w)); got != "start pen, start pen" {
		t.Errorf("got %s", got)
	}
	before := r.pens()
	r.apply(udp(u.Port, b), w)
	if now := r.pens(); len(now) != 2 || now[u.Key] != before[u.Key] || now[w.Key] != before[w.Key] {
		t.Errorf("pens %v became %v", before, now)
	}
}

func TestARunningPenIsToldWhatChanges(t *testing.T) {
	for _, c := range []struct{ have, next, want string }{
		{"1:1 2:2", "1:1 2:2", ""},
		{"1:9 2:2 4:4", "2:2 4:3", "server 1 address 0.0.0.0 port 0\nserver 4 address 10.0.0.3 port 31000\nserver 4 blacklist 0\n"},
		{"", "1:1", "server 1 address 10.0.0.1 port 31000\nserver 1 blacklist 0\n"},
		{"0:1 1:1", "1:1", ""},
	} {
		have := table{slots: parseSlots(c.have)}
		for i := range have.slots {
			have.size = max(have.size, i+1)
		}
		if got, want := tableLines(parseSlots(c.next), have), slotZero+c.want; got != want {
			t.Errorf("from %q to %q: got %q, want %q", c.have, c.next, got, want)
		}
	}
}
