package pen

import (
	"strings"
	"testing"
)

func TestRealPenRunsAsItsUser(t *testing.T) {
	needRoot(t)
	for user, uid := range map[string]int{"nobody": 65534, "root": 0} {
		r := newRig(t, func(c *Config) { c.User = user })
		s := udp(port(t), echo(t, "a"))
		r.apply(s)
		if got := r.pens()[s.Key]; got.uid != uid || dial(t, s.Port).ask() != "a" {
			t.Errorf("--pen-user %s: runs as %d", user, got.uid)
		}
	}
	r := newRig(t, func(c *Config) { c.User = "no-such-user" })
	report := r.apply(udp(port(t), echo(t, "a")))
	if got := text(report); !strings.HasPrefix(got, "start pen, problem: pen runs as nobody, since the user no-such-user does not exist") {
		t.Errorf("got %s", got)
	}
}

// The kernel gives no datagram to a second pen of another user, so the first must go before.
func TestRealPenOfAnotherUserIsReplaced(t *testing.T) {
	needRoot(t)
	r := newRig(t, func(c *Config) { c.User = "root" })
	s := udp(port(t), echo(t, "a"))
	r.apply(s)
	r.config.User = "nobody"
	r.restart()
	if got := text(r.apply(s)); got != "replace pen" || r.pens()[s.Key].uid != 65534 || dial(t, s.Port).ask() != "a" {
		t.Errorf("got %s, %v", got, r.pens())
	}
}
