package haproxy

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/haproxytech/config-parser/v5/params"
	"github.com/haproxytech/config-parser/v5/parsers"
	"github.com/haproxytech/config-parser/v5/types"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// serverLine is one managed `server` line of haproxy.cfg.
type serverLine struct {
	name string
	addr netip.AddrPort
	*serverOptions
}

// serverOptions are the words behind a server's address. Nearly all servers share a few.
type serverOptions struct {
	words   string
	weight  int    // 1 where the line does not say, as in HAProxy
	maxconn int    // 0 is unlimited
	fixed   string // words without weight and maxconn
	checked bool   // HAProxy's own health check is on
	static  string // why `add server` cannot do what the line says; empty when it can
}

// usableServers gives the servers with an address that HAProxy can connect to: the same list where all have one. An address' zone can be
// any text, and sources let none through.
func usableServers(servers []catalog.Server) []catalog.Server {
	unusable := func(v catalog.Server) bool {
		return v.Addr.Port() == 0 || !v.Addr.IsValid() || v.Addr.Addr().Zone() != ""
	}
	if !slices.ContainsFunc(servers, unusable) {
		return servers
	}
	return slices.DeleteFunc(slices.Clone(servers), unusable)
}

// addWords gives the arguments of `add server` behind the name.
func (l serverLine) addWords() string { return strings.TrimRight(l.addr.String()+" "+l.words, " ") }

// lineParser reads server lines. Parsing the words behind the address costs 10 µs in config-parser and nearly all servers
// say the same, so their meaning is remembered.
type lineParser struct {
	known  map[string]*serverOptions
	common map[usualOptions]*serverOptions
}

// usualOptions are what a server's usual line depends on.
type usualOptions struct {
	weight, maxConn int
	check           bool
}

// usual gives the options of a server's usual line.
func (p *lineParser) usual(v catalog.Server) (*serverOptions, error) {
	key := usualOptions{haproxyWeight(v.Weight), min(v.MaxConn, math.MaxInt32), v.Check}
	if o, ok := p.common[key]; ok {
		return o, nil
	}
	words := "weight " + strconv.Itoa(key.weight)
	if key.maxConn > 0 {
		words += " maxconn " + strconv.Itoa(key.maxConn)
	}
	if key.check {
		words += " check"
	}
	o, err := p.options(words)
	if err != nil {
		return nil, err
	}
	if p.common == nil || len(p.common) >= maxKnown {
		p.common = map[usualOptions]*serverOptions{}
	}
	p.common[key] = o
	return o, nil
}

// maxKnown bounds what a lineParser remembers.
const maxKnown = 4096

// parse reads the words of a line that begins with `server NAME ADDRESS`.
func (p *lineParser) parse(fields []string) (serverLine, error) {
	if len(fields) < 3 || fields[0] != "server" {
		return serverLine{}, fmt.Errorf("server line %q: want `server NAME ADDRESS ...`", strings.Join(fields, " "))
	}
	addr, err := netip.ParseAddrPort(fields[2])
	if err != nil {
		return serverLine{}, fmt.Errorf("server line %q: want an IP address and port behind the name", strings.Join(fields, " "))
	}
	o, err := p.options(strings.Join(fields[3:], " "))
	if err != nil {
		return serverLine{}, fmt.Errorf("server line %q: %w", strings.Join(fields, " "), err)
	}
	return serverLine{name: fields[1], addr: addr, serverOptions: o}, nil
}

// options reads the words behind a server's address.
func (p *lineParser) options(words string) (*serverOptions, error) {
	if o, ok := p.known[words]; ok {
		return o, nil
	}
	o, err := parseOptions(words)
	if err != nil {
		return nil, err
	}
	if p.known == nil || len(p.known) >= maxKnown {
		p.known = map[string]*serverOptions{}
	}
	p.known[words] = o
	return o, nil
}

// parseOptions reads the words behind a server's address. config-parser drops words that it does not know without an
// error, so what it writes is compared with what it read.
func parseOptions(words string) (*serverOptions, error) {
	o := &serverOptions{words: words, weight: 1}
	const head = "server s 127.0.0.1:1"
	line := strings.TrimRight(head+" "+words, " ")
	parser := parsers.Server{}
	parser.Init()
	if _, err := parser.Parse(line, strings.Fields(line), ""); err != nil {
		return nil, err
	}
	data, err := parser.Get(false)
	if err != nil {
		return nil, err
	}
	server := data.([]types.Server)[0]
	var fixed []string
	for _, option := range server.Params {
		value, isValue := option.(*params.ServerOptionValue)
		switch {
		case isValue && value.Name == "weight":
			o.weight, err = strconv.Atoi(value.Value)
		case isValue && value.Name == "maxconn":
			o.maxconn, err = strconv.Atoi(value.Value)
		default:
			fixed = append(fixed, option.String())
		}
		if err != nil {
			return nil, err
		}
	}
	o.fixed, o.checked = strings.Join(fixed, " "), slices.Contains(fixed, "check")
	result, err := parser.Result()
	if err != nil {
		return nil, err
	}
	if written := result[0].Data; written != line {
		o.fixed, o.static = words, "it has words that the configuration parser does not know"
	} else if word := notDynamic(fixed); word != "" {
		o.static = fmt.Sprintf("`add server` cannot do %q", word)
	}
	return o, nil
}

// notDynamic gives the first word that HAProxy's `add server` does not document (management guide of 2.6), or that makes
// servers refer to each other, which forbids removing them.
func notDynamic(words []string) string {
	for _, word := range words {
		switch keyword, _, _ := strings.Cut(word, " "); keyword {
		case "addr", "agent-addr", "agent-check", "agent-inter", "agent-port", "agent-send", "alpn", "backup", "ca-file",
			"check", "check-alpn", "check-proto", "check-send-proxy", "check-sni", "check-ssl", "check-via-socks4",
			"ciphers", "ciphersuites", "crl-file", "crt", "downinter", "error-limit", "fall", "fastinter", "inter",
			"maxqueue", "minconn", "no-ssl-reuse", "no-sslv3", "no-tlsv10", "no-tlsv11", "no-tlsv12", "no-tlsv13",
			"no-tls-tickets", "npn", "observe", "on-error", "on-marked-down", "on-marked-up", "pool-low-conn",
			"pool-max-conn", "pool-purge-delay", "port", "proto", "proxy-v2-options", "rise", "send-proxy",
			"send-proxy-v2", "send-proxy-v2-ssl", "send-proxy-v2-ssl-cn", "slowstart", "sni", "source", "ssl",
			"ssl-max-ver", "ssl-min-ver", "tls-tickets", "verify", "verifyhost", "ws":
		default:
			return keyword
		}
	}
	return ""
}
