package catalog

import (
	"fmt"
	"net/netip"
	"time"
)

// ServiceJSON is a service in the shape that `proxymatic services --output json` prints, /api/v1/services serves and
// --services-file reads.
type ServiceJSON struct {
	Name     string        `json:"name" yaml:"name"`
	Port     int           `json:"port" yaml:"port"`
	Protocol string        `json:"protocol" yaml:"protocol"`
	Mode     string        `json:"mode" yaml:"mode"`
	Source   string        `json:"source" yaml:"source"`
	Timeouts *TimeoutsJSON `json:"timeouts,omitempty" yaml:"timeouts"`
	Servers  []ServerJSON  `json:"servers" yaml:"servers"`
}

// TimeoutsJSON is a service's own timeouts in seconds; 0 means the template's default.
type TimeoutsJSON struct {
	Client float64 `json:"client,omitempty" yaml:"client"`
	Server float64 `json:"server,omitempty" yaml:"server"`
}

// ServerJSON is a server in the same shape. A zero weight means DefaultWeight.
type ServerJSON struct {
	IP      string `json:"ip" yaml:"ip"`
	Port    int    `json:"port" yaml:"port"`
	Weight  int    `json:"weight" yaml:"weight"`
	MaxConn int    `json:"maxconn" yaml:"maxconn"`
}

// JSON gives the service in its outside shape.
func (s *Service) JSON() ServiceJSON {
	j := ServiceJSON{Name: s.Name, Port: int(s.Port), Protocol: string(s.Proto), Mode: string(s.Mode), Source: s.Source,
		Servers: make([]ServerJSON, 0, len(s.Servers))}
	if s.Timeouts != (Timeouts{}) {
		j.Timeouts = &TimeoutsJSON{Client: s.Timeouts.Client.Seconds(), Server: s.Timeouts.Server.Seconds()}
	}
	for _, v := range s.Servers {
		j.Servers = append(j.Servers, ServerJSON{IP: v.Addr.Addr().String(), Port: int(v.Addr.Port()), Weight: v.Weight, MaxConn: v.MaxConn})
	}
	return j
}

// ListJSON gives services in their outside shape.
func ListJSON(services []*Service) []ServiceJSON {
	out := make([]ServiceJSON, 0, len(services))
	for _, s := range services {
		out = append(out, s.JSON())
	}
	return out
}

// Service checks the outside shape and gives the service, or an error that names the first bad part. Missing protocol,
// mode and weight get their defaults; servers come without Check and OnHost, which only the source knows.
func (j ServiceJSON) Service() (*Service, error) {
	s := &Service{Name: j.Name, Source: j.Source}
	var err error
	if s.Port, err = Port(j.Port); err != nil {
		return nil, err
	}
	switch Proto(j.Protocol) {
	case "", TCP:
		s.Proto = TCP
	case UDP:
		s.Proto = UDP
	default:
		return nil, fmt.Errorf("protocol %q: want tcp or udp", j.Protocol)
	}
	switch Mode(j.Mode) {
	case "", ModeTCP:
		s.Mode = ModeTCP
	case ModeHTTP:
		s.Mode = ModeHTTP
	default:
		return nil, fmt.Errorf("mode %q: want tcp or http", j.Mode)
	}
	if j.Timeouts != nil {
		if !validTimeout(j.Timeouts.Client) || !validTimeout(j.Timeouts.Server) {
			return nil, fmt.Errorf("timeouts: want seconds, from 0 to %d", maxTimeout)
		}
		s.Timeouts = Timeouts{Client: seconds(j.Timeouts.Client), Server: seconds(j.Timeouts.Server)}
	}
	for i, v := range j.Servers {
		server, err := v.server()
		if err != nil {
			return nil, fmt.Errorf("servers[%d]: %w", i, err)
		}
		s.Servers = append(s.Servers, server)
	}
	return s, nil
}

func (j ServerJSON) server() (Server, error) {
	addr, err := netip.ParseAddr(j.IP)
	if err != nil || addr.Zone() != "" || addr.IsUnspecified() {
		return Server{}, fmt.Errorf("ip %q: want the IPv4 or IPv6 address of a host", j.IP)
	}
	port, err := Port(j.Port)
	if err != nil {
		return Server{}, err
	}
	weight := j.Weight
	if weight == 0 {
		weight = DefaultWeight
	}
	if weight < 1 || weight > MaxWeight {
		return Server{}, fmt.Errorf("weight %d: want 1 to %d", weight, MaxWeight)
	}
	if j.MaxConn < 0 {
		return Server{}, fmt.Errorf("maxconn %d: want 0 (unlimited) or more", j.MaxConn)
	}
	return Server{Addr: netip.AddrPortFrom(addr.Unmap(), port), Weight: weight, MaxConn: j.MaxConn}, nil
}

// Port checks that n is a port that can be listened on or connected to.
func Port(n int) (uint16, error) {
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("port %d: want 1 to 65535", n)
	}
	return uint16(n), nil
}

// maxTimeout is HAProxy's longest timeout in whole seconds: it counts milliseconds in 31 bits.
const maxTimeout = 2147483

func validTimeout(s float64) bool { return s >= 0 && s <= maxTimeout } // false for NaN

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
