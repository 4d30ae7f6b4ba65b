package pen

import (
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// With -P, pen can forget to take a socket whose connection was refused out of its poll set. From then on poll returns at
// once, and pen takes a whole core while it serves as ever, until a new connection happens to take that socket's number. The
// more servers refuse connections, the likelier. So pens that never sleep are looked for, and replaced when that costs nobody
// a connection.

// busyPause is how often it is looked for them.
const busyPause = 5 * time.Second

// findBusy notes which pens of TCP services never slept since the last pulses, and gives the new ones.
func (d *Driver) findBusy(pens []process, last map[int]host.Pulse) map[int]host.Pulse {
	pulses, busy := map[int]host.Pulse{}, map[int]bool{}
	for _, p := range pens {
		if p.key.Proto != catalog.TCP {
			continue
		}
		now, err := host.ReadPulse(p.pid)
		if err != nil {
			continue // it has ended
		}
		pulses[p.pid] = now
		if before, known := last[p.pid]; known && now.Restless(before) {
			busy[p.pid] = true
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy = busy
	return pulses
}

func (d *Driver) anyBusy() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.busy) > 0
}

func (d *Driver) isBusy(pid int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.busy[pid]
}
