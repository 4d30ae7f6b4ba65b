package haproxy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// Beside is the HAProxy of another run, perhaps in another container, that goes on until ours serves. Ours is started with its
// listening sockets, so that no connection is lost when it closes them. Which process it is cannot be told from here.
type Beside struct {
	Socket  string           // its stats socket, which must have `expose-fd listeners`
	Listens []netip.AddrPort // what it has bound
	Down    []Down           // what ours holds for dead at first
}

// Down is what HAProxy's own checks hold for dead of a service.
type Down struct {
	Service catalog.Key
	Servers []string // their names
}

// has reports whether the other HAProxy has bound an address.
func (b *Beside) has(addr netip.AddrPort) bool { return b != nil && slices.Contains(b.Listens, addr) }

// Alone tells the driver that the other HAProxy, Config.Beside, has closed its ports. It may be called at any time.
func (d *Driver) Alone() { d.beside.Store(nil) }

// Serving is what the running HAProxy does for clients.
type Serving struct {
	Services []catalog.Key    // whose frontends are open, in order
	Listens  []netip.AddrPort // bound addresses, of closed frontends too
	Down     []Down           // in the order of the services
}

// Serving observes what HAProxy serves now; nothing when it does not run. It may be called at any time.
func (d *Driver) Serving(ctx context.Context) (Serving, error) {
	have, err := d.glance(ctx)
	switch {
	case err != nil:
		return Serving{}, err
	case !have.alive:
		return Serving{}, nil
	case !have.known:
		return Serving{}, fmt.Errorf("it is not known what the running HAProxy (pid %d) was built from", have.pid)
	}
	out := Serving{Listens: slices.Clone(have.built.Binds)}
	for _, key := range slices.SortedFunc(maps.Keys(have.built.Services), catalog.Key.Compare) {
		b := have.built.Services[key]
		if !have.runs(b) {
			continue
		}
		out.Listens = append(out.Listens, b.Binds...)
		if have.listens(b) {
			out.Services = append(out.Services, key)
		}
	}
	dead := failedChecks(have)
	for _, key := range slices.SortedFunc(maps.Keys(dead), catalog.Key.Compare) {
		out.Down = append(out.Down, Down{key, slices.Sorted(maps.Keys(dead[key]))})
	}
	return out, nil
}

// dead gives what the other HAProxy holds for dead.
func (b *Beside) dead() map[catalog.Key]map[string]bool {
	out := map[catalog.Key]map[string]bool{}
	if b == nil {
		return out
	}
	for _, d := range b.Down {
		out[d.Service] = map[string]bool{}
		for _, name := range d.Servers {
			out[d.Service][name] = true
		}
	}
	return out
}

// glance observes everything without the memory of passes, beside which it may be called. While a reload ends the old worker may answer
// for a moment.
func (d *Driver) glance(ctx context.Context) (observed, error) {
	deadline := d.now().Add(stoppingFor)
	for {
		have, err := observe(ctx, d.cli, looking{load: d.store.load})
		switch {
		case err != nil:
			return have, fmt.Errorf("observe HAProxy: %w", err)
		case !have.stopping:
			return have, nil
		case !d.now().Before(deadline):
			return have, fmt.Errorf("observe HAProxy: the one that answers (pid %d) is stopping", have.pid)
		}
		time.Sleep(stoppingAgain)
	}
}

// Running gives the servers of the services that HAProxy has: those in service, and those that somebody took out of service by hand, where
// that is respected. Of a service whose port is closed there are none, and nothing when HAProxy does not run. It may be called at any time.
func (d *Driver) Running(ctx context.Context) (catalog.Places, error) {
	have, err := d.glance(ctx)
	if err != nil || !have.alive {
		return nil, err
	}
	if !have.known {
		return nil, fmt.Errorf("it is not known what the running HAProxy (pid %d) was built from", have.pid)
	}
	out, byHand := catalog.Places{}, hands(nil)
	if d.config.RespectMaint {
		byHand = d.loadHands()
	}
	in := func(path string, is server) bool {
		return is.admin == 0 || byHand[path] != 0 || d.config.RespectMaint && is.admin&(adminMaint|adminDrain) == adminDrain
	}
	for key, b := range have.built.Services {
		if !have.runs(b) {
			continue
		}
		if out[key] = map[netip.AddrPort]bool{}; !have.listens(b) {
			continue
		}
		for _, p := range b.Proxies {
			for name, is := range have.servers[p.Name] {
				if in(p.Name+"/"+name, is) && is.addr.IsValid() && !slices.Contains(p.Fixed, name) {
					out.Add(key, is.addr)
				}
			}
		}
	}
	return out, nil
}
