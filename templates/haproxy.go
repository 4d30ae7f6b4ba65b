package templates

import (
	_ "embed"
	"fmt"
	"io"
	"text/template"
)

//go:embed haproxy.cfg.tpl
var haproxyText string

// HAProxy is what the whole of haproxy.cfg's template sees. In the Mako templates of the Python original, Services was
// `services.values()`.
type HAProxy struct {
	Socket   string           // path of the stats socket; the global section must declare it with `level admin`
	MaxConn  int              // connections that the descriptors of this host allow; a change of it alone never causes a reload
	HardStop string           // how long an old worker may keep its connections: 12h, or --drain where that is longer
	User     string           // user to become after binding; empty where HAProxy is not started as root
	Group    string           // group to become; empty like User
	Services []HAProxyService // in the order of their ports; their servers are known to the "service" template only
}

// HAProxyService is one service outside of its own section.
type HAProxyService struct {
	Name          string // unique name for a proxy: the service's name, cleaned, and its port. Mako: `service.name`
	Port          uint16 // the port to listen on. Mako: `service.port`
	Bind          string // address and port to listen on, such as "0.0.0.0:8300"
	Mode          string // "tcp" or "http". Mako: `service.application`
	HTTP          bool   // Mode is "http"
	Source        string // where it comes from, such as "marathon". Mako: `service.source`
	MaxConn       int    // most connections at a time: --max-connections. Mako: `maxconnections`
	TimeoutClient string // such as "30s"; empty for the default. Mako: `service.timeoutclient`
	TimeoutServer string // such as "30s"; empty for the default. Mako: `service.timeoutserver`
}

// HAProxySection is what the template named "service" sees: the fields of HAProxyService, and the servers. The fields are
// not embedded, since text/template looks for promoted ones ten times slower.
type HAProxySection struct {
	Name, Bind, Mode, Source, TimeoutClient, TimeoutServer string
	Port                                                   uint16
	HTTP                                                   bool
	MaxConn                                                int
	Servers                                                []HAProxyServer // in the order of their addresses. Mako: `service.servers`, `service.slots`
}

// Section adds servers to a service.
func (s HAProxyService) Section(servers []HAProxyServer) HAProxySection {
	return HAProxySection{Name: s.Name, Bind: s.Bind, Mode: s.Mode, Source: s.Source, TimeoutClient: s.TimeoutClient,
		TimeoutServer: s.TimeoutServer, Port: s.Port, HTTP: s.HTTP, MaxConn: s.MaxConn, Servers: servers}
}

// HAProxyServer is one server. Its line is `{{.Line}}`, with options behind it where they are wanted, or another that begins
// with `server {{.Name}} {{.Address}}`.
type HAProxyServer struct {
	Line    string // the usual line: "server NAME ADDRESS weight WEIGHT [maxconn MAXCONN] [check]"
	Name    string // the server's identity: address and port, ":c" behind it when checked
	Address string // address and port to connect to. Mako: `server.ip` and `server.port`
	Weight  int    // HAProxy's weight, 1 to 256: 128 is the usual. Mako: `server.weight`
	MaxConn int    // most connections at a time; 0 is unlimited. Mako: `server.maxconn`
	Check   bool   // HAProxy should look after the server's health, since its source does not
}

// ParseHAProxy reads the template at path, or the built-in one when path is empty. Errors name the file and the line.
func ParseHAProxy(path string) (*template.Template, error) {
	t, err := parse(path, "haproxy.cfg.tpl (built in)", haproxyText)
	if err != nil {
		return nil, err
	}
	if t.Lookup("service") == nil {
		return nil, fmt.Errorf(`template %s: it defines no "service"; put the part that repeats for each service between `+
			`{{define "service"}} and {{end}}, and {{range .Services}}{{template "service" .}}{{end}} where it belongs`, t.Name())
	}
	if err := t.Execute(io.Discard, HAProxy{}); err != nil {
		return nil, fmt.Errorf("try template: %w", err)
	}
	return t, nil
}
