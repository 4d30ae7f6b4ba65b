package pen

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// harmless is an option as pen may get it, said in another way than allowed does.
var harmless = regexp.MustCompile(`^(acl \d (permit|deny) [\d.]{7,15}( [\d.]{7,15})?|(client_acl|debug) \d|(blacklist|timeout|tracking) \d{1,6}|(no )?(http|keepalive|tcp_nodelay)|tcp_fastclose (off|up|down|both))$`)

// Whatever line a template makes: what passes has one meaning, on one line, and passes again.
func FuzzReadLine(f *testing.F) {
	for _, text := range append(allowedLines(), "", "# a", "\u00a0# a", "server 1 address 10.0.0.1 port 5", "no acl 1", "timeout 5\rlisten 81", "include /x\x00", "listen 81", "ü") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := readLine(text)
		if !ok {
			return
		}
		plain := got.text == strings.TrimSpace(got.text) && !strings.ContainsFunc(got.text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
		fits := map[kind]bool{comment: got.text == "" || got.text[0] == '#', server: strings.HasPrefix(got.text+" ", "server "), option: harmless.MatchString(got.text)}
		if !fits[got.kind] || got.kind != server && !plain || len(got.text) > maxLine {
			t.Errorf("%q is taken for %+v", text, got)
		}
		if again, ok := readLine(got.text); !ok || again != got {
			t.Errorf("%q is read as %+v, and that as %+v, %t", text, got, again, ok)
		}
	})
}

// checkText fails when a configuration has any line that it should not have, or not each server once.
func checkText(t *testing.T, text string, next slots, options []string) {
	t.Helper()
	mustHave, may := map[string]int{"server 0 address 0.0.0.0 port 0": 1, "server 0 blacklist 100000000": 1}, map[string]bool{}
	for i := range next {
		mustHave[serverLine(i, next)]++
	}
	for _, o := range options {
		may[o] = harmless.MatchString(o)
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for _, line := range lines {
		switch {
		case mustHave[line] > 0:
			mustHave[line]--
		case line != "" && line[0] != '#' && !may[line]:
			t.Errorf("%q has the line %q", text, line)
		}
	}
	for line, n := range mustHave {
		if n > 0 {
			t.Errorf("%q lacks %q", text, line)
		}
	}
}

// Names come from outside, templates from people. Whatever they are, pen gets the servers that are meant, once each, and else
// nothing but options that are known to be harmless; no name adds a line.
func FuzzConfig(f *testing.F) {
	f.Add("web", "# {{.Name}}\ntimeout 5\n")
	f.Add("a\nlisten 81", "# x {{.Name}}\nhttp")
	f.Add("x\" \r\ninclude /etc/passwd", "{{.Name}}")
	f.Add("1 address 10.0.0.1 port 5", "server {{.Name}}")
	f.Add("", "acl 1 permit {{.Name}}\r\n\x00")
	f.Add("5", "timeout {{.Name}}\n\u00a0# x")
	next := slots{1: at(1), 2: at(2), 3: at(1)}
	f.Fuzz(func(t *testing.T, name, extra string) {
		if strings.Contains(strings.ReplaceAll(extra, "{{.Name}}", ""), "{{") {
			return // templates are programs, which may run for long
		}
		tpl, err := template.New("t").Parse(extra + "\n{{range .Servers}}{{.Line}}\n{{end}}")
		if err != nil {
			return
		}
		s := &catalog.Service{Key: catalog.Key{Port: 80, Proto: catalog.TCP}, Name: name, Source: name, Mode: catalog.ModeHTTP}
		r := renderer{tpl, 32}
		options, err := r.options(s)
		if err != nil {
			return
		}
		text, err := r.text(s, options, next)
		if err != nil {
			return
		}
		checkText(t, text, next, options)
		if n := strings.Count(extra, "\n") + 1 + len(next) + 2; strings.Count(text, "\n") > n {
			t.Errorf("the name %q adds lines: %q", name, text)
		}
		if again, err := r.options(s); err != nil || !slices.Equal(again, options) {
			t.Errorf("options %q become %q, %v", options, again, err)
		}
	})
}

// An answer of a broken or hostile peer gives an error, or servers that can be sent to.
func FuzzReadServers(f *testing.F) {
	f.Add("0 addr 0.0.0.0 port 0 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0\n1 addr 10.0.0.1 port 31000 conn 3 max 0\n2 addr ::1 port 1 conn 0\n")
	f.Add("0 addr ::ffff:0.0.0.0 port 65535 conn -1")
	f.Add("0 addr fe80::1%eth0 port 1 conn 0")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := readServers(text)
		if err != nil {
			return
		}
		if got.size != strings.Count(strings.TrimSuffix(text, "\n")+"\n", "\n") && text != "" || len(got.flows) != got.size {
			t.Errorf("%q: %+v", text, got)
		}
		for i, addr := range got.slots {
			if i < 0 || i >= got.size || !addr.IsValid() || addr.Port() == 0 || addr.Addr().IsUnspecified() || addr.Addr().Is4In6() {
				t.Errorf("%q: slot %d has %s", text, i, addr)
			}
		}
	})
}

// The page is written by whoever is pen. Whatever it is, what is made of it closes flows, by number, and nothing else.
func FuzzReadFlows(f *testing.F) {
	page, err := os.ReadFile("testdata/flows.html")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(page))
	f.Add("<h2>Active connections</h2><tr>\n<td>1</td>\n" + strings.Repeat("<td>-2</td>\n", 6) + "</tr>")
	f.Add("<h2>Active connections</h2>0</td>\n" + strings.Repeat("<td></td>\n", 5) + "<td>0</td>\n</tr>")
	f.Fuzz(func(t *testing.T, page string) {
		got := readFlows(page)
		if len(got) > strings.Count(page, "<tr>") {
			t.Errorf("%d flows of %q", len(got), page)
		}
		for _, f := range got {
			if f.number < 0 || f.slot < 0 {
				t.Errorf("%q: %+v", page, f)
			}
		}
	})
}

// Command lines of other processes are anybody's.
func FuzzReadConfig(f *testing.F) {
	d := files{"/run/pm"}
	f.Add("/run/pm/pen/udp-53-0a1b2c3d.cfg")
	f.Add("/run/pm/pen/tcp-65535-.cfg")
	f.Add("/run/pm/pen/../pen/udp-1-x.cfg")
	f.Fuzz(func(t *testing.T, path string) {
		key, id, ok := d.readConfig(path)
		if !ok {
			return
		}
		if key.Port == 0 || key.Proto != catalog.TCP && key.Proto != catalog.UDP || strings.ContainsAny(id, "-/") {
			t.Errorf("%q: %s %q", path, key, id)
		}
		if k, i, ok := d.readConfig(d.config(key, id)); k != key || i != id || !ok {
			t.Errorf("%q: %s %q is read as %s %q", path, key, id, k, i)
		}
	})
}
