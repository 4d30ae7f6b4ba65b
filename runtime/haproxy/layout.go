package haproxy

import (
	"os"
	"os/user"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// layout is what haproxy.cfg should have in it.
type layout struct {
	outer    outer
	sections sections
	fixed    bool // some section may need a reload for each change of its servers
}

// structure gives the layout's structure.
func (l layout) structure() structure { return newStructure(l.outer, l.sections) }

// pieces gives the whole file. hash is the structure's.
func (l layout) pieces(hash string) pieces { return fullPieces(l.outer, l.sections, hash) }

// text gives the whole file as it is written.
func (l layout) text(hash string) []byte { return l.pieces(hash).appendTo(nil) }

// layout renders those of the services, which are in canonical order, that HAProxy should listen for and that do not wait for a
// port. A service that runs keeps the name that it runs under, as long as nothing else asks for a reload: names are for
// operators' eyes.
func (d *Driver) layout(want []*catalog.Service, built structure) (layout, error) {
	for static := d.render.last.static; ; {
		made, err := d.render.sections(want, built, static)
		if err != nil {
			return layout{}, err
		}
		made = d.aside(made)
		o, err := d.render.outerOf(made)
		if err != nil {
			return layout{}, err
		}
		if o.static == static {
			return layout{o, made, d.render.made.fixed}, nil
		}
		static = o.static // sections depend on it, and it does not depend on how they are made: this happens once
	}
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

// hardStop gives how long an old worker may keep its connections, as HAProxy reads it. The drain time is for what is removed; here it
// would cut the connections of services that nobody touched, at each reload. So it counts only where it is longer.
func hardStop(drain time.Duration) string {
	const least = 12 * time.Hour
	if drain <= least {
		return "12h"
	}
	const most = 24 * 24 * time.Hour // HAProxy counts milliseconds in 31 bits
	return strconv.FormatInt(int64(min(drain, most)/time.Second), 10) + "s"
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
