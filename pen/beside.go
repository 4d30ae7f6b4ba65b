package pen

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// Alone tells the driver that the pens of the other run, Config.Beside, have ended. It may be called at any time; a port that is
// still shared is a problem from the next pass on that observes everything.
func (d *Driver) Alone() { d.beside.Store(nil) }

// neighbour gives the pen of the other run that has a service's port too, if there may be one. Which process it is cannot be
// told from here: what is known is the user, without whom the kernel would not let both have the port.
func (d *Driver) neighbour(key catalog.Key) []process {
	if keys := d.beside.Load(); keys != nil && slices.Contains(*keys, key) {
		return []process{{uid: d.user.uid, key: key}}
	}
	return nil
}

// Serving gives the services whose pens answer, in order. It may be called at any time.
func (d *Driver) Serving(ctx context.Context) ([]catalog.Key, error) {
	pens, err := d.files.scan()
	if err != nil {
		return nil, err
	}
	keys := map[catalog.Key]bool{}
	for _, p := range pens {
		if _, pid, err := (control{p.socket}).ask(ctx, "pid"); err == nil && pid == p.pid {
			keys[p.key] = true
		}
	}
	return slices.SortedFunc(maps.Keys(keys), catalog.Key.Compare), ctx.Err()
}

// Running gives the servers of the services whose pens answer. It may be called at any time.
func (d *Driver) Running(ctx context.Context) (catalog.Places, error) {
	pens, err := d.files.scan()
	if err != nil {
		return nil, err
	}
	out := catalog.Places{}
	for _, p := range pens {
		if t, err := d.servers(ctx, p); err == nil {
			if out[p.key] == nil {
				out[p.key] = map[netip.AddrPort]bool{} // of one that has no servers that is known, too
			}
			for _, addr := range t.slots {
				out.Add(p.key, addr)
			}
		}
	}
	return out, ctx.Err()
}
