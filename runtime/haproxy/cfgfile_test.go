package haproxy

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// sectionsOf renders services without a running process.
func sectionsOf(t testing.TB, d *Driver, services ...*catalog.Service) layout {
	t.Helper()
	l, err := d.layout(services, structure{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// splice gives a file's text with the wanted sections.
func splice(file string, list sections, keep map[catalog.Key]bool) (string, error) {
	have, err := cutPieces(file)
	if err != nil {
		return "", err
	}
	next, changed, err := have.splice(list, keep)
	text := string(next.appendTo(nil))
	if err == nil && changed != (text != file) {
		return "", fmt.Errorf("changed is %v after\n%s\nbecame\n%s", changed, file, text)
	}
	return text, err
}

// follow gives a file's text brought up to date.
func follow(file string, state fileState) string {
	have, err := cutPieces(file)
	if err != nil {
		return err.Error()
	}
	next, _ := have.follow(state)
	return string(next.appendTo(nil))
}

func TestSpliceChangesManagedServerLinesOnly(t *testing.T) {
	d := newTestDriver(t)
	a, b, c := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2"), netip.MustParseAddrPort("10.0.0.3:3")
	l := sectionsOf(t, d, service(80, a, b), service(82, a))
	file := string(l.text("x"))
	file = strings.Replace(file, "defaults\n", "# by hand\ndefaults\n\toption tcplog # mine\n", 1)
	file = strings.Replace(file, "    bind 0.0.0.0:80\n", "    bind 0.0.0.0:80\n    # by hand\n    option httplog\n", 1)
	got, err := splice(file, sectionsOf(t, d, service(80, b, c), service(81, c), service(82, a)).sections, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(file, "    server 10.0.0.1:1 10.0.0.1:1 weight 128\n    server 10.0.0.2:2 10.0.0.2:2 weight 128\n",
		"    server 10.0.0.2:2 10.0.0.2:2 weight 128\n    server 10.0.0.3:3 10.0.0.3:3 weight 128\n", 1)
	section := string(sectionPiece(sectionsOf(t, d, service(81, c)).sections[0]).appendTo(nil))
	want = strings.Replace(want, "# proxymatic: end\n", "# proxymatic: end\n"+section, 1)
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSpliceRefusesFilesThatItDidNotWrite(t *testing.T) {
	d := newTestDriver(t)
	sections := sectionsOf(t, d, service(80, netip.MustParseAddrPort("10.0.0.1:1"))).sections
	for name, file := range map[string]string{
		"an empty file":              "",
		"somebody else's file":       "global\n    daemon\n",
		"a section that never ends":  "# proxymatic: begin 80/tcp\nlisten x\n",
		"a mark that cannot be read": "# proxymatic: begin x\n# proxymatic: end\n",
	} {
		if got, err := splice(file, sections, nil); err == nil {
			t.Errorf("%s: got\n%s", name, got)
		}
	}
}

// Whatever services there were and are: splicing one file gives what rendering the other would, apart from names and blank
// lines, and a second splice changes nothing.
func TestSpliceEqualsRenderingAnew(t *testing.T) {
	d := newTestDriver(t)
	generate := rapid.Custom(func(t *rapid.T) []*catalog.Service {
		var out []*catalog.Service
		for port := uint16(80); port < 86; port++ {
			var addrs []netip.AddrPort
			for i := range 4 {
				if rapid.Bool().Draw(t, fmt.Sprintf("server %d of %d", i, port)) {
					addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 31000))
				}
			}
			if len(addrs) > 0 {
				out = append(out, service(port, addrs...))
			}
		}
		return out
	})
	rapid.Check(t, func(rt *rapid.T) {
		before, after := sectionsOf(t, d, generate.Draw(rt, "before")...), sectionsOf(t, d, generate.Draw(rt, "after")...)
		got, err := splice(string(before.text("x")), after.sections, nil)
		if err != nil {
			return // none of the file's sections is left: it is written anew
		}
		if condense(got) != condense(string(after.text("x"))) && dropComments(got) != dropComments(string(after.text("x"))) {
			rt.Fatalf("got\n%s\nwant\n%s", got, after.text("x"))
		}
		again, err := splice(got, after.sections, nil)
		if err != nil && len(after.sections) > 0 || err == nil && again != got {
			rt.Fatalf("a second splice changes\n%s\nto\n%s\n%v", got, again, err)
		}
	})
}

// dropComments removes the marks, and what follows from the number of services.
func dropComments(text string) string {
	var out []string
	for line := range strings.Lines(condense(text)) {
		if !strings.HasPrefix(line, "maxconn") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

func TestDescriptionCarriesTheHash(t *testing.T) {
	for in, want := range map[string]string{
		"global\n    maxconn 1\n":                                  "global\n    description [proxymatic h]\n    maxconn 1\n",
		"global\n  description a\n  description b # c\nlisten x\n": "global\n  description a\n  description [proxymatic h] b # c\nlisten x\n",
		"# no\n\nglobal\ndefaults\n  description d\n":              "# no\n\nglobal\n    description [proxymatic h]\ndefaults\n  description d\n",
	} {
		if got, ok := describe(in, "h"); got != want || !ok {
			t.Errorf("describe(%q) = %q, %v, want %q", in, got, ok, want)
		}
	}
}

func TestBuiltInTemplateGolden(t *testing.T) {
	needHAProxy(t)
	d, err := New(Config{ConfigFile: "haproxy.cfg", Start: Managed, Reload: Managed, Socket: "/run/proxymatic/haproxy.sock", RunDir: t.TempDir(),
		BindAddress: netip.IPv4Unspecified(), MaxConnections: 8192})
	if err != nil {
		t.Fatal(err)
	}
	d.render.global.User, d.render.global.Group, d.render.last, d.render.made = "", "", outer{}, made{}
	l := sectionsOf(t, d, sample()...)
	l.outer.parts[0] = strings.Replace(l.outer.parts[0], fmt.Sprintf("maxconn %d", globalMaxConn(8192, 2, 1)), "maxconn 16384", 1)
	got := l.text("0123456789abcdef")
	path := filepath.Join("testdata", "builtin.cfg")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if err := checkConfig(t.Context(), path); err != nil {
		t.Error(err)
	}
}

func TestFileOfAnotherProcessIsWrittenAnew(t *testing.T) {
	d := newTestDriver(t)
	a, b := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2")
	file := strings.Replace(string(sectionsOf(t, d, service(80, a)).text("x")), "    mode tcp\n    maxconn", "    mode http\n    maxconn", 1)
	l := sectionsOf(t, d, service(80, b))
	state := fileState{outer: l.outer, hash: "x", sections: l.sections}
	if got := follow(file, state); !strings.Contains(got, "mode http\n") || !strings.Contains(got, "10.0.0.2:2") {
		t.Errorf("the process' own file lost more than server lines:\n%s", got)
	}
	state.hash = "y"
	if got := follow(file, state); got != string(l.text("y")) {
		t.Errorf("another process' file is kept:\n%s", got)
	}
	state.partial = true
	if got := follow(file, state); got != file {
		t.Errorf("a file is written from a part of what runs:\n%s", got)
	}
}
