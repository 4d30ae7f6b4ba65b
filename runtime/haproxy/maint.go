package haproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

const lastLook = 2 * time.Second // at the end of a run, for HAProxy's answer

// hands are the servers that somebody took out of service by hand, by path: the driver leaves them alone. They are kept in the run
// directory, since maintenance looks the same whoever asked for it, and the driver asks for it too.
type hands map[string]int // the admin bits

// notice looks for servers that somebody took out of service, among those that were looked at, and forgets those that are back. It is
// somebody's hand where the server was proven to be in service before by this process; drain always is: the driver never drains.
func (d *Driver) notice(v view) hands {
	if !d.config.RespectMaint || !v.have.alive || !v.have.known {
		return nil
	}
	if d.hands == nil {
		d.hands = d.loadHands()
	}
	next := hands{}
	for _, key := range keysOr(v.keys, v.layout.sections, v.have) {
		b, _ := v.have.built.service(key)
		for _, p := range b.Proxies {
			for _, line := range v.layout.sections.find(key).lines(p.Name) {
				path := p.Name + "/" + line.name
				is, ok := v.have.servers[p.Name][line.name]
				out := is.admin & (adminMaint | adminDrain)
				if _, known := d.hands[path]; ok && out != 0 && (known || out == adminDrain || d.inService(v, key, p.Name, line.name)) {
					next[path] = out
				}
			}
		}
	}
	if v.keys != nil { // the others were not looked at
		for path, out := range d.hands {
			proxy, _, _ := strings.Cut(path, "/")
			if _, looked := v.have.servers[proxy]; !looked {
				next[path] = out
			}
		}
	}
	return next
}

// inService reports whether a server was proven to take connections in the process that answers.
func (d *Driver) inService(v view, key catalog.Key, proxy, server string) bool {
	if v.have.pid != d.last.pid {
		return false
	}
	if _, leaving := d.leaving[proxy+"/"+server]; leaving {
		return false
	}
	return slices.ContainsFunc(d.verified.find(key).lines(proxy), func(line serverLine) bool { return line.name == server })
}

// lastNotice looks once more, at the end of a run, for servers that somebody took out of service since the last pass: the next driver
// cannot tell them from those that this one took out. It needs what the passes proved, and must not be called beside one.
func (d *Driver) lastNotice(ctx context.Context) error {
	if !d.config.RespectMaint || d.verified == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLook)
	defer cancel()
	have, err := d.glance(ctx)
	if err != nil || !have.alive || have.pid != d.last.pid {
		return nil // nothing was proven of this one
	}
	now := d.notice(view{have: have, layout: layout{sections: d.verified}})
	if now == nil {
		return nil
	}
	for _, s := range d.verified { // of those that are not as wanted yet, what was known goes on
		b, _ := have.built.service(s.key)
		for path, out := range d.hands {
			proxy, _, _ := strings.Cut(path, "/")
			if len(s.proxies) == 0 && slices.ContainsFunc(b.Proxies, func(p builtProxy) bool { return p.Name == proxy }) {
				now[path] = out
			}
		}
	}
	return d.keepHands(now)
}

// respect takes the steps out of a plan that would put servers back into service that somebody took out.
func (h hands) respect(p *plan) {
	if len(h) == 0 {
		return
	}
	p.steps = slices.DeleteFunc(p.steps, func(s step) bool {
		return s.change.Action == enableServer && h[s.path] != 0
	})
}

// carryHands takes servers out of service in a new process. now is what was seen of the old one, nil where nobody could be asked: then
// what was known before counts.
func (d *Driver) carryHands(ctx context.Context, l layout, now hands) {
	if now == nil && d.config.RespectMaint {
		if now = d.hands; now == nil {
			now = d.loadHands()
		}
	}
	if commands := now.carry(l); len(commands) > 0 {
		d.tell(ctx, commands) // where it fails, they are in service again, and not by hand any more
		_ = d.keepHands(now)  // is tried again at the end of the pass
	}
}

// carry gives the commands that take the servers out of service in a new process, which knows nothing of it.
func (h hands) carry(l layout) []string {
	var commands []string
	for _, s := range l.sections {
		for _, p := range s.proxies {
			for _, line := range p.servers {
				path := p.name + "/" + line.name
				switch out := h[path]; {
				case out&adminMaint != 0:
					commands = append(commands, "set server "+path+" state maint")
				case out != 0:
					commands = append(commands, "set server "+path+" state drain")
				}
			}
		}
	}
	return commands
}

// keepHands remembers the servers that are out of service by hand.
func (d *Driver) keepHands(now hands) error {
	if now == nil || maps.Equal(now, d.hands) {
		return nil
	}
	text, err := json.Marshal(now)
	if err == nil {
		err = host.WriteFile(d.handsFile(), text, 0o640)
	}
	if err != nil {
		return fmt.Errorf("remember servers that are out of service by hand: %w", err)
	}
	d.hands = now
	return nil
}

func (d *Driver) handsFile() string { return filepath.Join(d.config.RunDir, "maintenance.json") }

// loadHands reads what an earlier run remembered. What cannot be read is nothing: such a server is put back into service.
func (d *Driver) loadHands() hands {
	out := hands{}
	if raw, err := os.ReadFile(d.handsFile()); err != nil || json.Unmarshal(raw, &out) != nil {
		return hands{}
	}
	return out
}

// problems names the servers.
func (h hands) problems() []catalog.Problem {
	var out []catalog.Problem
	for _, path := range slices.Sorted(maps.Keys(h)) {
		proxy, server, _ := strings.Cut(path, "/")
		state := "drain"
		if h[path]&adminMaint != 0 {
			state = "maintenance"
		}
		out = append(out, catalog.Problem{Source: "haproxy", Subject: path, Reason: fmt.Sprintf(
			"server %s of service %s is in %s by hand; left alone as --respect-maint wants; `set server %s state ready` on the stats socket ends that", server, proxy, state, path)})
	}
	return out
}
