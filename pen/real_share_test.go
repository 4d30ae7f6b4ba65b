package pen

import (
	"strings"
	"testing"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// The kernel lets two pens of one user have one UDP port, and divides the clients between them.
func TestRealPortIsNotSharedSilently(t *testing.T) {
	first, second := newRig(t, nil), newRig(t, nil)
	s := udp(port(t), echo(t, "a"))
	first.apply(s)
	report, err := second.driver.Apply(t.Context(), []*catalog.Service{s})
	if got := text(report); err != nil || !strings.Contains(got, "is taken by pen (pid") || len(second.pens()) > 0 {
		t.Errorf("second: %s (%v), pens %v", got, err, second.pens())
	}

	// One that comes later, past our look.
	w := command{key: s.Key, bind: second.config.BindAddress, flows: 9}
	if err := second.driver.files.prepare(second.driver.user); err != nil {
		t.Fatal(err)
	}
	if _, err := second.driver.start(w); err != nil {
		t.Fatal(err)
	}
	first.driver.Resync()
	if got := text(first.apply(s)); !strings.Contains(got, "is taken by pen (pid") || !strings.Contains(got, "a part of the clients goes there") {
		t.Errorf("first, with another beside it: %q", got)
	}
	if err := second.driver.Close(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	first.driver.Resync()
	if got := text(first.apply(s)); got != "" {
		t.Errorf("first, alone again: %q", got)
	}
}
