package haproxy

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// counted notes what is sent.
type counted struct {
	cli
	batches [][]string
}

func (c *counted) do(ctx context.Context, commands []string) ([]string, error) {
	c.batches = append(c.batches, slices.Clone(commands))
	return c.cli.do(ctx, commands)
}

// simulated gives a driver that has brought services up in a simulated HAProxy, and what it sends from now on.
func simulated(t *testing.T, want ...*catalog.Service) (*sim, *Driver, *counted) {
	t.Helper()
	dir := t.TempDir()
	s, d, err := newSim(Config{ConfigFile: filepath.Join(dir, "haproxy.cfg"), Start: Managed, Reload: Managed, Socket: "/run/s", RunDir: dir,
		BindAddress: netip.MustParseAddr("127.0.0.1"), MaxConnections: 100, Drain: time.Minute, ReloadInterval: testGap, ReleaseAfter: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Apply(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	c := &counted{cli: d.cli}
	d.cli = c
	return s, d, c
}

func TestServerOfAProvenServiceIsAddedInOneBatch(t *testing.T) {
	a := addrs("10.0.0.1:1", "10.0.0.2:2")
	_, d, c := simulated(t, service(80, a[0]))
	if _, err := d.Apply(t.Context(), []*catalog.Service{service(80, a...)}); err != nil {
		t.Fatal(err)
	}
	if len(c.batches) != 1 || !strings.HasPrefix(c.batches[0][0], "add server s80.test-80/10.0.0.2:2 ") || c.batches[0][2] != "show info" {
		t.Errorf("sent %q, want one batch that adds first and looks then", c.batches)
	}
}

// Where servers only leave, one that stays is made sure of first. Where others come in their place, or a port is closed, a look comes
// before.
func TestServersAreRemovedInOneBatchUnlessOthersCome(t *testing.T) {
	a := addrs("10.0.0.1:1", "10.0.0.2:2")
	const (
		off, del = "disable server s80.test-80/10.0.0.1:1", "del server s80.test-80/10.0.0.1:1"
		add      = "add server s80.test-80/10.0.0.2:2 10.0.0.2:2 weight 128 pool-max-conn -1 pool-purge-delay 5s | enable server s80.test-80/10.0.0.2:2"
	)
	for name, c := range map[string]struct {
		respect  bool
		from, to []netip.AddrPort
		want     []string // the batches, without looks
	}{
		"one of two":               {from: a, to: a[1:], want: []string{add + " | " + off + " | " + del}},
		"one of two, with respect": {respect: true, from: a, to: a[1:], want: []string{"", off + " | " + del}},
		"a successor":              {from: a[:1], to: a[1:], want: []string{add, off + " | " + del}},
		"the last":                 {from: a[:1], want: []string{"", "disable frontend s80.test-80 | " + off + " | " + del}},
	} {
		t.Run(name, func(t *testing.T) {
			_, d, sent := simulated(t, service(80, c.from...))
			d.config.RespectMaint = c.respect
			if _, err := d.Apply(t.Context(), []*catalog.Service{service(80, c.to...)}); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, b := range sent.batches {
				text, _, _ := strings.Cut(" | "+strings.Join(b, " | "), " | show info")
				got = append(got, strings.TrimPrefix(text, " | "))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("sent\n%q, want\n%q", got, c.want)
			}
		})
	}
}

// However HAProxy has changed meanwhile, a service is never without a server for a moment.
func TestOneServerStaysWhereOthersLeave(t *testing.T) {
	a := addrs("10.0.0.1:1", "10.0.0.2:2")
	for name, change := range map[string]func(*simProxy){
		"it is in maintenance": func(p *simProxy) { p.servers[1].admin = adminMaint },
		"it was deleted":       func(p *simProxy) { p.servers = p.servers[:1] },
	} {
		t.Run(name, func(t *testing.T) {
			s, d, _ := simulated(t, service(80, a...))
			change(s.worker.proxies[0])
			s.allowed, s.keep = map[target]bool{{80, a[0]}: true, {80, a[1]}: true}, map[uint16]bool{80: true}
			if _, err := d.Apply(t.Context(), []*catalog.Service{service(80, a[1])}); err != nil || len(s.wrongs) > 0 {
				t.Errorf("%v, %q", err, s.wrongs)
			}
		})
	}
}

// A batch that HAProxy does not answer is told, and nothing that it has done is taken for somebody's hand.
func TestUnansweredBatchIsTold(t *testing.T) {
	a := addrs("10.0.0.1:1", "10.0.0.2:2")
	for name, c := range map[string]struct {
		from    []netip.AddrPort
		respect bool
	}{"one leaves": {a, false}, "one leaves after a look": {a, true}, "a successor": {a[:1], true}} {
		for left := range 8 {
			t.Run(fmt.Sprintf("%s, cut after %d commands", name, left), func(t *testing.T) {
				p, d := pickySim(t, func(config *Config) { config.RespectMaint = c.respect }, service(80, c.from...))
				p.armed, p.left = cutOff, left
				r, err := d.Apply(t.Context(), []*catalog.Service{service(80, a[1])})
				told := slices.ContainsFunc(r.Changes, func(c catalog.Change) bool { return c.Action == removeServer })
				if err == nil && !told && len(p.worker.traffic()) == 1 {
					t.Error("nobody is told of the server that has left")
				}
				for range 2 { // the other commands, too
					_, err = d.Apply(t.Context(), []*catalog.Service{service(80, a...)})
				}
				if err != nil || len(p.worker.traffic()) != 2 {
					t.Errorf("%v; traffic goes to %v", err, p.worker.traffic())
				}
			})
		}
	}
}

func TestManyServersThatLeaveHoldUpNoChange(t *testing.T) {
	a := addrs("10.0.0.1:1", "10.0.0.2:2")
	all, fewer, more := []*catalog.Service{service(900, a[0])}, []*catalog.Service{service(900, a[0])}, []*catalog.Service{service(900, a...)}
	for port := uint16(1000); port <= 1000+manyKeys; port++ {
		all, fewer, more = append(all, service(port, a...)), append(fewer, service(port, a[1])), append(more, service(port, a[1]))
	}
	s, d, sent := simulated(t, all...)
	for _, p := range s.worker.proxies[1:] {
		p.servers[0].conns = 1
	}
	if _, err := d.Apply(t.Context(), fewer); err != nil || len(d.leaving) <= manyKeys {
		t.Fatal(err, len(d.leaving))
	}
	s.pass(deleteAgain)
	sent.batches = nil
	if _, err := d.Apply(t.Context(), more); err != nil || !strings.HasPrefix(sent.batches[0][0], "add server s900.") {
		t.Errorf("%v; sent first %q", err, sent.batches[0])
	}
}

// Servers that still have connections are tried again in one batch, and by the way of a change of their service.
func TestServersThatLeaveAreDeletedInOneBatch(t *testing.T) {
	a := addrs("10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3")
	const del = "del server s80.test-80/10.0.0.1:1"
	const add = "add server s80.test-80/10.0.0.3:3 10.0.0.3:3 weight 128 pool-max-conn -1 pool-purge-delay 5s | enable server s80.test-80/10.0.0.3:3"
	for name, c := range map[string]struct {
		after time.Duration
		to    []netip.AddrPort
		want  string // how the batch begins
	}{
		"when it is time":    {deleteAgain, a[1:2], del + " | show info"},
		"at the end":         {time.Minute, a[1:2], "shutdown sessions server s80.test-80/10.0.0.1:1 | " + del + " | show info"},
		"before it is time":  {deleteAgain / 3, a[1:2], "show info"},
		"by the way":         {deleteAgain / 2, a[1:], add + " | " + del + " | show info"},
		"just after the try": {deleteAgain / 3, a[1:], add + " | show info"},
	} {
		t.Run(name, func(t *testing.T) {
			s, d, sent := simulated(t, service(80, a[:2]...))
			leaves := s.worker.proxies[0].servers[0]
			leaves.conns = 1
			if _, err := d.Apply(t.Context(), []*catalog.Service{service(80, a[1])}); err != nil {
				t.Fatal(err)
			}
			leaves.conns = 0
			s.pass(c.after)
			sent.batches = nil
			if _, err := d.Apply(t.Context(), []*catalog.Service{service(80, c.to...)}); err != nil {
				t.Fatal(err)
			}
			if len(sent.batches) != 1 || !strings.HasPrefix(strings.Join(sent.batches[0], " | "), c.want) {
				t.Errorf("sent %q, want one batch that begins with %s", sent.batches, c.want)
			}
		})
	}
}

func TestWhatWasBelievedWronglyIsPutRightInTheSamePass(t *testing.T) {
	a := addrs("10.0.0.1:1", "10.0.0.2:2")
	for name, change := range map[string]func(*sim){
		"somebody removed all servers": func(s *sim) { s.worker.proxies[0].servers = nil },
		"somebody restarted HAProxy":   func(s *sim) { s.restart() },
		"HAProxy died":                 func(s *sim) { s.pass(time.Minute); s.worker = nil },
	} {
		for what, servers := range map[string][2][]netip.AddrPort{"to add": {a[:1], a}, "to remove": {a, a[:1]}} {
			t.Run(name+" "+what, func(t *testing.T) {
				s, d, _ := simulated(t, service(80, servers[0]...))
				change(s)
				if _, err := d.Apply(t.Context(), []*catalog.Service{service(80, servers[1]...)}); err != nil {
					t.Fatal(err)
				}
				if got := s.worker.traffic(); len(got) != len(servers[1]) {
					t.Errorf("traffic goes to %v, want %v", got, servers[1])
				}
			})
		}
	}
}

// Frontends and limits, which no change of servers touches, are looked at when everything is.
func TestPausedFrontendIsOpenedWhenEverythingIsLookedAt(t *testing.T) {
	a := addrs("10.0.0.1:1", "10.0.0.2:2")
	s, d, sent := simulated(t, service(80, a[0]))
	s.worker.proxies[0].paused = true
	want := []*catalog.Service{service(80, a...)}
	for range 2 {
		if _, err := d.Apply(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		d.Resync()
	}
	if len(s.worker.traffic()) != 2 || slices.Contains(sent.batches[0], "show stat s80.test-80 7 -1") {
		t.Errorf("traffic goes to %v after %q", s.worker.traffic(), sent.batches)
	}
}

// A file that we wrote is not read again, so what others write into it must be noticed.
func TestForeignChangesOfTheFileStay(t *testing.T) {
	a := addrs("10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3")
	for name, edit := range map[string]func(path string, text []byte) error{
		"in place": func(path string, text []byte) error { return os.WriteFile(path, append(text, '\n'), 0o644) },
		"by another file": func(path string, text []byte) error {
			if err := os.WriteFile(path+".new", text, 0o644); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, d, _ := simulated(t, service(80, a[0]), service(81, a[0]))
			for i := range a {
				if _, err := d.Apply(t.Context(), []*catalog.Service{service(80, a[:i+1]...), service(81, a[0])}); err != nil {
					t.Fatal(err)
				}
				if err := d.file.flush(); err != nil {
					t.Fatal(err)
				}
				raw, err := os.ReadFile(d.config.ConfigFile)
				if err != nil {
					t.Fatal(err)
				}
				if i > 0 && (!strings.Contains(string(raw), "# by hand") || !strings.Contains(string(raw), "server "+a[i].String()+" ")) {
					t.Errorf("the file is now\n%s", raw)
				}
				if err := edit(d.config.ConfigFile, []byte(strings.Replace(string(raw), "# Old work", "# by hand ", 1))); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestDiffering(t *testing.T) {
	one, two, three, other := &section{key: catalog.Key{Port: 1}}, &section{key: catalog.Key{Port: 2}}, &section{key: catalog.Key{Port: 3}}, &section{key: catalog.Key{Port: 2}}
	for name, c := range map[string]struct {
		a, b sections
		want []uint16
	}{
		"nothing":               {nil, nil, nil},
		"the same":              {sections{one, two}, sections{one, two}, nil},
		"one that came":         {sections{one, two, three}, sections{one, three}, []uint16{2}},
		"one that went":         {sections{one, three}, sections{one, two, three}, []uint16{2}},
		"one that is another":   {sections{one, two, three}, sections{one, other, three}, []uint16{2}},
		"all that came or went": {sections{one}, sections{two, three}, []uint16{1, 2, 3}},
	} {
		var got []uint16
		for _, key := range differing(c.a, c.b) {
			got = append(got, key.Port)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestRowsWithQuotes(t *testing.T) {
	row, rest, ok := nextRow(nil, "a,\"b,\n\"\"\",\nc")
	if !slices.Equal(row, []string{"a", "\"b,\n\"\"\"", ""}) || rest != "c" || !ok {
		t.Errorf("%q %q %v", row, rest, ok)
	}
	if _, _, ok := nextRow(nil, `a,"b`); ok {
		t.Error("a quote that does not end is taken for one that does")
	}
}
