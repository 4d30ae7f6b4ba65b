package pen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// maxStatistics bounds what is read of pen's statistics: a flow has some 110 bytes, a client some 130.
const maxStatistics = 64 << 20

// moveFlows closes the UDP flows in slots that are empty, and proves it. pen itself leaves them connected to the server that was
// there, for ever if that is silent; the next datagram of a closed one makes a new flow, to a server of the table.
func (d *Driver) moveFlows(ctx context.Context, p process, t table) error {
	for range 2 {
		flows, err := d.flows(ctx, p)
		if err != nil {
			return err
		}
		var b strings.Builder
		for _, f := range flows {
			if !t.slots[f.slot].IsValid() {
				fmt.Fprintf(&b, "close %d\n", f.number)
			}
		}
		if b.Len() == 0 {
			return nil
		}
		if err := d.command(ctx, p, b.String()); err != nil {
			return fmt.Errorf("close flows of removed servers: %w", err)
		}
	}
	flows, err := d.flows(ctx, p)
	for _, f := range flows {
		if !t.slots[f.slot].IsValid() {
			return fmt.Errorf("flows of removed servers are still there after they were closed, in slot %d for one", f.slot)
		}
	}
	return err
}

// flows lists what goes through a pen: UDP flows, or TCP connections. pen's counts are of no use here, which can be too low.
//
// It is pen's statistics page, written to a file: for 8,000 flows that takes a few milliseconds, while asking for each by itself
// takes 0.4 s.
func (d *Driver) flows(ctx context.Context, p process) ([]flow, error) {
	page := d.files.statistics(p.key)
	defer func() { _ = os.Remove(page) }() // pen's; if it cannot be removed it is overwritten next time
	err := d.command(ctx, p, "web_stats "+page+"\nstatus\nno web_stats\n")
	if err != nil {
		return nil, fmt.Errorf("list flows: %w", err)
	}
	text, err := readStatistics(page)
	if err != nil {
		return nil, fmt.Errorf("list flows: %w", err)
	}
	return readFlows(text), nil
}

// command lets a pen read lines that are for this once.
func (d *Driver) command(ctx context.Context, p process, lines string) error {
	path := d.files.commands(p.key)
	if err := put(path, lines); err != nil {
		return err
	}
	defer func() { _ = os.Remove(path) }()
	return control{p.socket}.include(ctx, path)
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

// readFlows reads the statistics page. The rows of its last table are connection, downfd, upfd, pending data down and up, client,
// server. A regular expression took ten times as long as pen to write them.
func readFlows(page string) []flow {
	_, rows, _ := strings.Cut(page, "<h2>Active connections</h2>")
	_, rows, _ = strings.Cut(rows, "<tr>\n<td>") // what is before it is no row
	var out []flow
	for row := range strings.SplitSeq(rows, "<tr>\n<td>") {
		cells := strings.Split(row, "</td>\n<td>")
		if len(cells) != 7 {
			continue
		}
		last, _, whole := strings.Cut(cells[6], "</td>\n</tr>")
		number, err := strconv.Atoi(cells[0])
		slot, slotErr := strconv.Atoi(last)
		if whole && errors.Join(err, slotErr) == nil && number >= 0 && slot >= 0 { // below zero: no server was found
			out = append(out, flow{number, slot})
		}
	}
	return out
}
