// Package catalog has the nouns that sources report, the policy weighs and the drivers offer: services and their servers.
//
// Everything here is a plain value. A slice inside a value that was handed on is never written to again, so that
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
type Service struct {
	Key
	Name     string // what operators call it, such as "myservice.mysubsystem.myproduct"; not unique
	Source   string // the source that reported it, such as "marathon"
	Mode     Mode
	Timeouts Timeouts
	Servers  []Server // in canonical order after Sort, without two of one address
}

// Title names the service in logs, problems and plans, such as "web 8300/tcp".
func (s Service) Title() string { return s.Name + " " + s.Key.String() }

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
	Services  []Service
	Problems  []Problem
	Succeeded time.Time // when Services was read from the source
	Heard     time.Time // when the source last gave any sign of life (an event, a keep-alive, an answer)
	Event     time.Time // when it last told of something by itself; zero if never, or if it never does
	Err       string    // why the source cannot be read now; Services is then the last good answer
}

// Sort puts services and their servers into canonical order and drops servers that repeat an address (the first one
// stays). It sorts in place: the caller owns the slices.
func Sort(services []Service) {
	for i := range services {
		s := services[i].Servers
		slices.SortStableFunc(s, func(a, b Server) int { return a.Addr.Compare(b.Addr) })
		services[i].Servers = slices.CompactFunc(s, func(a, b Server) bool { return a.Addr == b.Addr })
	}
	slices.SortStableFunc(services, func(a, b Service) int { return a.Key.Compare(b.Key) })
}

// Equal reports whether two services would be offered in the same way.
func (s Service) Equal(o Service) bool { return Same(&s, &o) }

// Same reports what Equal does, of services where they lie: for walks through thousands. It looks at no server of two that share
// them.
func Same(a, b *Service) bool {
	if a.Port != b.Port || len(a.Servers) != len(b.Servers) || a.Timeouts != b.Timeouts {
		return false
	}
	if a.Name != b.Name || a.Proto != b.Proto || a.Source != b.Source || a.Mode != b.Mode {
		return false
	}
	return len(a.Servers) == 0 || &a.Servers[0] == &b.Servers[0] || slices.Equal(a.Servers, b.Servers)
}

// CountServers is the number of servers of all services together.
func CountServers(services []Service) int {
	n := 0
	for i := range services {
		n += len(services[i].Servers)
	}
	return n
}

// Format gives services as canonical text, a line each with its servers below: what `proxymatic services` prints and
// what tests compare.
func Format(services []Service) string {
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
