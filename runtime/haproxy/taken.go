package haproxy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// quarantine leaves out the services whose ports somebody else has.
func (d *Driver) quarantine(v view, found map[netip.AddrPort]string) error {
	wanted := v.unproven()
	for a, who := range found {
		key := wanted[a]
		if key == (catalog.Key{}) {
			return fmt.Errorf("the template listens on %s, which is taken by %s: free it, or take the line out of the template", a, who)
		}
		d.taken[key] = fmt.Sprintf("%s is taken by %s", a, who)
	}
	return nil
}

// expireTaken lets ports that were taken a while ago be looked at again.
func (d *Driver) expireTaken() {
	if d.now().Sub(d.looked) >= lookAgain {
		clear(d.taken)
		d.looked = d.now()
	}
}

// quarantineOwn leaves out the services whose ports the template listens on itself, and reports whether there are any. Those
// that run already, beside the same outer text, were looked at before.
func (d *Driver) quarantineOwn(v view) bool {
	list := v.layout.sections
	if v.keys != nil && v.layout.outer.hash == v.have.built.Outer {
		list = nil
		for _, key := range v.keys {
			if s := v.layout.sections.find(key); s != nil {
				list = append(list, s)
			}
		}
	}
	found := false
	for _, own := range v.layout.outer.binds {
		for _, s := range list {
			if slices.ContainsFunc(s.binds, func(a netip.AddrPort) bool { return a.Port() == own.Port() && host.Overlap(a.Addr(), own.Addr()) }) {
				d.taken[s.key] = fmt.Sprintf("%s is taken by the template, which listens on %s outside of its services", s.key, own)
				found = true
			}
		}
	}
	return found
}
