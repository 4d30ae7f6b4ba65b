package haproxy

import (
	"os"
	"os/user"

	"golang.org/x/sys/unix"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/templates"
)

// layout is what haproxy.cfg should have in it.
type layout struct {
	outer    outer
	sections map[catalog.Key]*section
}

// structure gives the layout's structure.
func (l layout) structure() structure { return newStructure(l.outer, l.sections) }

// text gives the whole file. hash is the structure's.
func (l layout) text(hash string) []byte { return fullText(l.outer, l.sections, hash) }

// layout renders services. A service that runs keeps the name that it runs under, as long as nothing else asks for a reload:
// names are for operators' eyes.
func (d *Driver) layout(want []catalog.Service, built structure) (layout, error) {
	heads := make([]templates.HAProxyService, len(want))
	names := make([]string, len(want))
	checked := 0
	for i, s := range want {
		if b, ok := built.service(s.Key); ok {
			names[i] = b.Name
		} else {
			names[i] = listenName(s)
		}
		heads[i] = d.render.headOf(s, names[i])
		for _, v := range s.Servers {
			if v.Check {
				checked++
			}
		}
	}
	o, err := d.render.renderOuter(heads, globalMaxConn(d.config.MaxConnections, len(want), checked))
	if err != nil {
		return layout{}, err
	}
	if err := d.render.renderAhead(want, names, o.static); err != nil {
		return layout{}, err
	}
	l := layout{outer: o, sections: make(map[catalog.Key]*section, len(want))}
	for i, s := range want {
		if l.sections[s.Key], err = d.render.render(s, names[i], o.static); err != nil {
			return layout{}, err
		}
	}
	d.render.forget(l.sections)
	return l, nil
}

// globalMaxConn gives the connections that the whole process may have: what a few full services need, and no more than the
// descriptors allow. HAProxy 2.6 refuses to start unless it can have two for each connection, one for each listener and
// each check, and some thirty more; what is added at run time needs its own.
func globalMaxConn(perService, services, checked int) int {
	const busyServices, slack, least = 8, 200, 100
	most := perService * max(1, min(services, busyServices))
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Max > 1<<30 {
		return most
	}
	return max(least, min(most, (int(limit.Max)-2*services-2*checked-slack)/2))
}

// identity gives the user and the group that HAProxy becomes when it is started as root: the distribution's own, where the
// host has them.
func identity() (userName, group string) {
	if os.Geteuid() != 0 {
		return "", ""
	}
	if u, err := user.Lookup("haproxy"); err == nil {
		userName = u.Username
	}
	if g, err := user.LookupGroup("haproxy"); err == nil {
		group = g.Name
	}
	return userName, group
}
