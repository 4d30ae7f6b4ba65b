package marathon

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// networkMode is where a definition's ports are.
type networkMode uint8

const (
	hostMode      networkMode = iota // ports of the agent, taken by the task itself
	bridgeMode                       // ports of the agent, mapped to the container's
	containerMode                    // ports of the container's own address; a mapping with a host port is on the agent too
)

// mode finds the mode in the fields of every generation: networks from 1.5 on, container.docker.network and ipAddress
// before.
func (d definition) mode() networkMode {
	if len(d.Networks) > 0 {
		switch d.Networks[0].Mode { // the modes of one app never mix
		case "container/bridge":
			return bridgeMode
		case "container", "":
			return containerMode
		default:
			return hostMode
		}
	}
	docker := ""
	if d.Container != nil && d.Container.Docker != nil {
		docker = d.Container.Docker.Network
	}
	switch {
	case docker == "BRIDGE":
		return bridgeMode
	case docker == "USER", docker == "" && d.IPAddress == present:
		return containerMode
	default:
		return hostMode
	}
}

// mapping is one port of a definition, the same for every generation.
type mapping struct {
	servicePort, containerPort int
	protocol                   string
	onHost                     bool // it has an entry in the ports of each task
}

func (d definition) mappings() []mapping {
	mode := d.mode()
	mapped := d.Container.mappings()
	// Up to 1.0, bridge mode without portMappings takes the app's ports.
	if mode == hostMode || mode == bridgeMode && mapped == nil {
		return d.hostPorts()
	}
	out := make([]mapping, 0, len(mapped))
	for _, m := range mapped {
		out = append(out, mapping{servicePort: m.ServicePort, containerPort: m.ContainerPort, protocol: m.Protocol,
			onHost: m.HostPort != nil || mode == bridgeMode})
	}
	return out
}

// mappings gives nil when the container says nothing of ports, and an empty list when it says that it has none.
func (c *container) mappings() []portMapping {
	switch {
	case c == nil:
		return nil
	case len(c.PortMappings) > 0 || c.Docker == nil || c.Docker.PortMappings == nil:
		return c.PortMappings
	default:
		return c.Docker.PortMappings
	}
}

func (d definition) hostPorts() []mapping {
	var out []mapping
	for _, p := range d.PortDefinitions {
		out = append(out, mapping{servicePort: p.Port, protocol: p.Protocol, onHost: true})
	}
	if len(d.PortDefinitions) > 0 {
		return out
	}
	for _, p := range d.Ports {
		out = append(out, mapping{servicePort: p, onHost: true})
	}
	return out
}

// endpoint is a port of a definition that can be offered: on which keys, and where its tasks listen.
type endpoint struct {
	index         int
	keys          []catalog.Key
	hostIndex     int // which entry of a task's ports is its own; -1 when it is only on the container's address
	containerPort int
	settings      settings
}

// endpoints gives the ports of a definition that can be offered, and what is wrong with the others. Servers'
// connections are shared between groupSize proxies.
func (d definition) endpoints(groupSize int) ([]endpoint, []string) {
	var out []endpoint
	var reasons []string
	seen := make(map[catalog.Key]bool)
	ownIP, onHost := d.mode() == containerMode, 0
	for i, m := range d.mappings() {
		e := endpoint{index: i, hostIndex: -1, containerPort: m.containerPort}
		if m.onHost {
			// A task's ports hold one entry for each mapping that has a host port, and only for those.
			e.hostIndex, onHost = onHost, onHost+1
		}
		labels := portLabels{labels: d.Labels, index: i}
		e.keys = labels.keys(m, ownIP, seen)
		if len(e.keys) > 0 {
			e.settings = labels.settings(groupSize, e.keys)
			out = append(out, e)
		}
		reasons = append(reasons, labels.reasons...)
	}
	return out, reasons
}

// keys are the service ports of a mapping: none, one, or two of one number. The ones that it gives are marked as seen.
func (l *portLabels) keys(m mapping, ownIP bool, seen map[catalog.Key]bool) []catalog.Key {
	number := l.number("servicePort", m.servicePort, 1, 65535)
	if number == 0 {
		if !ownIP { // Marathon never gives service ports to apps with an address per task
			l.fail("it has no service port")
		}
		return nil
	}
	port, err := catalog.Port(number)
	if err != nil {
		l.fail("service " + err.Error())
		return nil
	}
	var out []catalog.Key
	for p := range strings.SplitSeq(cmp.Or(m.protocol, "tcp"), ",") {
		key := catalog.Key{Port: port, Proto: catalog.Proto(strings.ToLower(strings.TrimSpace(p)))}
		switch {
		case key.Proto != catalog.TCP && key.Proto != catalog.UDP:
			l.fail(fmt.Sprintf("protocol %.20q: want tcp, udp or udp,tcp", p))
		case seen[key]:
			l.fail(fmt.Sprintf("the app claims %s twice; its first port has it", key))
		default:
			seen[key] = true
			out = append(out, key)
		}
	}
	return out
}
