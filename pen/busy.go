package pen

import (
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
)

// With -P, pen can forget to take a socket whose connection was refused out of its poll set. From then on poll returns at
// once, and pen takes a whole core while it serves as ever, until a new connection happens to take that socket's number. The
// more servers refuse connections, the likelier. So pens that never sleep are looked for, and replaced when that costs nobody
// a connection.

// busyPause is how often it is looked for them.
const busyPause = 5 * time.Second

// findBusy notes which pens never slept since the last time, and reports whether there are any, or were.
func (d *Driver) findBusy(pids []int) bool {
	pulses, busy := map[int]host.Pulse{}, map[int]bool{}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, pid := range pids {
		now, err := host.ReadPulse(pid)
		if err != nil {
			continue // it has ended
		}
		pulses[pid] = now
		if before, known := d.pulses[pid]; known && now.Restless(before) {
			busy[pid] = true
		}
	}
	found := len(busy)+len(d.busy) > 0
	d.pulses, d.busy = pulses, busy
	return found
}

func (d *Driver) isBusy(pid int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.busy[pid]
}
