package pen

import (
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// problems gives what stands in the way of services, a line each; refused ones are marked.
func problems(t *testing.T, config Config, services ...*catalog.Service) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if config.User == "" {
		config.User = u.Username
	}
	d, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	var v view
	d.wanted(d.mine(services), &v)
	var lines []string
	for _, p := range v.problems {
		lines = append(lines, p.Source+" | "+p.Subject+" | "+p.Reason)
	}
	for _, s := range services {
		if w := v.want[s.Key]; w != nil && w.refused != "" {
			lines = append(lines, s.Key.String()+" is refused")
		}
	}
	return strings.Join(lines, "\n")
}

func TestWhatStandsInTheWay(t *testing.T) {
	base := Config{Servers: 2, Clients: 10, RunDir: "/run/pm", BindAddress: netip.MustParseAddr("127.0.0.1"), TCP: true}
	with := func(change func(*Config)) Config { c := base; change(&c); return c }
	long := "/" + strings.Repeat("d", 100)
	for _, c := range []struct {
		name   string
		config Config
		want   string
	}{
		{"nothing", base, ""},
		{"IPv6", with(func(c *Config) { c.BindAddress = netip.MustParseAddr("::1") }),
			"pen | dns 53/udp | pen loses UDP on an IPv6 address such as ::1; give --bind-address an IPv4 address\n53/udp is refused"},
		{"a long run directory", with(func(c *Config) { c.RunDir = long }),
			"pen | web 53/tcp | run directory " + long + ": it is 35 bytes too long for the paths of pen's sockets\n" +
				"pen | dns 53/udp | run directory " + long + ": it is 35 bytes too long for the paths of pen's sockets\n53/tcp is refused\n53/udp is refused"},
		{"more servers than slots", with(func(c *Config) { c.Servers = 1 }),
			"pen | dns 53/udp | 1 of its 2 servers are used: --pen-servers is 1; raise it"},
	} {
		if got := problems(t, c.config, tcp(53, at(1)), udp(53, at(1), at(2))); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}

func TestTCPIsLeftToOthersUnlessItIsOurs(t *testing.T) {
	d := &Driver{}
	services := []*catalog.Service{tcp(80), udp(53)}
	if got := d.mine(services); len(got) != 1 || got[0].Proto != catalog.UDP {
		t.Errorf("without TCP: %v", got)
	}
	d.config.TCP = true
	if got := d.mine(services); len(got) != 2 {
		t.Errorf("with TCP: %v", got)
	}
}

// The template may refuse one service and take another.
func TestRealRefusedServiceCostsOnlyItself(t *testing.T) {
	path := t.TempDir() + "/pen.cfg.tpl"
	if err := os.WriteFile(path, []byte("{{if eq .Name \"evil\"}}conn_max 5{{end}}\n{{range .Servers}}{{.Line}}\n{{end}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *Config) { c.TemplateFile = path })
	a, b := echo(t, "a"), echo(t, "b")
	good, evil := udp(port(t), a), udp(port(t), a)
	r.apply(good, evil)
	before := r.pens()
	good, evil = udp(good.Port, b), udp(evil.Port, b)
	evil.Name = "evil"
	report := r.apply(good, evil)
	if len(report.Problems) != 1 || report.Problems[0].Subject != evil.Title() || !strings.Contains(report.Problems[0].Reason, `"conn_max 5", is refused`) {
		t.Errorf("problems %v", report.Problems)
	}
	if got := dial(t, good.Port).ask() + dial(t, evil.Port).ask(); got != "ba" {
		t.Errorf("served by %s, want the new server of one and the old of the other", got)
	}
	if now := r.pens(); len(now) != 2 || now[evil.Key] != before[evil.Key] {
		t.Errorf("pens %v became %v", before, now)
	}
}

func TestRealClosedRunDirectoryIsNamed(t *testing.T) {
	needRoot(t)
	r := newRig(t, nil)
	if err := os.Chmod(r.config.RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	report, err := r.driver.Apply(t.Context(), []*catalog.Service{udp(port(t), echo(t, "a"))})
	dir := r.config.RunDir
	if err == nil || !strings.Contains(err.Error(), dir+" is closed") { // of all services, so it is the driver's
		t.Errorf("error %v", err)
	}
	if got, want := text(report), "problem: "+dir+" is closed to user nobody, as whom pen runs; open it (chmod o+x "+dir+"), or give another --run-dir"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// Whatever list came before, the UDP services of the next are found.
func TestTheSieveFindsUDP(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s sieve
		var want []*catalog.Service
		for range rapid.IntRange(1, 4).Draw(t, "lists") {
			want = slices.DeleteFunc(slices.Clone(want), func(*catalog.Service) bool { return rapid.IntRange(0, 3).Draw(t, "gone") == 0 })
			for range rapid.IntRange(0, 4).Draw(t, "new") {
				make := rapid.SampledFrom([]func(uint16, ...netip.AddrPort) *catalog.Service{tcp, udp}).Draw(t, "proto")
				want = append(want, make(uint16(rapid.IntRange(1, 6).Draw(t, "port"))))
			}
			catalog.Sort(want)
			want = slices.CompactFunc(want, func(a, b *catalog.Service) bool { return a.Key == b.Key }) // as a Decision is
			got, again := s.udpOf(want), s.udpOf(want)
			wanted := slices.DeleteFunc(slices.Clone(want), func(s *catalog.Service) bool { return s.Proto != catalog.UDP })
			if !slices.Equal(got, wanted) || !slices.Equal(again, wanted) {
				t.Fatalf("got\n%s, then\n%s, want\n%s", catalog.Format(got), catalog.Format(again), catalog.Format(wanted))
			}
		}
	})
}
