package catalog

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func server(addr string) Server {
	return Server{Addr: netip.MustParseAddrPort(addr), Weight: DefaultWeight}
}

func TestSortIsCanonicalAndDropsRepeatedAddresses(t *testing.T) {
	first, second := server("10.0.0.2:1"), server("10.0.0.2:1")
	first.Weight, second.Weight = 1, 2
	services := []*Service{
		{Key: Key{81, TCP}, Name: "c"},
		{Key: Key{80, UDP}, Name: "b"},
		{Key: Key{80, TCP}, Name: "a", Mode: ModeHTTP, Source: "file", Timeouts: Timeouts{Client: time.Minute},
			Servers: []Server{first, server("[2001:db8::1]:1"), second, server("10.0.0.1:9")}},
	}
	Sort(services)
	const want = `80/tcp a mode=http source=file timeout.client=1m0s
  10.0.0.1:9
  10.0.0.2:1 weight=1
  [2001:db8::1]:1
80/udp b mode= source=
81/tcp c mode= source=
`
	if diff := cmp.Diff(want, Format(services)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if n := CountServers(services); n != 3 {
		t.Errorf("%d servers", n)
	}
}

// Lists share services, so that sorting one must not change what another has.
func TestSortWritesToNoService(t *testing.T) {
	a, b := server("10.0.0.1:1"), server("10.0.0.2:1")
	sorted, not := &Service{Key: Key{81, TCP}, Servers: []Server{a, b}}, &Service{Key: Key{80, TCP}, Servers: []Server{b, a, b}}
	list := []*Service{sorted, not}
	Sort(list)
	if list[1] != sorted {
		t.Error("a service with its servers in order was replaced")
	}
	if diff := cmp.Diff([]Server{b, a, b}, not.Servers, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("a service was written to: -was +is:\n%s", diff)
	}
	if diff := cmp.Diff([]Server{a, b}, list[0].Servers, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestKeysAreReadAsTheyAreWritten(t *testing.T) {
	for _, want := range []Key{{1, TCP}, {65535, UDP}} {
		var got map[Key]int
		text, err := json.Marshal(map[Key]int{want: 1})
		if err == nil {
			err = json.Unmarshal(text, &got)
		}
		if err != nil || got[want] != 1 {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "80", "80/", "80/sctp", "0/tcp", "65536/tcp", "-1/tcp", "x/tcp"} {
		var k Key
		if err := k.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %s", text, k)
		}
	}
}

func TestBadPartsOfAServiceAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		`{"port":0}`:                                                  "port 0: want 1 to 65535",
		`{"port":80,"protocol":"sctp"}`:                               `protocol "sctp": want tcp or udp`,
		`{"port":80,"mode":"ws"}`:                                     `mode "ws": want tcp or http`,
		`{"port":80,"timeouts":{"client":-1}}`:                        "timeouts: want seconds, from 0 to 2147483",
		`{"port":80,"timeouts":{"server":1e300}}`:                     "timeouts: want seconds, from 0 to 2147483",
		`{"port":80,"servers":[{"ip":"host","port":1}]}`:              `servers[0]: ip "host": want the IPv4 or IPv6 address of a host`,
		`{"port":80,"servers":[{"ip":"0.0.0.0","port":1}]}`:           `servers[0]: ip "0.0.0.0": want the IPv4 or IPv6 address of a host`,
		`{"port":80,"servers":[{"ip":"fe80::1%eth0","port":1}]}`:      `servers[0]: ip "fe80::1%eth0": want the IPv4 or IPv6 address of a host`,
		`{"port":80,"servers":[{"ip":"::1","port":70000}]}`:           "servers[0]: port 70000: want 1 to 65535",
		`{"port":80,"servers":[{"ip":"::1","port":1,"weight":1001}]}`: "servers[0]: weight 1001: want 1 to 1000",
		`{"port":80,"servers":[{"ip":"::1","port":1,"maxconn":-1}]}`:  "servers[0]: maxconn -1: want 0 (unlimited) or more",
	} {
		var j ServiceJSON
		if err := json.Unmarshal([]byte(text), &j); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Service(); err == nil || err.Error() != want {
			t.Errorf("%s: error %v, want %s", text, err, want)
		}
	}
}

// What is printed can be given back, apart from what only a source knows.
func FuzzServiceJSON(f *testing.F) {
	f.Add(`{"name":"web","port":80,"protocol":"tcp","mode":"http","source":"file","timeouts":{"client":1.5},"servers":[{"ip":"::ffff:10.0.0.1","port":1,"weight":7,"maxconn":9}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		var j ServiceJSON
		if json.Unmarshal([]byte(text), &j) != nil {
			return
		}
		s, err := j.Service()
		if err != nil {
			return
		}
		again, err := s.JSON().Service()
		if diff := cmp.Diff(s, again, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
	})
}
