// Package catalog has the nouns that sources report, the policy weighs and the drivers offer: services and their servers.
//
// Everything here is a plain value. What was handed on, and a slice inside of it, is never written to again, so that
// snapshots can share what did not change between them.
package catalog

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Proto is the transport of a service's port.
type Proto string

// The two transports that a service port can have.
const (
	TCP Proto = "tcp"
	UDP Proto = "udp"
)

// Key identifies a service on this host: no two services can listen on one port of one transport.
type Key struct {
	Port  uint16
	Proto Proto
}

// String gives the key as people write it, such as "8300/tcp".
func (k Key) String() string { return strconv.Itoa(int(k.Port)) + "/" + string(k.Proto) }

// MarshalText gives the key as String does, so that it can be a key in JSON.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText gives.
func (k *Key) UnmarshalText(text []byte) error {
	digits, proto, _ := strings.Cut(string(text), "/")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return fmt.Errorf("key %q: want a port and its transport, such as 8300/tcp", text)
	}
	if k.Port, err = Port(n); err != nil {
		return fmt.Errorf("key %q: %w", text, err)
	}
	if k.Proto = Proto(proto); k.Proto != TCP && k.Proto != UDP {
		return fmt.Errorf("key %q: want tcp or udp behind the port", text)
	}
	return nil
}

// Compare orders keys by port, then by transport.
func (k Key) Compare(o Key) int {
	if k.Port != o.Port {
		return int(k.Port) - int(o.Port)
	}
	return cmp.Compare(k.Proto, o.Proto)
}

// Mode is how a TCP service is proxied.
type Mode string

// The modes of a service. UDP services have ModeTCP too: it means "bytes are forwarded as they are".
const (
	ModeTCP  Mode = "tcp"
	ModeHTTP Mode = "http"
)

// Timeouts are a service's own inactivity limits. Zero means the template's default.
type Timeouts struct {
	Client, Server time.Duration
}

// DefaultWeight is a server's weight when nobody gave one, on the scale of 1 to MaxWeight.
const (
	DefaultWeight = 500
	MaxWeight     = 1000
)

// Service is a port of this host and the servers behind it.
//
// A Service in a list that was handed on is never written to again: lists share them, and whoever finds the same pointer knows that
// nothing changed. That two pointers differ tells nothing; Equal does.
type Service struct {
	Key
	Name     string // what operators call it, such as "myservice.mysubsystem.myproduct"; not unique
	Source   string // the source that reported it, such as "marathon"
	Mode     Mode
	Timeouts Timeouts
	Servers  []Server // when Canonical: in the order of their addresses, without two of one
}

// Title names the service in logs, problems and plans, such as "web 8300/tcp".
func (s *Service) Title() string { return s.Name + " " + s.Key.String() }

// maxName bounds what a name from outside may take of a line or a table.
const maxName = 60

// CleanName gives what an operator recognises of a service's name, made of letters, digits, '-', '_' and '.' alone: it cannot
// change the structure of a file that it is written into. It is never empty, and not unique.
func CleanName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '_'
	}, name)
	if name == "" {
		return "service"
	}
	return name[:min(len(name), maxName)]
}

// Server is one place where a service's task runs.
type Server struct {
	Addr    netip.AddrPort
	Weight  int  // 1 to MaxWeight
	MaxConn int  // most connections at a time; 0 is unlimited
	Check   bool // the source knows nothing of its health, so the proxy should look for itself
	OnHost  bool // Addr is a port of the host it runs on, which this host may share; false for a container's own address
}

// Problem is one thing from outside that could not be used. It costs only its subject.
type Problem struct {
	Source  string `json:"source"`  // who noticed: a source, "policy" or a driver
	Subject string `json:"subject"` // the app, task, key, label or port that it is about
	Reason  string `json:"reason"`  // what is wrong and, where there is one, the remedy
}

// Snapshot is everything that one source knows, whole: never a change to an earlier one.
type Snapshot struct {
	Source    string
	Priority  int // of two sources that claim one port, the higher wins
	Services  []*Service
	Problems  []Problem
	Certain   bool      // what it does not tell of is gone for sure, whatever was known before
	Missing   Places    // servers that it does not tell of any more, though nothing said that they ended
	Partial   Keys      // services of which it may tell fewer servers than there are; nil where it does not know how many
	Listed    time.Time // when all services were last read at once; zero where they always are
	Succeeded time.Time // when Services was read from the source
	Heard     time.Time // when the source last gave any sign of life (an event, a keep-alive, an answer)
	Event     time.Time // when it last told of something by itself; zero if never, or if it never does
	Err       string    // why the source cannot be read now; Services is then the last good answer
}

// Reading is when all services were last read at once.
func (s Snapshot) Reading() time.Time {
	if s.Listed.IsZero() {
		return s.Succeeded
	}
	return s.Listed
}

// Keys are some services. They are never written to once they were handed on.
type Keys map[Key]bool

// Places are addresses of services' servers. They are never written to once they were handed on.
type Places map[Key]map[netip.AddrPort]bool

// Add puts a place in, while the places are being made.
func (p Places) Add(key Key, addr netip.AddrPort) {
	if p[key] == nil {
		p[key] = map[netip.AddrPort]bool{}
	}
	p[key][addr] = true
}

// Sort puts services into canonical order, each with its servers in theirs: one whose servers are not makes room for a new one. It
// sorts in place: the caller owns the list, while the services may be others' too.
func Sort(services []*Service) {
	for i, s := range services {
		services[i] = s.Canonical()
	}
	slices.SortStableFunc(services, func(a, b *Service) int { return a.Key.Compare(b.Key) })
}

// Canonical gives the service with its servers in canonical order and without those that repeat an address, of which the first one
// stays: the service itself where that is so, else a new one.
func (s *Service) Canonical() *Service {
	for i := 1; i < len(s.Servers); i++ {
		if s.Servers[i-1].Addr.Compare(s.Servers[i].Addr) >= 0 {
			return s.sorted()
		}
	}
	return s
}

func (s *Service) sorted() *Service {
	servers := slices.Clone(s.Servers)
	slices.SortStableFunc(servers, func(a, b Server) int { return a.Addr.Compare(b.Addr) })
	other := *s
	other.Servers = slices.CompactFunc(servers, func(a, b Server) bool { return a.Addr == b.Addr })
	return &other
}

// Equal reports whether two services would be offered in the same way. It looks at nothing of one that is the very same, and at no
// server of two that share them: for walks through thousands.
func (s *Service) Equal(o *Service) bool { return s == o || s.alike(o) }

func (s *Service) alike(o *Service) bool {
	if s.Port != o.Port || len(s.Servers) != len(o.Servers) || s.Timeouts != o.Timeouts {
		return false
	}
	if s.Name != o.Name || s.Proto != o.Proto || s.Source != o.Source || s.Mode != o.Mode {
		return false
	}
	return len(s.Servers) == 0 || &s.Servers[0] == &o.Servers[0] || slices.Equal(s.Servers, o.Servers)
}

// InStep gives how many elements two lists begin with that are the very same: of services, by their pointers alone.
func InStep[E comparable](a, b []E) int {
	most := min(len(a), len(b))
	for i := range most {
		if a[i] != b[i] {
			return i
		}
	}
	return most
}

// SameList reports whether two lists are one: the same length of the same memory. It looks at no element.
func SameList[E any](a, b []E) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// CountServers is the number of servers of all services together.
func CountServers(services []*Service) int {
	n := 0
	for _, s := range services {
		n += len(s.Servers)
	}
	return n
}

// Format gives services as canonical text, a line each with its servers below: what `proxymatic services` prints and
// what tests compare.
func Format(services []*Service) string {
	var b strings.Builder
	for _, s := range services {
		fmt.Fprintf(&b, "%s %s mode=%s source=%s", s.Key, s.Name, s.Mode, s.Source)
		if s.Timeouts.Client != 0 {
			fmt.Fprintf(&b, " timeout.client=%s", s.Timeouts.Client)
		}
		if s.Timeouts.Server != 0 {
			fmt.Fprintf(&b, " timeout.server=%s", s.Timeouts.Server)
		}
		b.WriteByte('\n')
		for _, v := range s.Servers {
			b.WriteString("  " + v.String() + "\n")
		}
	}
	return b.String()
}

// String gives the server on one line: its address and what differs from the default.
func (v Server) String() string {
	t := v.Addr.String()
	if v.Weight != DefaultWeight {
		t += fmt.Sprintf(" weight=%d", v.Weight)
	}
	if v.MaxConn != 0 {
		t += fmt.Sprintf(" maxconn=%d", v.MaxConn)
	}
	if v.Check {
		t += " check"
	}
	if v.OnHost {
		t += " on-host"
	}
	return t
}
