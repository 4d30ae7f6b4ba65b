package stage

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// penUser is whom pens run as: an unprivileged user that every machine has, or ourselves where nothing else is possible.
func penUser() string {
	if os.Geteuid() == 0 {
		return "nobody"
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Geteuid())
}

// Pen is a pen process of a host.
type Pen struct {
	PID          int
	Proto        catalog.Proto
	Port         int
	File, Socket string // its configuration and its control socket
}

// penFile is the name of a pen's configuration.
var penFile = regexp.MustCompile(`^(tcp|udp)-([0-9]+)-[^/]*\.cfg$`)

// Pens gives the running pens, those of one service side by side.
func (h *Host) Pens() []Pen {
	var out []Pen
	for _, p := range h.processes("pen") {
		pen := Pen{PID: p.PID, File: after(p.Args, "-F"), Socket: after(p.Args, "-C")}
		if m := penFile.FindStringSubmatch(filepath.Base(pen.File)); m != nil {
			pen.Proto = catalog.Proto(m[1])
			pen.Port, _ = strconv.Atoi(m[2]) // digits
			out = append(out, pen)
		}
	}
	slices.SortFunc(out, func(a, b Pen) int { return strings.Compare(filepath.Base(a.File), filepath.Base(b.File)) })
	return out
}

// after gives the word behind an option.
func after(args []string, option string) string {
	if i := slices.Index(args, option); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// Pen gives the one pen of a service. None and several are errors.
func (h *Host) Pen(proto catalog.Proto, port int) (Pen, error) {
	var found []Pen
	for _, p := range h.Pens() {
		if p.Proto == proto && p.Port == port {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		return Pen{}, fmt.Errorf("%d pens serve %d/%s: %+v", len(found), port, proto, found)
	}
	return found[0], nil
}

// Ask sends one command to the pen's control socket and gives the answer.
func (p Pen) Ask(command string) (string, error) {
	if p.Socket == "" {
		return "", errors.New("the pen has no control socket")
	}
	return Ask(p.Socket, command)
}

// PenServers gives the servers that the running pens of a transport have. A server in several slots is there once. Two pens for
// one port are an error.
func (h *Host) PenServers(proto catalog.Proto) (Servers, error) {
	out, seen := Servers{}, map[int]int{}
	for _, p := range h.Pens() {
		if p.Proto != proto {
			continue
		}
		if other, twice := seen[p.Port]; twice {
			return nil, fmt.Errorf("processes %d and %d both serve %d/%s", other, p.PID, p.Port, proto)
		}
		seen[p.Port] = p.PID
		text, err := p.Ask("servers")
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(text) {
			f := strings.Fields(line)
			if len(f) < 5 || f[4] == "0" {
				continue
			}
			if addr := net.JoinHostPort(f[2], f[4]); !slices.Contains(out[p.Port], addr) {
				out.Add(p.Port, addr)
			}
		}
	}
	return out, nil
}

// RequestUDP sends a datagram to a service from a socket of its own, and gives the name that answered.
func RequestUDP(port int) (string, error) {
	conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(udpPatience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return "", err
	}
	answer := make([]byte, 256)
	n, err := conn.Read(answer)
	name, _, _ := strings.Cut(string(answer[:n]), " ")
	return name, err
}

// udpPatience is how long a client waits for the answer to a datagram, which nobody sends again when it is lost.
const udpPatience = 250 * time.Millisecond
