package registrator

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/hostname"
)

// maxText bounds a key below the prefix, and a value: Docker's names and SERVICE_NAMEs are far shorter.
const maxText = 512

// entry is one key with its value: a server of a service.
type entry struct {
	catalog.Key
	name    string // of the service, without a port override
	asked   bool   // the name asked for this port; otherwise it is the container's own
	host    string // to be resolved; empty when addr says it
	addr    netip.Addr
	backend uint16
}

// overridePattern finds a port override in a service's name: NAME@PORT. Registrator appends the exposed port to the names
// of containers that publish several: NAME@PORT-EXPOSED.
var overridePattern = regexp.MustCompile(`^(.+)@([0-9]+)(-[0-9]+)?$`)

// parse reads one key, given as its path below the prefix, and its value:
//
//	NAME/HOST:CONTAINER:PORT[:udp] = IP:PORT
//
// It reads from the right, for a NAME may have slashes. The error tells what is wrong and the remedy.
func parse(path, value string) (entry, error) {
	switch {
	case len(path) > maxText || len(value) > maxText:
		return entry{}, fmt.Errorf("its key or its value has more than %d bytes", maxText)
	case oddText(path):
		return entry{}, errors.New("a key should have no blanks, quotes, line breaks, ';', '#' and '\\'")
	}
	slash := strings.LastIndexByte(path, '/')
	if slash < 0 {
		return entry{}, errors.New("it has no service name: want NAME/HOST:CONTAINER:PORT")
	}
	e := entry{Key: catalog.Key{Proto: catalog.TCP}, name: path[:slash]}
	exposed, err := e.readID(path[slash+1:])
	if err == nil {
		err = e.readName(exposed)
	}
	if err == nil {
		err = e.readValue(value)
	}
	if err != nil {
		return entry{}, err
	}
	return e, nil
}

// readID reads HOST:CONTAINER:PORT[:udp] and gives the port as it is written.
func (e *entry) readID(id string) (string, error) {
	parts := strings.Split(id, ":")
	if last := strings.ToLower(parts[len(parts)-1]); last == "udp" || last == "tcp" {
		e.Proto = catalog.Proto(last)
		parts = parts[:len(parts)-1]
	}
	if len(parts) < 3 {
		return "", errors.New("its last part has no port: want HOST:CONTAINER:PORT, which SERVICE_ID replaces; use SERVICE_NAME instead")
	}
	for _, part := range parts {
		if part == "" {
			return "", errors.New("a part of it is empty: want NAME/HOST:CONTAINER:PORT")
		}
	}
	exposed := parts[len(parts)-1]
	var err error
	e.Port, err = readPort(exposed)
	return exposed, err
}

// readName takes the override off the name.
func (e *entry) readName(exposed string) error {
	for part := range strings.SplitSeq(e.name, "/") {
		if part == "" {
			return errors.New("a part of its service name is empty: want NAME/HOST:CONTAINER:PORT")
		}
	}
	found := overridePattern.FindStringSubmatch(e.name)
	if found == nil || found[3] != "" && found[3] != "-"+exposed {
		return nil
	}
	port, err := readPort(found[2])
	if err != nil {
		return fmt.Errorf("the port override of its name: %w", err)
	}
	e.name, e.Port, e.asked = found[1]+found[3], port, true
	return nil
}

func (e *entry) readValue(value string) error {
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		return fmt.Errorf("its value %.100q should be IP:PORT, with an IPv6 address in brackets", value)
	}
	if e.backend, err = readPort(port); err != nil {
		return fmt.Errorf("its value %.100q: %w", value, err)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		answer := hostname.Usable(addr)
		if answer.Reason != "" {
			return fmt.Errorf("its value %.100q: %s", value, answer.Reason)
		}
		e.addr = answer.Addr
		return nil
	}
	switch {
	case host == "":
		return fmt.Errorf("its value %.100q has no address: start registrator without -internal, or with -ip", value)
	case !validName(host):
		return fmt.Errorf("its value %.100q has no valid host name", value)
	}
	e.host = strings.ToLower(host)
	return nil
}

// readPort takes only what registrator writes: digits without a sign and without zeros in front.
func readPort(text string) (uint16, error) {
	n, err := strconv.Atoi(text)
	if err != nil || strconv.Itoa(n) != text {
		return 0, fmt.Errorf("%.100q is no port: want 1 to 65535", text)
	}
	return catalog.Port(n)
}

// validName reports whether a text can be a host name. One of digits and dots alone would be a mistyped address.
func validName(host string) bool {
	letters := false
	for _, c := range host {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_':
			letters = true
		case c >= '0' && c <= '9', c == '-', c == '.':
		default:
			return false
		}
	}
	return letters && len(host) <= 253
}

// oddText reports whether a text has what no name, file line or command should have.
func oddText(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.IsGraphic(r) || unicode.IsSpace(r) || strings.ContainsRune("\"'`;#\\", r)
	})
}

// subject is a key as problems show it.
func subject(key string) string {
	if len(key) > 200 {
		key = key[:200] + "..."
	}
	if oddText(key) {
		return strconv.QuoteToASCII(key)
	}
	return key
}
