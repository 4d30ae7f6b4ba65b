package pen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// maxStatistics bounds what is read of pen's statistics: a flow has some 110 bytes, a client some 130.
const maxStatistics = 64 << 20

// moveFlows closes the UDP flows in slots that are empty now. pen itself leaves them connected to the server that was there,
// for ever if that is silent; the next datagram of a closed one makes a new flow, to a server of the table.
//
// The flows are listed by pen's statistics page, written to a file: for 8,000 flows it takes a few milliseconds, while asking
// for each by itself takes 0.4 s.
func (d *Driver) moveFlows(ctx context.Context, p process, t table) error {
	emptied := func(slot int) bool { return !t.slots[slot].IsValid() }
	busy := false
	for slot, flows := range t.flows {
		busy = busy || flows > 0 && emptied(slot)
	}
	if !busy {
		return nil
	}
	c, page, commands := control{d.files.socket(p.key, p.id)}, d.files.statistics(p.key), d.files.commands(p.key)
	if err := put(commands, "web_stats "+page+"\nstatus\nno web_stats\n"); err != nil {
		return err
	}
	defer func() { _ = os.Remove(commands) }()
	defer func() { _ = os.Remove(page) }() // pen's, if it cannot be removed it is overwritten next time
	if err := c.include(ctx, commands); err != nil {
		return fmt.Errorf("list flows: %w", err)
	}
	text, err := readStatistics(page)
	if err != nil {
		return fmt.Errorf("list flows: %w", err)
	}
	var b strings.Builder
	for _, f := range readFlows(text) {
		if emptied(f.slot) {
			fmt.Fprintf(&b, "close %d\n", f.number)
		}
	}
	if err := put(commands, b.String()); err != nil {
		return err
	}
	if err := c.include(ctx, commands); err != nil {
		return fmt.Errorf("close flows: %w", err)
	}
	return nil
}

// readStatistics reads a file in pen's own directory, which whoever is pen could have replaced by anything.
func readStatistics(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(err, fmt.Errorf("%s is not a file", path))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxStatistics))
	return string(text), err
}

// flow is a client's way through pen.
type flow struct{ number, slot int }

// flowRow is a row of the page's last table: connection, downfd, upfd, pending data down and up, client, server.
var flowRow = regexp.MustCompile(`<tr>\n<td>(\d+)</td>\n(?:<td>-?\d+</td>\n){5}<td>(-?\d+)</td>\n</tr>`)

// readFlows reads the statistics page.
func readFlows(page string) []flow {
	_, rows, _ := strings.Cut(page, "<h2>Active connections</h2>")
	var out []flow
	for _, m := range flowRow.FindAllStringSubmatch(rows, -1) {
		number, err := strconv.Atoi(m[1])
		slot, slotErr := strconv.Atoi(m[2])
		if errors.Join(err, slotErr) == nil && slot >= 0 { // below zero: no server was found
			out = append(out, flow{number, slot})
		}
	}
	return out
}
