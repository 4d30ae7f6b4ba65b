package haproxy

import (
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"os"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// Answers of a broken or hostile peer on the socket must give errors, not panics.
func FuzzAnswers(f *testing.F) {
	f.Add("Pid: 12\nStopping: 0\ndescription: a [proxymatic b]\n", "1\n# be_id\n2 b 1 s 127.0.0.1 2 0 128 128 1 1 0 2 0 0 0 0 - 19001 - 0 0 - - 0\n",
		"# pxname,svname,status,slim\nb,FRONTEND,OPEN,1\nb,s,UP,\n")
	f.Add("", "1\n\n", "# pxname\n\"")
	f.Fuzz(func(t *testing.T, info, state, stat string) {
		if in, err := parseInfo(info); err == nil && strings.ContainsAny(in.hash, "]\n") {
			t.Errorf("hash %q", in.hash)
		}
		h := observed{open: map[string]bool{}, backs: map[string]bool{}, servers: map[string]map[string]server{}}
		if h.hear([]string{"show servers state", "show stat -1 7 -1"}, []string{state, stat}) == nil {
			for _, servers := range h.servers {
				for name := range servers {
					if name == "" {
						t.Error("a server without a name")
					}
				}
			}
		}
		if _, err := splitAnswers(stat, 3); err == nil && strings.Count("\n"+stat, "\n> ") != 4 {
			t.Errorf("%q taken for three answers", stat)
		}
	})
}

// A file that somebody has mangled is refused or spliced; what stands outside of the marks stays.
func FuzzSplice(f *testing.F) {
	d := newTestDriver(f)
	sections := sectionsOf(f, d, service(80, netip.MustParseAddrPort("10.0.0.1:1")), service(81, netip.MustParseAddrPort("10.0.0.2:2"))).sections
	f.Add(string(fullPieces(outer{parts: []string{"global\n", ""}, keys: []catalog.Key{{Port: 80, Proto: catalog.TCP}}}, sections, "x").appendTo(nil)))
	f.Add("# proxymatic: begin 80/tcp\nlisten a\n server x 1.2.3.4:5\n# proxymatic: end\nlisten b\n")
	f.Add("# proxymatic: begin 80/tcp\n# proxymatic: begin 81/tcp\n# proxymatic: end\n")
	f.Fuzz(func(t *testing.T, file string) {
		got, err := splice(file, sections, nil)
		if err != nil {
			return
		}
		before, _, _ := strings.Cut(file, beginMark)
		if after, _, _ := strings.Cut(got, beginMark); after != before && findMark(file, beginMark) == len(before) {
			t.Errorf("the text before the first section changed from %q to %q", before, after)
		}
		if again, err := splice(got, sections, nil); err != nil || again != got {
			t.Errorf("a second splice gives %q, %v instead of %q", again, err, got)
		}
	})
}

// Names come from outside. Whatever they are, HAProxy reads the same structure: one listen section per service.
func FuzzHostileNames(f *testing.F) {
	d := newTestDriver(f)
	for _, name := range []string{"web", "a\nlisten evil", "a;b", `x"y`, "a b#c\\", strings.Repeat("n", 5000), "\x00", "ü", "{{.Name}}", "# proxymatic: end"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		s := service(80, netip.MustParseAddrPort("10.0.0.1:1"))
		s.Name = name
		l := sectionsOf(t, d, s)
		text := string(l.text(l.structure().Hash))
		if strings.Count(text, "\nlisten ") != 1 || strings.Count(text, "\n    server ") != 1 || len(l.sections[0].proxies) != 1 {
			t.Errorf("name %q gives\n%s", name, text)
		}
		if n := listenName(s); strings.ContainsAny(n, " \t\n\r\"'#;\\{}\x00") || len(n) > 66 {
			t.Errorf("listen name %q", n)
		}
	})
}

func TestHostileNamesAreAcceptedByHAProxy(t *testing.T) {
	needHAProxy(t)
	d := newTestDriver(t)
	var services []*catalog.Service
	for i, name := range []string{"a\nlisten evil", "a;b", `x"y`, "a b#c\\", strings.Repeat("n", 5000), "\x00", "ü", ""} {
		s := service(uint16(80+i), netip.MustParseAddrPort("10.0.0.1:1"))
		s.Name = name
		services = append(services, s)
	}
	l := sectionsOf(t, d, services...)
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(path, l.text("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := findHAProxy()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program, "-c", "-f", path).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestStaticSections(t *testing.T) {
	head := "listen a\n  bind :80\n  mode tcp\n"
	for text, static := range map[string]bool{
		head:                                             false,
		head + "  balance leastconn\n":                   false,
		head + "  balance random(2)\n":                   false,
		head + "  balance source\n":                      true,
		head + "  balance static-rr\n":                   true,
		head + "  balance uri\n  hash-type consistent\n": true,
		head + "  default-server check\n":                true,
		head + "  use-server x if TRUE\n":                true,
		head + "  # balance source\n":                    false,
		head + "  server x 10.0.0.1:1 weight 1 maxconn 2 check inter 2s send-proxy\n": false,
		head + "  server x 10.0.0.1:1 cookie x\n":                                     true,
		head + "  server x 10.0.0.1:1 track b/s\n":                                    true,
		head + "  server x 10.0.0.1:1 no-such-word\n":                                 true,
		head + "  server x 10.0.0.1:1 resolvers r\n":                                  true,
	} {
		s, err := parseSection(catalog.Key{Port: 80, Proto: catalog.TCP}, "a", text, func(string) bool { return true }, nil, &lineParser{})
		if err != nil || (s.static != "") != static {
			t.Errorf("%q: static %q, %v, want %v", text, s.static, err, static)
		}
	}
}

func TestBindAddresses(t *testing.T) {
	for arg, want := range map[string]string{
		":80":                     "0.0.0.0:80",
		"*:80":                    "0.0.0.0:80",
		"10.0.0.1:80,10.0.0.2:81": "10.0.0.1:80 10.0.0.2:81",
		"[::1]:80":                "[::1]:80",
		":::80":                   "[::]:80",
		"ipv4@127.0.0.1:80":       "127.0.0.1:80",
		"/run/x.sock":             "",
		"127.0.0.1:80-90":         "",
		"abns@x":                  "",
		"fd@3":                    "",
	} {
		var got []string
		for _, a := range bindAddresses(arg) {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("bindAddresses(%q) = %q, want %q", arg, got, want)
		}
	}
}
