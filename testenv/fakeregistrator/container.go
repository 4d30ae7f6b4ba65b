// Package fakeregistrator is a registrator without Docker, for tests and demos: it writes into etcd, byte for byte, what
// registrator writes for the containers of a host, into the v2 store as upstream's 7.4 does or into the v3 store as its
// maintained fork 9.2 does, and it refreshes, restarts, cleans up and dies as they do.
//
// No container runs anywhere: Add only says that one does.
package fakeregistrator

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Container is a running container, as far as registrator looks at it.
type Container struct {
	Name  string            // Docker's, without the slash
	Image string            // names the services that have no other name: "example/webapp:1.2" gives webapp
	Env   map[string]string // SERVICE_NAME, SERVICE_<exposed port>_NAME, SERVICE_ID, SERVICE_IGNORE; others make no difference
	Ports []Port            // the published ones
}

// Port is a published port of a container.
type Port struct {
	Exposed uint16 // the container's own
	UDP     bool
	Addr    string // where it is published, as "ip:port", which is what registrator writes
}

// entry is a service in registrator's memory and its key in etcd.
type entry struct {
	service, id string // key is prefix/service/id
	value       string
}

func (e entry) key(prefix string) string { return prefix + "/" + e.service + "/" + e.id }

// entries gives what registrator on the host would write for a container, in the order of ports.
func entries(host string, c Container) []entry {
	var out []entry
	for _, p := range sortedPorts(c.Ports) {
		if value, _ := c.setting(p, "IGNORE"); value != "" {
			continue
		}
		out = append(out, entry{c.service(p), c.id(host, p), p.Addr})
	}
	return out
}

func sortedPorts(ports []Port) []Port {
	return slices.SortedStableFunc(slices.Values(ports), func(a, b Port) int { return int(a.Exposed) - int(b.Exposed) })
}

// service appends the exposed port where the container publishes several, ignored ones included, unless the name is this
// port's own.
func (c Container) service(p Port) string {
	name, own := c.setting(p, "NAME")
	if name == "" {
		name, _, _ = strings.Cut(path.Base(c.Image), ":")
	}
	if len(c.Ports) > 1 && !own {
		name += fmt.Sprintf("-%d", p.Exposed)
	}
	return name
}

// id is HOST:CONTAINER:EXPOSED, with ":udp" where that is so, unless the container chooses its own.
func (c Container) id(host string, p Port) string {
	if id, _ := c.setting(p, "ID"); id != "" {
		return id
	}
	id := fmt.Sprintf("%s:%s:%d", host, c.Name, p.Exposed)
	if p.UDP {
		id += ":udp"
	}
	return id
}

// setting gives SERVICE_<port>_<name>, which is the port's own, or else SERVICE_<name>.
func (c Container) setting(p Port, name string) (value string, own bool) {
	if value, own = c.Env[fmt.Sprintf("SERVICE_%d_%s", p.Exposed, name)]; own {
		return value, true
	}
	return c.Env["SERVICE_"+name], false
}
