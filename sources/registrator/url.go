package registrator

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// defaultPort is where etcd has listened for clients since 2.0. The 4001 of older ones has to be written.
const defaultPort = "2379"

// defaultPrefix is where registrator is told to write by most of its documentation.
const defaultPrefix = "/services"

// location is what a registrator URL says.
type location struct {
	stores         []string // the stores to read, storeV2 or storeV3; both means that etcd is asked which has the prefix
	addrs          []string // host:port of each member
	prefix         string   // begins with a slash and has none at its end
	user, password string
}

// parseURL reads a registrator URL. Its errors show no user name and no password. It does not use url.Parse, which
// refuses several hosts with ports.
func parseURL(raw string) (location, error) {
	raw = strings.TrimSpace(raw)
	bad := func(reason string) (location, error) {
		return location{}, fmt.Errorf("registrator URL %q: %s", withoutUser(raw), reason)
	}
	scheme, rest, _ := strings.Cut(raw, "://")
	stores, known := map[string][]string{
		"etcd": {storeV3, storeV2}, "etcd2": {storeV2}, "etcd3": {storeV3},
	}[scheme]
	if !known {
		return bad("it should begin with etcd://, etcd2:// or etcd3://, as in etcd://host:4001/services")
	}
	l := location{stores: stores}
	authority, path, _ := strings.Cut(rest, "/")
	if strings.ContainsAny(path, "@") || strings.ContainsAny(rest, "?#") {
		return bad("it should have no ? and no #, and special characters in a password are written as %XX, such as %2F for /")
	}
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		var err error
		if l.user, l.password, err = userInfo(authority[:at]); err != nil {
			return bad(err.Error())
		}
		authority = authority[at+1:]
	}
	for member := range strings.SplitSeq(authority, ",") {
		addr, err := memberAddr(strings.TrimSpace(member))
		if err != nil {
			return bad(err.Error())
		}
		l.addrs = append(l.addrs, addr)
	}
	prefix, err := parsePrefix(path)
	if err != nil {
		return bad(err.Error())
	}
	l.prefix = prefix
	return l, nil
}

// withoutUser cuts everything between the scheme and the last @.
func withoutUser(raw string) string {
	at := strings.LastIndex(raw, "@")
	if at < 0 {
		return raw
	}
	scheme, _, ok := strings.Cut(raw[:at], "://")
	if !ok {
		return raw[at+1:]
	}
	return scheme + "://" + raw[at+1:]
}

func userInfo(text string) (user, password string, err error) {
	user, password, _ = strings.Cut(text, ":")
	user, errUser := url.PathUnescape(user)
	password, errPassword := url.PathUnescape(password)
	if errUser != nil || errPassword != nil {
		return "", "", errors.New("special characters in a name or password are written as %XX, and % itself as %25")
	}
	return user, password, nil
}

// memberAddr gives host:port.
func memberAddr(text string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"), defaultPort
	}
	addr, err := netip.ParseAddr(host)
	if literal := err == nil && (addr.Is4() || strings.HasPrefix(text, "[")); !literal && !validName(host) {
		return "", fmt.Errorf("%q should be a host or host:port, several of them with commas between; IPv6 addresses are written as [::1]:%s", text, defaultPort)
	}
	n, err := strconv.Atoi(port)
	if err == nil {
		_, err = catalog.Port(n)
	}
	if err != nil {
		return "", fmt.Errorf("%q should have a port from 1 to 65535", text)
	}
	return net.JoinHostPort(host, strconv.Itoa(n)), nil
}

func parsePrefix(path string) (string, error) {
	path, err := url.PathUnescape(strings.Trim(path, "/"))
	if err != nil || oddText(path) {
		return "", errors.New("its path should have neither blanks nor quotes")
	}
	if path == "" {
		return defaultPrefix, nil
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return "", errors.New("its path should have no empty part, no '.' and no '..'")
		}
	}
	return "/" + path, nil
}
