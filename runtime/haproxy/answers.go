package haproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Bits of srv_admin_state that are about the server itself (HAProxy's proto "server-state-file", version 1).
const (
	adminMaint = 0x01 // put into maintenance through the socket
	adminDrain = 0x08 // put into drain through the socket
)

// checkEnabled is the bit of srv_check_state that says that a configured check is on. An added server's is off at first, and
// it then counts as up whatever happens to it.
const checkEnabled = 0x04

// info is what `show info` tells of the worker that answered.
type info struct {
	pid      int
	stopping bool
	version  string
	hash     string // the structure's, from the description; empty when it was not built by proxymatic
}

// server is a server's state in the running process.
type server struct {
	addr    netip.AddrPort // invalid when HAProxy knows no address
	weight  int
	maxconn int
	admin   int
	checked bool // its check is on
	up      bool // as far as its own check knows
}

// parseInfo reads `show info`.
func parseInfo(text string) (info, error) {
	var in info
	found := false
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ": ")
		if !ok {
			continue
		}
		switch name {
		case "Pid":
			pid, err := strconv.Atoi(value)
			if err != nil {
				return info{}, fmt.Errorf("show info: Pid %q", value)
			}
			in.pid, found = pid, true
		case "Stopping":
			in.stopping = value != "0"
		case "Version":
			in.version = value
		case "description":
			if i := strings.LastIndex(value, tagStart); i >= 0 {
				in.hash, _, _ = strings.Cut(value[i+len(tagStart):], "]")
			}
		}
	}
	if !found {
		return info{}, fmt.Errorf("%w to `show info`: no Pid in it", errUnanswered)
	}
	return in, nil
}

// parseState reads `show servers state` into have, by backend and server name.
func parseState(text string, have map[string]map[string]server) error {
	lines := strings.Split(text, "\n")
	if len(lines) < 2 || strings.TrimSpace(lines[0]) != "1" {
		return fmt.Errorf("show servers state: unknown format %.40q", text)
	}
	var f [19]string // of a row, the columns that matter
	for _, line := range lines[2:] {
		columns := 0
		for f[columns] = range strings.FieldsSeq(line) {
			if columns++; columns == len(f) {
				break
			}
		}
		if columns == 0 {
			continue
		}
		if columns < len(f) {
			return fmt.Errorf("show servers state: short row %q", line)
		}
		n, err := atoi(f[5], f[6], f[7], f[13], f[18])
		if err != nil {
			return fmt.Errorf("show servers state: row %q: %w", line, err)
		}
		s := server{up: n[0] != 0, admin: n[1], weight: n[2], checked: n[3]&checkEnabled != 0}
		if addr, err := netip.ParseAddr(f[4]); err == nil && n[4] > 0 && n[4] < 65536 {
			s.addr = netip.AddrPortFrom(addr, uint16(n[4]))
		}
		if have[f[1]] == nil {
			have[f[1]] = map[string]server{}
		}
		have[f[1]][f[3]] = s
	}
	return nil
}

func atoi(words ...string) ([]int, error) {
	out := make([]int, len(words))
	for i, w := range words {
		n, err := strconv.Atoi(w)
		if err != nil {
			return nil, err
		}
		out[i] = n
	}
	return out, nil
}

// parseStat reads `show stat`: which frontends listen, which backends there are, and the servers' connection limits, which
// no other answer has.
func (h *observed) parseStat(text string) error {
	var row []string
	row, text, _ = nextRow(row, strings.TrimPrefix(text, "# "))
	need := [...]string{"pxname", "svname", "status", "slim"}
	var at [len(need)]int
	most := 0
	for i, name := range need {
		if at[i] = slices.Index(row, name); at[i] < 0 {
			return fmt.Errorf("show stat: no column %s", name)
		}
		most = max(most, at[i])
	}
	for text != "" {
		var ok bool
		if row, text, ok = nextRow(row[:0], text); !ok {
			return fmt.Errorf("show stat: a quote that does not end")
		}
		if len(row) == 1 && row[0] == "" {
			continue // an empty line
		}
		if len(row) <= most {
			return fmt.Errorf("show stat: short row of %d columns", len(row))
		}
		h.statRow(row[at[0]], row[at[1]], row[at[2]], row[at[3]])
	}
	return nil
}

// nextRow cuts the first row off a CSV text, as it stands: with the quotes that free words may have, which may even hold line
// breaks. It reports whether all quotes end. encoding/csv takes 20 times as long, for a hundred columns of which four count.
func nextRow(row []string, text string) (cells []string, rest string, ok bool) {
	quoted, begin := false, 0
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case quoted || c != ',' && c != '\n':
		default:
			row = append(row, text[begin:i])
			if begin = i + 1; c == '\n' {
				return row, text[begin:], true
			}
		}
	}
	return append(row, text[begin:]), "", !quoted
}

func (h *observed) statRow(proxyName, name, status, limit string) {
	switch name {
	case "FRONTEND":
		if status != "STOP" || !dialectOf(h.version).pauses { // after `shutdown frontend` only a new process can listen again
			h.open[proxyName] = status == "OPEN"
		}
	case "BACKEND":
		h.backs[proxyName] = true
	default:
		if s, ok := h.servers[proxyName][name]; ok {
			s.maxconn, _ = strconv.Atoi(limit) // an empty limit is none
			h.servers[proxyName][name] = s
		}
	}
}
