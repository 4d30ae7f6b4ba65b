package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// The functions of this file read a value as it comes from the command line and the environment (text) or from YAML
// (text, a number, true or false, or a list of those). Nobody else converts: the libraries' own conversions read
// `refresh-interval: 60` as 60 nanoseconds and 3.9 as 3, and refuse `haproxy: yes`.

// word reads a single value as text, without blanks around it.
func word(raw any) (string, error) {
	switch v := raw.(type) {
	case string:
		if strings.ContainsFunc(v, unicode.IsControl) {
			return "", errors.New("has a line break or another control character")
		}
		return strings.TrimSpace(v), nil
	case int, int64, uint64, float64, bool:
		return fmt.Sprint(v), nil
	}
	return "", errors.New("want a single value")
}

// document reads text of any number of lines, without what is around it.
func document(raw any) (string, error) {
	text, ok := raw.(string)
	if !ok {
		return "", errors.New("want text; in YAML it begins with |, or stands in quotes")
	}
	return strings.TrimSpace(text), nil
}

// words reads a list: of YAML, or with commas.
func words(raw any) ([]string, error) {
	items, isList := raw.([]any)
	if !isList {
		items = []any{raw}
	}
	var out []string
	for _, item := range items {
		text, err := word(item)
		if err != nil {
			return nil, err
		}
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				out = append(out, part)
			}
		}
	}
	return out, nil
}

// filled reads text that must not be empty.
func filled(raw any) (string, error) {
	text, err := word(raw)
	if err == nil && text == "" {
		err = errors.New("must not be empty")
	}
	return text, err
}

func yesNo(raw any) (bool, error) {
	text, err := word(raw)
	if err != nil {
		return false, err
	}
	switch strings.ToLower(text) {
	case "true", "1", "yes":
		return true, nil
	case "false", "0", "no":
		return false, nil
	}
	return false, fmt.Errorf("%q: want true or false (or 1, 0, yes, no)", text)
}

// duration reads plain seconds, or a number with units: more than 0.
func duration(raw any) (time.Duration, error) {
	d, err := durationOrNone(raw)
	if err == nil && d == 0 {
		text, _ := word(raw)
		err = fmt.Errorf("%q: want more than 0", text)
	}
	return d, err
}

// durationOrNone reads what duration reads, and 0.
func durationOrNone(raw any) (time.Duration, error) {
	text, err := word(raw)
	if err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || math.Abs(seconds) > math.MaxInt64/float64(time.Second) || math.IsNaN(seconds) {
			return 0, fmt.Errorf("%q: want seconds, such as 60, or a duration, such as 60s or 5m", text)
		}
		d = time.Duration(seconds * float64(time.Second))
	}
	if d < 0 {
		return 0, fmt.Errorf("%q: want 0 or more", text)
	}
	return d, nil
}

// count reads a whole number of at least 1.
func count(raw any) (int, error) {
	text, err := word(raw)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q: want a whole number from 1", text)
	}
	return int(n), nil
}

// countOrNone reads a whole number from 0.
func countOrNone(raw any) (int, error) {
	text, err := word(raw)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q: want a whole number from 0", text)
	}
	return int(n), nil
}

// upTo reads a whole number from 1 to most.
func upTo(most int) func(any) (int, error) {
	return func(raw any) (int, error) {
		n, err := count(raw)
		if err == nil && n > most {
			err = fmt.Errorf("%d: want at most %d", n, most)
		}
		return n, err
	}
}

// noneUpTo reads a whole number from 0, which turns something off, to most.
func noneUpTo(most int) func(any) (int, error) {
	return func(raw any) (int, error) {
		if text, err := word(raw); err == nil && text == "0" {
			return 0, nil
		}
		return upTo(most)(raw)
	}
}

// oneOf reads one of a few words.
func oneOf[T ~string](choices ...T) func(any) (T, error) {
	return func(raw any) (T, error) {
		text, err := word(raw)
		if err == nil && !slices.Contains(choices, T(text)) {
			err = fmt.Errorf("%q: want one of %q", text, choices)
		}
		return T(text), err
	}
}

// path reads the name of a file or directory. It becomes absolute, so that it means the same in every process.
func path(raw any) (string, error) {
	text, err := filled(raw)
	if err != nil {
		return "", err
	}
	return filepath.Abs(text)
}

// optionalPath is path, or nothing.
func optionalPath(raw any) (string, error) {
	if text, err := word(raw); err != nil || text == "" {
		return "", err
	}
	return path(raw)
}

// The longest paths of Unix sockets. HAProxy binds a temporary name, ten bytes longer, and renames it.
const (
	kernelSocketPath  = 107
	haproxySocketPath = kernelSocketPath - 10
)

// socketPath is path, as long as a Unix socket of HAProxy can have.
func socketPath(raw any) (string, error) {
	text, err := path(raw)
	if err == nil && len(text) > haproxySocketPath {
		err = fmt.Errorf("%q: want at most %d bytes, HAProxy's limit for a Unix socket", text, haproxySocketPath)
	}
	return text, err
}

func address(raw any) (netip.Addr, error) {
	text, err := word(raw)
	if err != nil {
		return netip.Addr{}, err
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q: want an IPv4 or IPv6 address", text)
	}
	return addr.Unmap(), nil
}

// endpoint reads host:port to listen on, or nothing. An empty host means all addresses.
func endpoint(raw any) (string, error) {
	text, err := word(raw)
	if err != nil || text == "" {
		return "", err
	}
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		return "", fmt.Errorf("%q: want host:port, such as 127.0.0.1:9090, or nothing for no endpoint", text)
	}
	if _, err := listenPort(port); err != nil {
		return "", err
	}
	return text, nil
}

func listenPort(text string) (uint16, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("port %q: want 1 to 65535", text)
	}
	return catalog.Port(n)
}

// webURL reads an http or https URL, or nothing. A slash at its end means nothing and goes. Errors show nothing of the
// text, nor what the parser says to it: with a slash or # in a password, pieces of that stand where the host, the port
// or the path should be.
func webURL(raw any) (string, error) {
	text, err := word(raw)
	if err != nil || text == "" {
		return "", err
	}
	u, err := url.Parse(text)
	switch {
	case err != nil, strings.Contains(u.Path+u.RawQuery+u.Fragment, "@"):
		return "", errors.New("no valid URL; special characters in a password are written as %XX, such as %2F for /")
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return "", errors.New("want a URL such as http://host:8080")
	case u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("want a URL without ? and #")
	case u.Port() != "":
		if _, err := listenPort(u.Port()); err != nil {
			return "", errors.New("want a port from 1 to 65535 in the URL")
		}
	}
	return strings.TrimRight(text, "/"), nil
}

// callbackURL reads the URL that Marathon is to post to, or nothing. A slash at its end stays: to Marathon that is another
// subscriber.
func callbackURL(raw any) (string, error) {
	text, err := webURL(raw)
	if err != nil || text == "" {
		return "", err
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http":
		return "", errors.New("want a URL that begins with http://: the listener has no TLS, since what Marathon posts is but a hint to look")
	case u.User != nil:
		return "", errors.New("want a URL without credentials, for Marathon shows it to all; give it a path that is hard to guess instead")
	}
	return word(raw)
}

func webURLs(raw any) ([]string, error) {
	list, err := words(raw)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i], err = webURL(list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// clusterMark stands between the URLs of independent Marathons, as commas do between those of one's replicas.
const clusterMark = ";"

// clusters reads the replicas of each Marathon. A list of YAML is one of replicas, and a list of lists one of Marathons.
func clusters(raw any) ([][]string, error) {
	list, _ := raw.([]any)
	isList := func(item any) bool { _, ok := item.([]any); return ok }
	if !slices.ContainsFunc(list, isList) {
		replicas, err := words(raw)
		if err != nil {
			return nil, err
		}
		if text := strings.Join(replicas, ","); len(list) > 1 && strings.Contains(text, clusterMark) {
			return nil, fmt.Errorf("a list is one of replicas, which %q does not fit into: want a list of lists, one for each Marathon", clusterMark)
		}
		list = nil
		for text := range strings.SplitSeq(strings.Join(replicas, ","), clusterMark) {
			list = append(list, text)
		}
	}
	var out [][]string
	for _, item := range list {
		one, err := webURLs(item)
		if err != nil {
			return nil, err
		}
		if len(one) > 0 {
			out = append(out, one)
		}
	}
	return out, nil
}

// etcdURL reads a registrator URL, or nothing.
func etcdURL(raw any) (string, error) {
	list, err := words(raw)
	if err != nil || len(list) == 0 {
		return "", err
	}
	text := strings.TrimRight(strings.Join(list, ","), "/")
	scheme, rest, _ := strings.Cut(text, "://")
	if rest == "" || !slices.Contains([]string{"etcd", "etcd2", "etcd3"}, scheme) {
		return "", errors.New("want a URL such as etcd://host:4001/services")
	}
	return text, nil
}
