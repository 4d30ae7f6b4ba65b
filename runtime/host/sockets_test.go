package host

import (
	"net"
	"net/netip"
	"os"
	"testing"
)

func TestSocketsAreFoundWithTheirOwners(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	bound, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer bound.Close()
	connected, err := net.Dial("udp4", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	for _, c := range []struct {
		transport Transport
		states    States
		addr      string
		found     bool
	}{
		{TCP, Listening, listener.Addr().String(), true},
		{UDP, Listening, bound.LocalAddr().String(), true},
		{UDP, Listening, connected.LocalAddr().String(), false},
		{UDP, Any, connected.LocalAddr().String(), true},
	} {
		addr := netip.MustParseAddrPort(c.addr)
		sockets, err := Sockets(c.transport, c.states, addr.Port())
		if err != nil {
			t.Fatal(err)
		}
		owners, found := Owners(), false
		for _, s := range sockets {
			found = found || s.Local == addr && owners[s.Inode] == os.Getpid() && s.Listen == (c.addr != connected.LocalAddr().String())
		}
		if found != c.found {
			t.Errorf("%d %x %s: found %t, want %t, in %+v", c.transport, c.states, c.addr, found, c.found, sockets)
		}
	}
}

func TestOneSocketExcludesAnother(t *testing.T) {
	for _, c := range []struct {
		local string
		only6 bool
		addr  string
		want  bool
	}{
		{"0.0.0.0:1", false, "127.0.0.1", true},
		{"127.0.0.1:1", false, "0.0.0.0", true},
		{"127.0.0.1:1", false, "127.0.0.2", false},
		{"[::]:1", false, "127.0.0.1", true},
		{"[::]:1", true, "127.0.0.1", false},
		{"[::]:1", true, "::1", true},
	} {
		s := Socket{Local: netip.MustParseAddrPort(c.local), only6: c.only6}
		if got := s.Excludes(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s (only IPv6: %t) excludes %s: %t, want %t", c.local, c.only6, c.addr, got, c.want)
		}
	}
}
