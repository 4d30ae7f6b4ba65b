package stage

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What is told here about HAProxy is read anew from the socket and the file, by code that shares nothing with proxymatic's.

// Servers are the servers of each service port, as "ip:port" in order. A port without servers is not in it.
type Servers map[int][]string

// Add puts a server in its place.
func (s Servers) Add(port int, addr string) {
	list := s[port]
	i, _ := slices.BinarySearch(list, addr)
	s[port] = slices.Insert(list, i, addr)
}

// Serving gives the servers that are not in maintenance.
func (s Servers) Serving() Servers {
	out := Servers{}
	for port, list := range s {
		for _, addr := range list {
			if !strings.HasSuffix(addr, maintenance) {
				out.Add(port, addr)
			}
		}
	}
	return out
}

// Diff names the ports whose servers differ, for messages; "" when nothing differs.
func (s Servers) Diff(o Servers) string {
	var b strings.Builder
	for port, list := range s {
		if !slices.Equal(list, o[port]) {
			fmt.Fprintf(&b, "%d: %v, not %v\n", port, o[port], list)
		}
	}
	for port, list := range o {
		if _, ok := s[port]; !ok {
			fmt.Fprintf(&b, "%d: %v, not there\n", port, list)
		}
	}
	return b.String()
}

// Ask sends one command to a stats socket or a master socket and gives the answer.
func Ask(socket, command string) (string, error) {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// Worker gives the process that answers on the stats socket; an old worker that is stopping is an error.
func (h *Host) Worker() (int, error) {
	text, err := Ask(h.Path("haproxy.sock"), "show info")
	if err != nil {
		return 0, err
	}
	if !strings.Contains(text, "\nStopping: 0\n") {
		return 0, fmt.Errorf("the worker is stopping")
	}
	_, rest, _ := strings.Cut(text, "\nPid: ")
	digits, _, _ := strings.Cut(rest, "\n")
	return strconv.Atoi(digits)
}

// maintenance stands behind the address of a server that is in maintenance.
const maintenance = " maint"

// Running gives the servers that the running HAProxy has. One in maintenance has " maint" behind its address.
func (h *Host) Running() (Servers, error) {
	text, err := Ask(h.Path("haproxy.sock"), "show servers state")
	if err != nil {
		return nil, err
	}
	out := Servers{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 19 || f[0] == "#" || f[1] == "MASTER" { // 2.2 shows its own
			continue
		}
		port, err := servicePort(f[1])
		if err != nil {
			return nil, err
		}
		addr := net.JoinHostPort(f[4], f[18])
		if f[6] != "0" {
			addr += maintenance
		}
		out.Add(port, addr)
	}
	return out, nil
}

// Written gives the servers of haproxy.cfg.
func (h *Host) Written() (Servers, error) {
	text, err := os.ReadFile(h.Config())
	if err != nil {
		return nil, err
	}
	out, port := Servers{}, 0
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 2 && f[0] == "listen":
			if port, err = servicePort(f[1]); err != nil {
				return nil, err
			}
		case len(f) > 2 && f[0] == "server":
			out.Add(port, f[2])
		}
	}
	return out, nil
}

// servicePort reads the port at the end of a proxy's name.
func servicePort(name string) (int, error) {
	port, err := strconv.Atoi(name[strings.LastIndexByte(name, '-')+1:])
	if err != nil {
		return 0, fmt.Errorf("proxy %q has no port at the end of its name", name)
	}
	return port, nil
}
