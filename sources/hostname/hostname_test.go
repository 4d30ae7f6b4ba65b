package hostname

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
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

func TestAddresses(t *testing.T) {
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
			{2 * Fresh, &nameService{addrs: []string{"10.0.0.0", "10.0.0.1"}}, "10.0.0.1", 1},
			{2 * Fresh, &nameService{addrs: []string{"10.0.0.9"}}, "10.0.0.9", 1},
		}},
		{"IPv6 when there is nothing else", "agent", []step{{0, &nameService{addrs: []string{"2001:db8::2", "0.0.0.0"}}, "2001:db8::2", 1}}},
		{"fresh ones are not asked for again", "agent", []step{
			{0, &nameService{addrs: []string{"10.0.0.1"}}, "10.0.0.1", 1},
			{Fresh / 2, &nameService{err: temporary}, "10.0.0.1", 0},
		}},
		{"a temporary error keeps the last good address", "agent", []step{
			{0, &nameService{addrs: []string{"10.0.0.1"}}, "10.0.0.1", 1},
			{2 * Fresh, &nameService{err: temporary}, "10.0.0.1", 1},
			{2 * Fresh, &nameService{hang: true}, "10.0.0.1", 1},
			{2 * Fresh, &nameService{addrs: []string{"10.0.0.2"}}, "10.0.0.2", 1},
		}},
		{"no such host loses it in the end", "agent", []step{
			{0, &nameService{addrs: []string{"10.0.0.1"}}, "10.0.0.1", 1},
			{2 * Fresh, &nameService{err: noSuchHost}, "10.0.0.1", 1},
			{doubted / 2, &nameService{err: noSuchHost}, "10.0.0.1", 1},
			{doubted / 2, &nameService{err: noSuchHost}, `its host "agent" has no address`, 1},
			{Retry / 2, &nameService{addrs: []string{"10.0.0.1"}}, `its host "agent" has no address`, 0},
			{2 * Retry, &nameService{addrs: []string{"10.0.0.1"}}, "10.0.0.1", 1},
		}},
		{"an error ends the doubt", "agent", []step{
			{0, &nameService{addrs: []string{"10.0.0.1"}}, "10.0.0.1", 1},
			{2 * Fresh, &nameService{err: noSuchHost}, "10.0.0.1", 1},
			{doubted / 2, &nameService{err: temporary}, "10.0.0.1", 1},
			{doubted / 2, &nameService{err: noSuchHost}, "10.0.0.1", 1},
		}},
		{"so does that nobody asked", "agent", []step{
			{0, &nameService{addrs: []string{"10.0.0.1"}}, "10.0.0.1", 1},
			{2 * Fresh, &nameService{err: noSuchHost}, "10.0.0.1", 1},
			{doubted, &nameService{err: noSuchHost}, "10.0.0.1", 1},
		}},
		{"an address ends the doubt", "agent", []step{
			{0, &nameService{addrs: []string{"10.0.0.1"}}, "10.0.0.1", 1},
			{2 * Fresh, &nameService{err: noSuchHost}, "10.0.0.1", 1},
			{Fresh, &nameService{addrs: []string{"10.0.0.1"}}, "10.0.0.1", 1},
			{doubted, &nameService{err: noSuchHost}, "10.0.0.1", 1},
		}},
		{"an error from the start", "agent", []step{
			{0, &nameService{err: temporary}, `host "agent" cannot be resolved now: lookup agent: the name server fails`, 1},
			{Retry / 2, &nameService{addrs: []string{"10.0.0.1"}}, `host "agent" cannot be resolved now: lookup agent: the name server fails`, 0},
			{2 * Retry, &nameService{err: errors.New("x")}, `host "agent" cannot be resolved now: x`, 1},
		}},
		{"what is no host name is not asked for", "a b;\n", []step{{0, &nameService{addrs: []string{"10.0.0.1"}}, `its host "a b;\n" has no address`, 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := Resolver{known: make(map[string]knownHost), settled: true}
				for i, s := range c.steps {
					time.Sleep(s.after) // synctest's time
					r.lookup = s.says.lookup
					answer := r.Resolve(t.Context(), []string{c.host})[c.host]
					got := answer.Reason
					if got == "" {
						got = answer.Addr.String()
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
	for settled, want := range map[bool]time.Duration{false: firstPatient, true: patient} {
		synctest.Test(t, func(t *testing.T) {
			slow := &nameService{hang: true}
			r := Resolver{known: make(map[string]knownHost), lookup: slow.lookup, settled: settled}
			var names []string
			for i := range 100 {
				names = append(names, fmt.Sprintf("agent%d", i))
			}
			began := time.Now()
			r.Resolve(t.Context(), names)
			if took := time.Since(began); took != want {
				t.Errorf("settled %v: 100 silent names took %s, want %s", settled, took, want)
			}
			if r.forget(nil, time.Now().Add(Fresh)); len(r.known) != 100 {
				t.Errorf("%d names are kept after a moment, want all", len(r.known))
			}
			if r.forget(nil, time.Now().Add(Fresh+remembered)); len(r.known) != 0 {
				t.Errorf("%d names that nobody needs are kept", len(r.known))
			}
		})
	}
}

func TestOneTroubleHasOneText(t *testing.T) {
	op := func(port int) error {
		return &url.Error{Op: "Get", URL: "http://m", Err: &net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port},
			Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}, Err: errors.New("connection reset by peer")}}
	}
	if a, b := Reason(op(40000)), Reason(op(40001)); a != b || a != "read tcp 127.0.0.1:8080: connection reset by peer" {
		t.Errorf("got %q and %q", a, b)
	}
	dns := &net.DNSError{Err: "read udp 127.0.0.1:40000->127.0.0.53:53: i/o timeout", Name: "m", IsTimeout: true}
	if got := Reason(fmt.Errorf("dial: %w", dns)); got != "lookup m: no answer in time" {
		t.Errorf("got %q", got)
	}
}
