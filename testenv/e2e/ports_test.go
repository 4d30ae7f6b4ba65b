package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

// One taken port in a reload makes HAProxy refuse everybody for two seconds, so it must never get that far.
func TestTakenPortsDisturbNobody(t *testing.T) {
	w := newWorld(t)
	others := w.services(5, 2)
	w.start()
	loads := w.loads()
	load := w.load(others, 500)

	taken := w.ports(4)
	free := w.listen(taken[0], false)
	w.listen(taken[1], true)
	w.connectFrom(taken[2])
	w.leaveTimeWait(taken[3])
	for _, port := range taken {
		w.must(w.site.AddService(port, 1))
	}
	good := w.services(3, 1)
	w.served(good...)
	w.must(stage.Until(w.patient(), func() error { return w.named(taken) }))
	w.reloaded(loads, 2, "3 new services beside 4 whose ports are taken")
	written, err := w.host.Written()
	w.must(err)
	for _, port := range taken {
		if len(written[port]) > 0 {
			t.Errorf("port %d is taken, and in haproxy.cfg", port)
		}
	}
	loads = w.loads()
	w.must(free.Close())
	w.served(taken[0])
	w.reloaded(loads, 1, "a port that was taken is free")
	w.flawless(load)
	w.validFile()
}

// named gives an error unless the status names each port that is taken, and by whom.
func (w world) named(ports []int) error {
	s := w.status()
	for _, port := range ports {
		found := false
		for _, p := range s.Problems {
			found = found || p.Subject == fmt.Sprintf("%d/tcp", port) && strings.Contains(p.Reason, "is taken by ")
		}
		if !found {
			return fmt.Errorf("no problem names port %d: %+v", port, s.Problems)
		}
	}
	return nil
}

// listen takes a port as another program would.
func (w world) listen(port int, reuse bool) net.Listener {
	w.Helper()
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		if !reuse {
			return nil
		}
		var err error
		if controlErr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); controlErr != nil {
			return controlErr
		}
		return err
	}}
	l, err := config.Listen(w.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	w.must(err)
	w.Cleanup(func() { _ = l.Close() })
	return l
}

// connectFrom makes a connection that has the port as its own end.
func (w world) connectFrom(port int) {
	w.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	w.Cleanup(func() { _ = l.Close() })
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}}
	conn, err := dialer.DialContext(w.Context(), "tcp", l.Addr().String())
	w.must(err)
	w.Cleanup(func() { _ = conn.Close() })
}

// leaveTimeWait makes a connection to the port that the listening side closes, and leaves its traces only.
func (w world) leaveTimeWait(port int) {
	w.Helper()
	l := w.listen(port, false)
	client, err := net.Dial("tcp", l.Addr().String())
	w.must(err)
	server, err := l.Accept()
	w.must(err)
	w.must(server.Close())
	_, err = client.Read(make([]byte, 1))
	if err == nil {
		w.Fatal("read from a connection that was closed")
	}
	w.must(client.Close())
	w.must(l.Close())
}

// rangeTemplate lets one service listen on a range of ports besides its own. proxymatic cannot prove ranges free.
const rangeTemplate = `global
    stats socket {{.Socket}} mode 600 level admin expose-fd listeners
defaults
    timeout connect 3s
    timeout client 30s
    timeout server 30s
{{range .Services}}{{template "service" .}}{{end}}
{{define "service"}}
listen {{.Name}}
    bind {{.Bind}}
{{- if eq .Port %[1]d}}
    bind 127.0.0.1:%[2]d-%[2]d
{{- end}}
    mode {{.Mode}}
{{- range .Servers}}
    {{.Line}}
{{- end}}
{{end}}
`

// HAProxy resumes every frontend after a reload that failed on a port, those of removed services too.
func TestRemovedServiceIsRefusedAfterAFailedReload(t *testing.T) {
	w := newWorld(t)
	p := w.ports(4)
	other, removed, culprit, taken := p[0], p[1], p[2], p[3]
	template := w.host.Path("haproxy.cfg.tpl")
	w.must(os.WriteFile(template, fmt.Appendf(nil, rangeTemplate, culprit, taken), 0o644))
	w.must(w.site.AddService(other, 2))
	w.must(w.site.AddService(removed, 1))
	w.start("--haproxy-template", template)
	w.site.RemoveService(removed)
	w.refused(removed)
	w.listen(taken, false)

	watch := startWatch(w, other, removed)
	w.must(w.site.AddService(culprit, 1))
	w.must(stage.Until(w.patient(), func() error {
		if d := w.driver("haproxy"); d.Error == "" {
			return fmt.Errorf("no error, though the reload cannot succeed: %+v", d)
		}
		return nil
	}))
	w.site.RemoveService(culprit)
	w.quiet()
	w.refused(removed)
	seen := watch()
	if n := strings.Count(w.host.Log(), fmt.Sprintf(`msg="pause frontend" driver=haproxy service="s%d`, removed)); n < 2 {
		t.Fatal("HAProxy did not resume the removed service, so this test shows nothing")
	}
	t.Logf("others were refused for %s; the removed service was open until %s after that", seen.outage, seen.late)
	if seen.outage == 0 {
		t.Error("the failed reload was not seen from outside, so this test shows nothing")
	}
	if seen.late > 500*time.Millisecond { // some 30 ms on a quiet machine; without the looks that come soon, up to a minute
		t.Errorf("the removed service was open until %s after the failed reload had ended, want at most 500 ms", seen.late)
	}
	w.served(other)
	w.settled()
}

// sighting is what a client sees of a failed reload.
type sighting struct {
	outage time.Duration // how long the other service was refused, from the first time to the last
	late   time.Duration // how long after that the removed service last accepted
}

// startWatch connects to both services again and again until it is asked what it saw.
func startWatch(w world, other, removed int) func() sighting {
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan sighting)
	go func() {
		var first, last, open time.Time
		for ctx.Err() == nil {
			began := time.Now()
			if !accepts(other) {
				if first.IsZero() {
					first = began
				}
				last = time.Now()
			}
			if accepts(removed) {
				open = began
			}
			time.Sleep(time.Millisecond)
		}
		done <- sighting{last.Sub(first), max(0, open.Sub(last))}
	}()
	return func() sighting {
		cancel()
		return <-done
	}
}

func accepts(port int) bool {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent
	return true
}

// One service that nobody here may bind costs the others nothing: HAProxy would end over it.
func TestLowPortWithoutTheRightIsNamed(t *testing.T) {
	if !alone(t) {
		return
	}
	w := newWorld(t)
	w.must(os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("1024"), 0o644))
	w.setpriv()
	ports := w.services(3, 2)
	w.must(w.site.AddService(81, 2))
	w.must(w.host.Start("--marathon", w.site.URL))
	w.served(ports...)
	w.must(stage.Until(w.patient(), func() error {
		s, err := w.host.Status(w.Context())
		if text := fmt.Sprint(s.Problems, s.Drivers); err == nil && !(strings.Contains(text, ":81 ") && strings.Contains(text, "need root or CAP_NET_BIND_SERVICE")) {
			err = fmt.Errorf("the status does not name the port: %s", text)
		}
		return err
	}))
	loads := w.loads()
	load := w.load(ports, 200)
	w.served(w.services(1, 1)...)
	w.must(load.WaitRequests(w.patient(), 100))
	w.flawless(load)
	w.reloaded(loads, 1, "a new service beside the one that cannot be bound")
}
