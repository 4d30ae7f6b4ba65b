package haproxy

import (
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

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

// Whatever a source says of a service, the file and the commands have the lines and words that its type has, and nothing else.
func FuzzHostileServices(f *testing.F) {
	d := newTestDriver(f)
	f.Add("web", "marathon", "http", "10.0.0.1", "eth0", uint16(80), uint16(31000), 500, 10, int64(1e9), int64(0), true)
	f.Add("a\nlisten evil\n", "x\n    server evil 10.6.6.6:6", "tcp\n    acl a src 0.0.0.0/0", "fe80::1", "x y\nglobal", uint16(1), uint16(0), -5, -1, int64(-1), int64(1)<<62, false)
	f.Add("# proxymatic: end", "", "", "", "", uint16(65535), uint16(1), 1<<40, 1<<40, int64(1), int64(1), true)
	f.Add("", "\x00", "health", "::ffff:10.0.0.1", "", uint16(9), uint16(9), 1000, 1, int64(3), int64(4), true)
	f.Fuzz(func(t *testing.T, name, source, mode, ip, zone string, port, serverPort uint16, weight, maxConn int, client, server int64, check bool) {
		if port == 0 {
			return // such a key cannot be made
		}
		addr, _ := netip.ParseAddr(ip)
		s := &catalog.Service{Key: catalog.Key{Port: port, Proto: catalog.TCP}, Name: name, Source: source, Mode: catalog.Mode(mode),
			Timeouts: catalog.Timeouts{Client: time.Duration(client), Server: time.Duration(server)},
			Servers: []catalog.Server{
				{Addr: netip.MustParseAddrPort("10.0.0.9:9"), Weight: weight, MaxConn: maxConn, Check: check},
				{Addr: netip.AddrPortFrom(addr, serverPort), Weight: weight},
				{Addr: netip.AddrPortFrom(addr.WithZone(zone), serverPort), Weight: weight, Check: check},
			}}
		s = s.Canonical()
		mustBePlain(t, d, s)
		mustCommandPlainly(t, d, s)
	})
}

// plainLine is each line that the built-in template makes of a service.
var plainLine = regexp.MustCompile(`^(listen [A-Za-z0-9._-]+-\d+|bind 0\.0\.0\.0:\d+|mode (tcp|http)|maxconn \d+|option forwardfor if-none|` +
	`timeout (http-request|http-keep-alive) \d+s|timeout (client|server) [1-9]\d{0,9}ms|` +
	`server [0-9a-f.:]+(:c)? [0-9a-f.:\[\]]+:\d+ weight ([1-9]|[1-9]\d|1\d\d|2[0-4]\d|25[0-6])( maxconn [1-9]\d{0,9})?( check)?)$`)

// mustBePlain checks a service's section, and the file around it.
func mustBePlain(t *testing.T, d *Driver, s *catalog.Service) {
	t.Helper()
	l := sectionsOf(t, d, s)
	sec := l.sections[0]
	counts := map[string]int{}
	for line := range strings.Lines(sec.text) {
		line = strings.TrimSpace(line)
		if !plainLine.MatchString(line) {
			t.Errorf("%s gives the line %q", catalog.Format([]*catalog.Service{s}), line)
		}
		word, _, _ := strings.Cut(line, " ")
		counts[word]++
	}
	servers := len(sec.proxies[0].servers)
	if counts["listen"] != 1 || counts["bind"] != 1 || counts["mode"] != 1 || counts["server"] != servers || servers < 1 || len(sec.proxies) != 1 {
		t.Errorf("%s gives %v, with %d servers, in\n%s", s.Key, counts, servers, sec.text)
	}
	cut, err := cutPieces(string(l.text("x")))
	if err != nil || len(cut) != 3 || cut[1].key != s.Key {
		t.Errorf("%s gives a file of %d pieces, %v", s.Key, len(cut), err)
	}
	w, err := parseSim(string(l.text("x")))
	if err != nil || len(w.proxies) != 1 || len(w.proxies[0].servers) != servers {
		t.Errorf("%s gives %v, another structure", s.Key, err)
	}
}

// plainCommand is each command that changes a server or a frontend.
var plainCommand = regexp.MustCompile(`^((add|enable|del|disable) (server|health) [A-Za-z0-9._:/-]+( [0-9a-f.:\[\]]+:\d+ weight \d+( maxconn \d+)?( check)?` +
	`( pool-max-conn -1 pool-purge-delay 5s)?)?|(enable|disable) frontend [A-Za-z0-9._-]+|set maxconn server [A-Za-z0-9._:/-]+ \d+|` +
	`set server [A-Za-z0-9._:/-]+ (weight \d+|state ready|addr [0-9a-f.:]+ port \d+|health up))$`)

// mustCommandPlainly checks the commands from nothing to a service, and back.
func mustCommandPlainly(t *testing.T, d *Driver, s *catalog.Service) {
	t.Helper()
	l := sectionsOf(t, d, s)
	have := nothing()
	have.info, have.alive, have.known, have.built = info{pid: 1, version: "2.6.12"}, true, true, l.structure()
	proxy := l.sections[0].proxies[0].name
	have.open[proxy], have.backs[proxy] = false, true
	commands := commandsOf(makePlan(l.sections, l.outer, have, nil, nil))
	have.suppose(l.sections[0])
	gone := sectionsOf(t, d)
	commands += "\n" + commandsOf(makePlan(gone.sections, gone.outer, have, nil, nil))
	for _, line := range strings.Split(commands, "\n") {
		for _, command := range strings.Split(line, "; ") {
			if command = strings.TrimPrefix(command, "later "); command != "" && !plainCommand.MatchString(command) && !strings.HasPrefix(command, "reload: the text outside") {
				t.Errorf("%s gives the command %q", catalog.Format([]*catalog.Service{s}), command)
			}
		}
	}
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
