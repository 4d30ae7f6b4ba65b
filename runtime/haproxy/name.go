package haproxy

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// listenName gives the name of a service's proxy: what an operator recognises, and its port, which makes it unique.
func listenName(s *catalog.Service) string {
	return catalog.CleanName(s.Name) + "-" + strconv.Itoa(int(s.Port))
}

// serverName gives a server's identity in HAProxy: its address (IPv6 without brackets, which HAProxy refuses in names)
// and a suffix for what only removing and adding again can change.
func serverName(v catalog.Server) string {
	name := v.Addr.String()
	if !v.Addr.Addr().Is4() {
		name = v.Addr.Addr().String() + ":" + strconv.Itoa(int(v.Addr.Port()))
	}
	if v.Check {
		name += ":c"
	}
	return name
}

// haproxyWeight maps a catalog weight (1 to 1000, 500 is usual) to HAProxy's (1 to 256, 128 is usual).
func haproxyWeight(weight int) int {
	return max(1, min(weight, catalog.MaxWeight)*256/catalog.MaxWeight)
}

// bindAddresses reads the first argument of a `bind` line, which may list several addresses. What is no TCP port on an
// address (a unix socket, an inherited descriptor, a port range) is left out: nobody can take it from us by chance.
func bindAddresses(arg string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, part := range strings.Split(arg, ",") {
		part = strings.TrimPrefix(strings.TrimPrefix(part, "ipv4@"), "ipv6@")
		i := strings.LastIndexByte(part, ':')
		if i < 0 {
			continue
		}
		port, err := strconv.ParseUint(part[i+1:], 10, 16)
		if err != nil || port == 0 {
			continue
		}
		host := strings.Trim(part[:i], "[]")
		if host == "" || host == "*" {
			host = "0.0.0.0"
		}
		addr, err := netip.ParseAddr(host)
		if err != nil {
			continue
		}
		out = append(out, netip.AddrPortFrom(addr, uint16(port)))
	}
	return out
}

// title names a service in logs, problems and plans.
func title(name string, key catalog.Key) string {
	return (&catalog.Service{Name: name, Key: key}).Title()
}
