package templates

import (
	_ "embed"
	"text/template"
)

//go:embed pen.cfg.tpl
var penText string

// Pen is what the template of a pen's configuration sees: one service, which has a process of its own.
type Pen struct {
	Name       string      // the service's name, cleaned. Mako: `service.name`
	Port       uint16      // the port to listen on. Mako: `service.port`
	Protocol   string      // "tcp" or "udp". Mako: `service.protocol`
	HTTP       bool        // a TCP service in mode http: pen adds X-Forwarded-For. Mako: `service.application == 'http'`
	Source     string      // where it comes from, such as "marathon". Mako: `service.source`
	MaxServers int         // --pen-servers. Mako: `maxservers`
	Servers    []PenServer // in the order of their slots. Mako: `service.slots(maxservers)`
}

// PenServer is a slot of pen's table. A server with a higher weight than others has several.
type PenServer struct {
	Line string // "server SLOT address IP port PORT", which must stand in the file as it is
	Slot int    // from 1 up; one that was freed stays empty for a while. Mako: the index in `service.slots`
	IP   string // Mako: `server.ip`
	Port uint16 // Mako: `server.port`
}

// ParsePen reads the template at path, or the built-in one when path is empty. Errors name the file and the line.
func ParsePen(path string) (*template.Template, error) {
	return parse(path, "pen.cfg.tpl (built in)", penText)
}
