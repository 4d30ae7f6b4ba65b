package pen

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// happen lets others than the driver do something, unseen.
func (s *realStory) happen() {
	for range 1 + s.IntN(2) {
		pens := s.running()
		switch n := s.IntN(16); {
		case n < 3 && len(pens) > 0:
			s.kill(pick(s.dice, pens), pick(s.dice, []syscall.Signal{syscall.SIGKILL, syscall.SIGKILL, syscall.SIGTERM}))
		case n == 3 && len(pens) > 0 && s.one(4):
			p := pick(s.dice, pens)
			s.struck("stopped", p)
			_ = syscall.Kill(p.pid, syscall.SIGSTOP)
		case n < 6:
			s.struck("driver forgotten", "")
			s.forget()
		case n < 9 && len(pens) > 0:
			s.meddle(pick(s.dice, pens))
		case n < 11:
			s.loseFiles()
		case n == 11:
			s.reconfigure()
		case n == 12:
			s.stray()
		case n == 13:
			s.struck("hours", "")
			s.ahead += time.Hour
		}
	}
}

func (s *realStory) kill(p process, signal syscall.Signal) {
	s.struck("killed", p)
	_ = syscall.Kill(p.pid, signal)
	_ = syscall.Kill(p.pid, syscall.SIGCONT) // it may be stopped
	if err := host.WaitExit(s.t.Context(), p.pid); err != nil {
		s.t.Fatal(err)
	}
	if c := s.driver.children[p.pid]; c != nil {
		<-c.done // so that the driver knows
	}
}

// meddle changes a pen's table through its socket.
func (s *realStory) meddle(p process) {
	address := fmt.Sprintf("address %s port %d", s.foreign.addr.Addr(), s.foreign.addr.Port())
	command := pick(s.dice, []string{"server 1 " + address, "server 2 " + address, "server 0 " + address, "server 9 " + address,
		"server 1 address 0.0.0.0 port 0", "server 2 address 0.0.0.0 port 0", "server 40 address 0.0.0.0 port 0"})
	s.struck("meddled", fmt.Sprint(p, " ", command))
	_, _, _ = control{p.socket}.ask(s.t.Context(), command)
}

func (s *realStory) loseFiles() {
	for _, pattern := range []string{s.driver.files.dir() + "/*-*", s.driver.files.own() + "/*-*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, path := range found {
			if s.one(3) {
				s.struck("files lost", filepath.Base(path))
				_ = os.Remove(path)
			}
		}
	}
}

// reconfigure restarts the driver with other parameters.
func (s *realStory) reconfigure() {
	if os.Getuid() == 0 && s.one(2) {
		s.config.User = pick(s.dice, []string{"nobody", "root"})
	} else {
		s.config.Clients = pick(s.dice, []int{256, 300})
	}
	s.struck("reconfigured", fmt.Sprint(s.config.User, " ", s.config.Clients))
	s.forget()
}

// stray starts a pen that nobody has asked for.
func (s *realStory) stray() {
	other, err := New(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	if other.user, err = findIdentity(s.config.User); err != nil {
		s.t.Fatal(err)
	}
	if err := other.files.prepare(other.user); err != nil {
		s.t.Fatal(err)
	}
	c := command{key: pick(s.dice, s.keys), bind: s.config.BindAddress, flows: 99, asRoot: other.user.uid == 0}
	_, err = other.start(c) // which a pen of another user on the port prevents
	s.struck("strays", fmt.Sprint(c.key, " ", err))
}

// disturbed makes a pass in which something goes wrong.
func (s *realStory) disturbed() {
	s.driver.Resync()
	if s.one(2) {
		s.robbed()
		return
	}
	ctx, end := context.WithCancel(s.t.Context())
	defer end()
	c := &interrupted{Context: ctx, end: end}
	c.left.Store(int64(1 + s.IntN(40)))
	s.cut = true
	r, err := s.driver.Apply(c, s.want())
	s.struck("interrupted", fmt.Sprint(text(r), " ", err))
	if s.one(2) {
		s.forget()
	}
}

// robbed makes a pass while another process has the port of a service.
func (s *realStory) robbed() {
	key := pick(s.dice, s.keys)
	for _, p := range s.running() {
		if p.key == key {
			s.kill(p, syscall.SIGKILL)
		}
	}
	address := fmt.Sprintf("127.0.0.1:%d", key.Port)
	thief, err := listen(key.Proto, address)
	if err != nil {
		s.t.Fatal(err)
	}
	defer thief.Close()
	r, err := s.driver.Apply(s.t.Context(), s.want())
	s.struck("robbed", fmt.Sprint(key, " ", text(r), " ", err))
	w, wanted := s.next[key]
	named := wanted && slices.ContainsFunc(r.Problems, func(p catalog.Problem) bool {
		return p.Subject == w.Title() && strings.Contains(p.Reason, "is taken by pen.test")
	})
	waits := s.driver.failure(key).count > 1 // it failed before, so it was not tried
	if wanted && !named && !waits || len(s.running()) > len(s.next) {
		s.t.Errorf("port %s was taken: %+v\n%s", key, r, strings.Join(s.history, "\n"))
	}
}

func listen(proto catalog.Proto, address string) (io.Closer, error) {
	if proto == catalog.UDP {
		return net.ListenPacket("udp4", address)
	}
	return net.Listen("tcp4", address)
}

// come lets clients of UDP services arrive and stay, and old ones leave.
func (s *realStory) come() {
	for _, w := range s.want() {
		if w.Proto != catalog.UDP || len(w.Servers) == 0 || s.one(3) {
			continue
		}
		c, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", w.Port))
		if err != nil {
			s.t.Fatal(err)
		}
		h := &holder{Conn: c, key: w.Key, name: c.LocalAddr().String()}
		h.send()
		h.heard(1, time.Now().Add(20*time.Millisecond))
		s.holders = append(s.holders, h)
	}
	for len(s.holders) > 10 {
		_ = s.holders[0].Close()
		s.holders = s.holders[1:]
	}
}
