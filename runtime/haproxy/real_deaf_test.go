package haproxy

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// An HAProxy without a stats socket listens beside the one that was to replace it, when proxymatic ended in between.
func TestRealDeafHAProxyThatWasLeftBehindEnds(t *testing.T) {
	h := newRig(t, nil)
	p := freePorts(t, 1)
	a, b := backend(t, "a"), backend(t, "b")
	h.apply([]*catalog.Service{service(p[0], a)})
	old := h.driver.last.pid
	if err := os.Remove(h.config.Socket); err != nil {
		t.Fatal(err)
	}
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.driver.process.start(cut); !errors.Is(err, context.Canceled) {
		t.Fatalf("the start gave %v, want that it was interrupted", err)
	}
	for answers := false; !answers; {
		_, err := h.driver.cli.do(t.Context(), []string{"show info"})
		answers = err == nil
		sleep(t.Context(), 10*time.Millisecond)
	}
	h.restart()
	want := []*catalog.Service{service(p[0], b)}
	h.apply(want)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := host.WaitExit(ctx, old); err != nil {
		t.Fatalf("the old worker %d goes on: %v", old, err)
	}
	for range 20 {
		mustAnswer(t, p[0], "b")
	}
	h.mustBeSettled(want)
}
