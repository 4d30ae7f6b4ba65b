package marathon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// nameService answers for every host alike, and counts.
type nameService struct {
	addrs []string
	err   error
	hang  bool
	asked atomic.Int32
}

func (n *nameService) lookup(ctx context.Context, _ string) ([]netip.Addr, error) {
	n.asked.Add(1)
	if n.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	var out []netip.Addr
	for _, a := range n.addrs {
		out = append(out, netip.MustParseAddr(a))
	}
	return out, n.err
}

func TestAgentsAddresses(t *testing.T) {
	noSuchHost := &net.DNSError{Err: "no such host", Name: "agent", IsNotFound: true}
	temporary := &net.DNSError{Err: "server misbehaving", Name: "agent", IsTemporary: true}
	type step struct {
		after time.Duration
		says  *nameService
		want  string
		asked int32
	}
	for _, c := range []struct {
		name  string
		host  string
		steps []step
	}{
		{"the lowest IPv4 address, then the same while it is there", "agent", []step{
			{0, &nameService{addrs: []string{"::1", "10.0.0.2", "10.0.0.1"}}, "10.0.0.1", 1},
			{2 * hostFresh, &nameService{addrs: []string{"10.0.0.0", "10.0.0.1"}}, "10.0.0.1", 1},
			{2 * hostFresh, &nameService{addrs: []string{"10.0.0.9"}}, "10.0.0.9", 1},
		}},
		{"IPv6 when there is nothing else", "agent", []step{{0, &nameService{addrs: []string{"2001:db8::2", "0.0.0.0"}}, "2001:db8::2", 1}}},
		{"fresh ones are not asked for again", "agent", []step{
			{0, &nameService{addrs: []string{"10.0.0.1"}}, "10.0.0.1", 1},
			{hostFresh / 2, &nameService{err: temporary}, "10.0.0.1", 0},
		}},
		{"a temporary error keeps the last good address", "agent", []step{
			{0, &nameService{addrs: []string{"10.0.0.1"}}, "10.0.0.1", 1},
			{2 * hostFresh, &nameService{err: temporary}, "10.0.0.1", 1},
			{2 * hostFresh, &nameService{hang: true}, "10.0.0.1", 1},
			{2 * hostFresh, &nameService{addrs: []string{"10.0.0.2"}}, "10.0.0.2", 1},
		}},
		{"no such host loses it", "agent", []step{
			{0, &nameService{addrs: []string{"10.0.0.1"}}, "10.0.0.1", 1},
			{2 * hostFresh, &nameService{err: noSuchHost}, `its host "agent" has no address`, 1},
			{hostRetry / 2, &nameService{addrs: []string{"10.0.0.1"}}, `its host "agent" has no address`, 0},
			{2 * hostRetry, &nameService{addrs: []string{"10.0.0.1"}}, "10.0.0.1", 1},
		}},
		{"an error from the start", "agent", []step{
			{0, &nameService{err: temporary}, `its host "agent" cannot be looked up now: lookup agent: the name server fails`, 1},
			{2 * hostRetry, &nameService{err: errors.New("x")}, `its host "agent" cannot be looked up now: x`, 1},
		}},
		{"what is no host name is not asked for", "a b;\n", []step{{0, &nameService{addrs: []string{"10.0.0.1"}}, `its host "a b;\n" has no address`, 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := resolver{known: make(map[string]knownHost)}
				for i, s := range c.steps {
					time.Sleep(s.after) // synctest's time
					r.lookup = s.says.lookup
					answer := r.resolve(t.Context(), []string{c.host})[c.host]
					got := answer.reason
					if got == "" {
						got = answer.addr.String()
					}
					if got != s.want || s.says.asked.Load() != s.asked {
						t.Fatalf("step %d: got %q after %d lookups, want %q after %d", i, got, s.says.asked.Load(), s.want, s.asked)
					}
				}
			})
		})
	}
}

func TestManySlowNamesTakeOneDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &nameService{hang: true}
		r := resolver{known: make(map[string]knownHost), lookup: slow.lookup}
		var names []string
		for i := range 100 {
			names = append(names, fmt.Sprintf("agent%d", i))
		}
		began := time.Now()
		r.resolve(t.Context(), names)
		if took := time.Since(began); took != hostPatient {
			t.Errorf("100 silent names took %s, want %s", took, hostPatient)
		}
		if r.forget(nil, time.Now().Add(2*hostFresh)); len(r.known) != 0 {
			t.Errorf("%d names that nobody needs are kept", len(r.known))
		}
	})
}
