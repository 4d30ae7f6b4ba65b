package registrator

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/hostname"
)

// text is an entry as tests compare it.
func (e entry) text() string {
	host := e.host
	if host == "" {
		host = e.addr.String()
	}
	if e.asked {
		return fmt.Sprintf("%s %s (asked) -> %s %d", e.name, e.Key, host, e.backend)
	}
	return fmt.Sprintf("%s %s -> %s %d", e.name, e.Key, host, e.backend)
}

func TestKeys(t *testing.T) {
	const backend = "10.0.0.1:31000"
	for _, c := range []struct{ path, value, want string }{
		{"web/vm:one:80", backend, "web 80/tcp -> 10.0.0.1 31000"},
		{"web/vm:one:53:udp", backend, "web 53/udp -> 10.0.0.1 31000"},
		{"web/vm:one:53:UDP", backend, "web 53/udp -> 10.0.0.1 31000"},
		{"a/b/vm:slash:86", backend, "a/b 86/tcp -> 10.0.0.1 31000"},
		{"shop-443/vm:multi:443", backend, "shop-443 443/tcp -> 10.0.0.1 31000"},
		{"mysvc@24901/vm:ov:81", backend, "mysvc 24901/tcp (asked) -> 10.0.0.1 31000"},
		{"mysvc.@24900/vm:ov:80", backend, "mysvc. 24900/tcp (asked) -> 10.0.0.1 31000"},
		{"grp@24902-82/vm:ov:82", backend, "grp-82 24902/tcp (asked) -> 10.0.0.1 31000"},
		{"grp@24902-82/vm:ov:82:udp", backend, "grp-82 24902/udp (asked) -> 10.0.0.1 31000"},
		{"grp@24902-82/vm:ov:83", backend, "grp@24902-82 83/tcp -> 10.0.0.1 31000"},
		{"a/b@24900/vm:ov:80", backend, "a/b 24900/tcp (asked) -> 10.0.0.1 31000"},
		{"@24905/vm:ov:80", backend, "@24905 80/tcp -> 10.0.0.1 31000"},
		{"web@x/vm:ov:80", backend, "web@x 80/tcp -> 10.0.0.1 31000"},
		{"web/vm:one:80", "[2001:db8::1]:31000", "web 80/tcp -> 2001:db8::1 31000"},
		{"web/vm:one:80", "[::ffff:10.0.0.1]:31000", "web 80/tcp -> 10.0.0.1 31000"},
		{"web/vm:one:80", "Agent7.example:31000", "web 80/tcp -> agent7.example 31000"},
		{"idd/custom-id", backend, "! its last part has no port: want HOST:CONTAINER:PORT, which SERVICE_ID replaces; use SERVICE_NAME instead"},
		{"vm:one:80", backend, "! it has no service name: want NAME/HOST:CONTAINER:PORT"},
		{"/vm:one:80", backend, "! a part of its service name is empty: want NAME/HOST:CONTAINER:PORT"},
		{"a//vm:one:80", backend, "! a part of its service name is empty: want NAME/HOST:CONTAINER:PORT"},
		{"web/vm::80", backend, "! a part of it is empty: want NAME/HOST:CONTAINER:PORT"},
		{"web/vm:one:", backend, `! a part of it is empty: want NAME/HOST:CONTAINER:PORT`},
		{"web/vm:one:0", backend, "! port 0: want 1 to 65535"},
		{"web/vm:one:70000", backend, "! port 70000: want 1 to 65535"},
		{"web/vm:one:080", backend, `! "080" is no port: want 1 to 65535`},
		{"web/vm:one:+80", backend, `! "+80" is no port: want 1 to 65535`},
		{"web@0/vm:one:80", backend, "! the port override of its name: port 0: want 1 to 65535"},
		{"web@70000/vm:one:80", backend, "! the port override of its name: port 70000: want 1 to 65535"},
		{"we b/vm:one:80", backend, `! a key should have no blanks, quotes, line breaks, ';', '#' and '\'`},
		{"web\n/vm:one:80", backend, `! a key should have no blanks, quotes, line breaks, ';', '#' and '\'`},
		{"web;x/vm:one:80", backend, `! a key should have no blanks, quotes, line breaks, ';', '#' and '\'`},
		{"web/vm:\"one:80", backend, `! a key should have no blanks, quotes, line breaks, ';', '#' and '\'`},
		{"web\xff/vm:one:80", backend, `! a key should have no blanks, quotes, line breaks, ';', '#' and '\'`},
		{strings.Repeat("x", 5000) + "/vm:one:80", backend, "! its key or its value has more than 512 bytes"},
		{"web/vm:one:80", strings.Repeat("1", 5000), "! its key or its value has more than 512 bytes"},
		{"web/vm:one:80", ":24121", `! its value ":24121" has no address: start registrator without -internal, or with -ip`},
		{"web/vm:one:80", "10.0.0.1", `! its value "10.0.0.1" should be IP:PORT, with an IPv6 address in brackets`},
		{"web/vm:one:80", "2001:db8::1:80", `! its value "2001:db8::1:80" should be IP:PORT, with an IPv6 address in brackets`},
		{"web/vm:one:80", "", `! its value "" should be IP:PORT, with an IPv6 address in brackets`},
		{"web/vm:one:80", "10.0.0.1:0", `! its value "10.0.0.1:0": port 0: want 1 to 65535`},
		{"web/vm:one:80", "10.0.0.1:70000", `! its value "10.0.0.1:70000": port 70000: want 1 to 65535`},
		{"web/vm:one:80", "0.0.0.0:80", `! its value "0.0.0.0:80": 0.0.0.0 is no address of a server`},
		{"web/vm:one:80", "10.0.0.256:80", `! its value "10.0.0.256:80" has no valid host name`},
		{"web/vm:one:80", "a\nb:80", `! its value "a\nb:80" has no valid host name`},
	} {
		e, err := parse(c.path, c.value)
		got := e.text()
		if err != nil {
			got = "! " + err.Error()
		}
		if got != c.want {
			t.Errorf("%.60q = %.60q:\n got %s\nwant %s", c.path, c.value, got, c.want)
		}
	}
}

// canonical is everything that a board says, as text.
func canonical(services []*catalog.Service, problems []catalog.Problem) string {
	var b strings.Builder
	b.WriteString(catalog.Format(services))
	for _, p := range problems {
		b.WriteString("! " + p.Subject + ": " + p.Reason + "\n")
	}
	return b.String()
}

// short drops what every service from registrator has in common.
func short(text string) string {
	return strings.NewReplacer(" mode=tcp source=registrator", "", " check on-host", "").Replace(text)
}

const (
	taken = "; give this one a port of its own with SERVICE_NAME=NAME@PORT"
	noID  = "its last part has no port: want HOST:CONTAINER:PORT, which SERVICE_ID replaces; use SERVICE_NAME instead"
)

// The tree is what upstream registrator 7.4 wrote for 15 containers.
func TestTheRecordedTree(t *testing.T) {
	raw, err := os.ReadFile("testdata/registrator-v2-tree.json")
	if err != nil {
		t.Fatal(err)
	}
	var top struct{ Node node }
	if err := json.Unmarshal(raw, &top); err != nil {
		t.Fatal(err)
	}
	values := make(map[string]string)
	testV2().collect(values, top.Node)
	const want = `53/tcp dns-53 mode=tcp source=registrator
  127.0.0.1:24115 check on-host
53/udp shop-53 mode=tcp source=registrator
  127.0.0.1:24106 check on-host
80/tcp api mode=tcp source=registrator
  127.0.0.1:24103 check on-host
86/tcp a/b mode=tcp source=registrator
  127.0.0.1:24113 check on-host
5353/udp dns-5353 mode=tcp source=registrator
  127.0.0.1:24116 check on-host
8080/tcp shop-8080 mode=tcp source=registrator
  127.0.0.1:24104 check on-host
8443/tcp shop-8443 mode=tcp source=registrator
  127.0.0.1:24105 check on-host
24117/tcp hx mode=tcp source=registrator
  127.0.0.1:24117 check on-host
24900/tcp mysvc. mode=tcp source=registrator
  127.0.0.1:24107 check on-host
24901/tcp mysvc mode=tcp source=registrator
  127.0.0.1:24108 check on-host
24902/tcp grp-82 mode=tcp source=registrator
  127.0.0.1:24109 check on-host
24903/tcp one mode=tcp source=registrator
  127.0.0.1:24111 check on-host
24904/tcp two mode=tcp source=registrator
  127.0.0.1:24112 check on-host
! /services/grp-83: port 24902/tcp belongs to the service grp-82` + taken + `
! /services/idd/custom: ` + noID + `
! /services/web: port 80/tcp belongs to the service api` + taken + "\n"
	b := newBoard("/services", 1)
	for path, value := range values {
		b.apply(0, change{path: path, value: value})
	}
	b.build()
	if diff := cmp.Diff(want, canonical(b.services, b.problems())); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func testV2() *v2 { return newV2(location{prefix: "/services"}, nil) }

// The stream is what etcd sent while containers were restarted, one of which got another port.
func TestTheRecordedRestartOfV2(t *testing.T) {
	raw, err := os.ReadFile("testdata/v2-restart-stream.json")
	if err != nil {
		t.Fatal(err)
	}
	b := newBoard("/services", 1)
	b.apply(0, change{path: "webapp/vm:one-udp:53:udp", value: "127.0.0.1:24102"})
	b.apply(0, change{path: "rnd/vm:random:8080", value: "127.0.0.1:32768"})
	var got []string
	for line := range strings.Lines(string(raw)) {
		e, ok := testV2().parse([]byte(line))
		if !ok {
			t.Fatalf("not read: %s", line)
		}
		b.apply(0, e.change)
		b.build()
		got = append(got, short(canonical(b.services, b.problems())))
	}
	const dns, rnd = "53/udp webapp\n  127.0.0.1:24102\n", "8080/tcp rnd\n  127.0.0.1:"
	want := []string{rnd + "32768\n", dns + rnd + "32768\n", dns, dns + rnd + "32769\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The watch is what registrator's maintained fork wrote: registration, refreshes, and the removal of everything.
func TestTheRecordedWatchOfV3(t *testing.T) {
	file, err := os.Open("testdata/fayrus-v3-watch.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b := newBoard("/services", 1)
	changes, most, text := 0, 0, ""
	for lines := bufio.NewScanner(file); lines.Scan(); {
		kind := lines.Text()
		lines.Scan()
		key := lines.Text()
		lines.Scan()
		b.apply(0, change{path: strings.TrimPrefix(key, "/services/"), value: lines.Text(), gone: kind == "DELETE"})
		if b.build() {
			changes++
		}
		if len(b.services) > most {
			most, text = len(b.services), short(canonical(b.services, b.problems()))
		}
	}
	const want = `53/tcp dns-53
  127.0.0.1:24119
53/udp dns-53
  127.0.0.1:24120
80/tcp front
  127.0.0.1:24109
443/tcp secure
  127.0.0.1:24110
24121/tcp hn
  127.0.0.1:24121
24900/tcp myservice.
  127.0.0.1:24114
! /services/shop-443: port 443/tcp belongs to the service secure` + taken + `
! /services/shop-80: port 80/tcp belongs to the service front` + taken + `
! /services/webapp: port 53/udp belongs to the service dns-53` + taken + `
! /services/webapp: port 80/tcp belongs to the service front` + taken + "\n"
	if text != want {
		t.Errorf("at most:\n%s\nwant:\n%s", text, want)
	}
	// 10 keys came, one of them went and came back, and 10 went. What was refreshed is no change.
	if len(b.services) != 0 || len(b.problems()) != 0 || changes != 22 {
		t.Errorf("%d changes, and at the end:\n%s", changes, canonical(b.services, b.problems()))
	}
}

func TestOwnersOfPorts(t *testing.T) {
	for _, c := range []struct {
		name string
		keys map[string]string
		want string
	}{
		{"the lowest name", map[string]string{"b/h:c:80": "10.0.0.1:1", "a/h:c:80": "10.0.0.1:2"},
			"80/tcp a\n  10.0.0.1:2\n! /services/b: port 80/tcp belongs to the service a" + taken + "\n"},
		{"one that asked for the port before one that happens to have it", map[string]string{"b@80/h:c:81": "10.0.0.1:1", "a/h:c:80": "10.0.0.1:2"},
			"80/tcp b\n  10.0.0.1:1\n! /services/a: port 80/tcp belongs to the service b" + taken + "\n"},
		{"one name is one service, asked or not", map[string]string{"a@80/h:c:81": "10.0.0.1:1", "a/h:c:80": "10.0.0.1:2"},
			"80/tcp a\n  10.0.0.1:1\n  10.0.0.1:2\n"},
		{"protocols are apart", map[string]string{"a/h:c:53": "10.0.0.1:1", "b/h:c:53:udp": "10.0.0.1:2"},
			"53/tcp a\n  10.0.0.1:1\n53/udp b\n  10.0.0.1:2\n"},
		{"an address counts once", map[string]string{"a/h:c:80": "10.0.0.1:1", "a/g:c:80": "10.0.0.1:1"}, "80/tcp a\n  10.0.0.1:1\n"},
		{"bad keys cost themselves", map[string]string{"a/h:c:80": "10.0.0.1:1", "a/x\n": "", "a/x\ny:c:80": "1.1.1.1:1"},
			"80/tcp a\n  10.0.0.1:1\n" + `! "/services/a/x\n": a key should have no blanks, quotes, line breaks, ';', '#' and '\'` + "\n" +
				`! "/services/a/x\ny:c:80": a key should have no blanks, quotes, line breaks, ';', '#' and '\'` + "\n"},
	} {
		b := newBoard("/services", 1)
		for path, value := range c.keys {
			b.apply(0, change{path: path, value: value})
		}
		b.build()
		if diff := cmp.Diff(c.want, short(canonical(b.services, b.problems()))); diff != "" {
			t.Errorf("%s: -want +got:\n%s", c.name, diff)
		}
	}
}

func TestTheFirstStoreCountsWhereTwoHaveOneKey(t *testing.T) {
	b := newBoard("/services", 2)
	var got []string
	for _, step := range []struct {
		store int
		change
	}{
		{1, change{path: "a/h:c:80", value: "10.0.0.1:2"}},
		{0, change{path: "a/h:c:80", value: "10.0.0.1:1"}},
		{1, change{path: "a/h:c:80", value: "10.0.0.1:3"}},
		{0, change{path: "a/h:c:80", gone: true}},
		{1, change{path: "a/h:c:80", gone: true}},
	} {
		b.apply(step.store, step.change)
		got = append(got, fmt.Sprintf("%t %q", b.build(), short(canonical(b.services, b.problems()))))
	}
	want := []string{`true "80/tcp a\n  10.0.0.1:2\n"`, `true "80/tcp a\n  10.0.0.1:1\n"`, `false "80/tcp a\n  10.0.0.1:1\n"`,
		`true "80/tcp a\n  10.0.0.1:3\n"`, `true ""`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestNamesInValues(t *testing.T) {
	b := newBoard("/services", 1)
	b.apply(0, change{path: "a/h:c:80", value: "known:1"})
	b.apply(0, change{path: "a/h:d:80", value: "new:2"})
	b.apply(0, change{path: "b/h:d:81", value: "new:2"})
	b.resolved(map[string]hostname.Answer{"known": {Addr: netip.MustParseAddr("10.0.0.1")}})
	b.build()
	if got := short(canonical(b.services, b.problems())); got != "80/tcp a\n  10.0.0.1:1\n" || !b.unasked() {
		t.Errorf("while a name is being asked:\n%s", got)
	}
	b.resolved(map[string]hostname.Answer{"known": {Addr: netip.MustParseAddr("10.0.0.2")}, "new": {Reason: "no such host"}})
	if !b.build() || b.unasked() {
		t.Error("answers change nothing")
	}
	const want = "80/tcp a\n  10.0.0.2:1\n81/tcp b\n! /services/a/h:d:80: no such host\n! /services/b/h:d:81: no such host\n"
	if got := short(canonical(b.services, b.problems())); got != want {
		t.Errorf("then:\n%s", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("web@24902-82/vm:c:82:udp", "[2001:db8::1]:31000")
	f.Add("a/b/vm:slash:86", "agent7:1")
	f.Fuzz(func(t *testing.T, path, value string) {
		e, err := parse(path, value)
		if err != nil {
			return
		}
		if oddText(e.name) || e.name == "" || e.Port == 0 || e.backend == 0 || e.Proto != catalog.TCP && e.Proto != catalog.UDP ||
			(e.host == "") == (e.addr == netip.Addr{}) || e.host != "" && !validName(e.host) {
			t.Errorf("%q = %q: %+v", path, value, e)
		}
		// What it means can be written in one way, which means the same.
		name := e.name
		if e.asked || overridePattern.MatchString(e.name) {
			name = fmt.Sprintf("%s@%d", e.name, e.Port)
		}
		host := e.host
		if host == "" {
			host = e.addr.String()
		}
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		plain := fmt.Sprintf("%s/h:c:%d:%s", name, e.Port, e.Proto)
		again, err := parse(plain, fmt.Sprintf("%s:%d", host, e.backend))
		again.asked = e.asked
		if len(plain) <= maxText && (err != nil || again != e) {
			t.Errorf("%q = %q: %+v, and written anew %+v, %v", path, value, e, again, err)
		}
	})
}

// Whatever the key and the value are, the event is read as it was meant.
func FuzzEvents(f *testing.F) {
	f.Add("web/vm:c:80", "127.0.0.1:89", "1", uint64(7))
	f.Add("web\"/vm:c:80", "\\", "\"modifiedIndex\":1", uint64(1))
	f.Fuzz(func(t *testing.T, path, value, before string, at uint64) {
		path, value = strings.ToValidUTF8(path, ""), strings.ToValidUTF8(value, "")
		type key struct {
			Key   string `json:"key"`
			Value string `json:"value"`
			TTL   int    `json:"ttl"`
			Index uint64 `json:"modifiedIndex"`
			Birth uint64 `json:"createdIndex"`
		}
		line, err := json.Marshal(struct {
			Action string `json:"action"`
			Node   key    `json:"node"`
			Prev   key    `json:"prevNode"`
		}{"set", key{"/services/" + path, value, 5, at, 1}, key{"/services/x", before, 1, 1, 1}})
		if err != nil {
			t.Fatal(err)
		}
		want := event{at: at, change: change{path: path, value: value}}
		if got, ok := testV2().parse(line); !ok || got != want {
			t.Errorf("%s: got %+v, want %+v", line, got, want)
		}
		if _, quick := testV2().parseSet(line); quick != !strings.ContainsAny(string(line[:strings.Index(string(line), "ttl")]), `\`) {
			t.Errorf("%s: read in the quick way: %t", line, quick)
		}
	})
}

func TestDirectoriesInEventsOfV2(t *testing.T) {
	for line, want := range map[string]event{
		`{"action":"delete","node":{"key":"/services","dir":true,"modifiedIndex":8}}`:      {at: 8, directory: true, change: change{gone: true}},
		`{"action":"delete","node":{"key":"/","dir":true,"modifiedIndex":8}}`:              {at: 8, directory: true, change: change{gone: true}},
		`{"action":"expire","node":{"key":"/services/a/b","dir":true,"modifiedIndex":8}}`:  {at: 8, directory: true, change: change{path: "a/b", gone: true}},
		`{"action":"set","node":{"key":"/services/a","dir":true,"modifiedIndex":8}}`:       {at: 8, change: change{path: "a", gone: true}},
		`{"action":"compareAndDelete","node":{"key":"/services/a/b","modifiedIndex":8}}`:   {at: 8, change: change{path: "a/b", gone: true}},
		`{"action":"create","node":{"key":"/services/a/b","value":"v","modifiedIndex":8}}`: {at: 8, change: change{path: "a/b", value: "v"}},
		`{"action":"delete","node":{"key":"/servicesx","dir":true,"modifiedIndex":8}}`:     {},
		`{"action":"set","node":{"key":"/services","dir":true,"modifiedIndex":8}}`:         {},
		`{"action":"get","node":{"key":"/services/a/b","value":"v","modifiedIndex":8}}`:    {},
		`{"action":"set","node":{"key":"/servicesx/a","value":"v","modifiedIndex":8}}`:     {},
		`{"action":"set","node":{"key":"/services/a","value":"v","modif`:                   {},
	} {
		got, ok := testV2().parse([]byte(line))
		if !ok {
			got = event{}
		}
		if got != want {
			t.Errorf("%s: got %+v, want %+v", line, got, want)
		}
	}
}
