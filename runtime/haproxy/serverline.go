package haproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/haproxytech/config-parser/v5/params"
	"github.com/haproxytech/config-parser/v5/parsers"
	"github.com/haproxytech/config-parser/v5/types"
)

// serverLine is one managed `server` line of haproxy.cfg.
type serverLine struct {
	name    string
	addr    netip.AddrPort
	weight  int // 1 where the line does not say, as in HAProxy
	maxconn int // 0 is unlimited
	words   string
	fixed   string // words without weight and maxconn: what only a reload can change on a server of this name
	static  string // why `add server` cannot do what the line says; empty when it can
}

// checked reports whether HAProxy's own health check is on.
func (l serverLine) checked() bool { return slices.Contains(strings.Fields(l.fixed), "check") }

// addWords gives the arguments of `add server` behind the name.
func (l serverLine) addWords() string { return strings.TrimRight(l.addr.String()+" "+l.words, " ") }

// lineParser reads server lines. Parsing the words behind the address costs 10 µs in config-parser and nearly all servers
// say the same, so their meaning is remembered.
type lineParser struct {
	known map[string]serverLine
}

// maxKnown bounds what a lineParser remembers.
const maxKnown = 4096

// parse reads a line that begins with `server NAME ADDRESS`.
func (p *lineParser) parse(line string) (serverLine, error) {
	fields := strings.Fields(line)
	if len(fields) < 3 || fields[0] != "server" {
		return serverLine{}, fmt.Errorf("server line %q: want `server NAME ADDRESS ...`", line)
	}
	addr, err := netip.ParseAddrPort(fields[2])
	if err != nil {
		return serverLine{}, fmt.Errorf("server line %q: want an IP address and port behind the name", line)
	}
	words := strings.Join(fields[3:], " ")
	l, ok := p.known[words]
	if !ok {
		if l, err = parseWords(words); err != nil {
			return serverLine{}, fmt.Errorf("server line %q: %w", line, err)
		}
		if p.known == nil || len(p.known) >= maxKnown {
			p.known = map[string]serverLine{}
		}
		p.known[words] = l
	}
	l.name, l.addr = fields[1], addr
	return l, nil
}

// parseWords reads the words behind a server's address. config-parser drops words that it does not know without an
// error, so what it writes is compared with what it read.
func parseWords(words string) (serverLine, error) {
	l := serverLine{words: words, weight: 1}
	const head = "server s 127.0.0.1:1"
	line := strings.TrimRight(head+" "+words, " ")
	parser := parsers.Server{}
	parser.Init()
	if _, err := parser.Parse(line, strings.Fields(line), ""); err != nil {
		return l, err
	}
	data, err := parser.Get(false)
	if err != nil {
		return l, err
	}
	server := data.([]types.Server)[0]
	var fixed []string
	for _, option := range server.Params {
		value, isValue := option.(*params.ServerOptionValue)
		switch {
		case isValue && value.Name == "weight":
			l.weight, err = strconv.Atoi(value.Value)
		case isValue && value.Name == "maxconn":
			l.maxconn, err = strconv.Atoi(value.Value)
		default:
			fixed = append(fixed, option.String())
		}
		if err != nil {
			return l, err
		}
	}
	l.fixed = strings.Join(fixed, " ")
	result, err := parser.Result()
	if err != nil {
		return l, err
	}
	if written := result[0].Data; written != line {
		l.fixed, l.static = words, "it has words that the configuration parser does not know"
	} else if word := notDynamic(fixed); word != "" {
		l.static = fmt.Sprintf("`add server` cannot do %q", word)
	}
	return l, nil
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
