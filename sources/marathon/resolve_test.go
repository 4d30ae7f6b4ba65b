package marathon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
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
			{0, &nameService{err: temporary}, `host "agent" cannot be resolved now: lookup agent: the name server fails`, 1},
			{hostRetry / 2, &nameService{addrs: []string{"10.0.0.1"}}, `host "agent" cannot be resolved now: lookup agent: the name server fails`, 0},
			{2 * hostRetry, &nameService{err: errors.New("x")}, `host "agent" cannot be resolved now: x`, 1},
		}},
		{"what is no host name is not asked for", "a b;\n", []step{{0, &nameService{addrs: []string{"10.0.0.1"}}, `its host "a b;\n" has no address`, 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := resolver{known: make(map[string]knownHost), settled: true}
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
	for settled, want := range map[bool]time.Duration{false: hostFirstPatient, true: hostPatient} {
		synctest.Test(t, func(t *testing.T) {
			slow := &nameService{hang: true}
			r := resolver{known: make(map[string]knownHost), lookup: slow.lookup, settled: settled}
			var names []string
			for i := range 100 {
				names = append(names, fmt.Sprintf("agent%d", i))
			}
			began := time.Now()
			r.resolve(t.Context(), names)
			if took := time.Since(began); took != want {
				t.Errorf("settled %v: 100 silent names took %s, want %s", settled, took, want)
			}
			if r.forget(nil, time.Now().Add(hostFresh)); len(r.known) != 100 {
				t.Errorf("%d names are kept after a moment, want all", len(r.known))
			}
			if r.forget(nil, time.Now().Add(hostFresh+remembered)); len(r.known) != 0 {
				t.Errorf("%d names that nobody needs are kept", len(r.known))
			}
		})
	}
}

// names are hosts and their addresses, "" being no such host. The others cannot be resolved now.
type names map[string]string

func (n names) lookup(_ context.Context, host string) ([]netip.Addr, error) {
	switch addr, ok := n[host]; {
	case !ok:
		return nil, &net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true}
	case addr == "":
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	default:
		return []netip.Addr{netip.MustParseAddr(addr)}, nil
	}
}

// onAgents is an app with a task on each agent.
func onAgents(agents ...string) string {
	var tasks []string
	for _, host := range agents {
		tasks = append(tasks, fmt.Sprintf(`{"id":"on-%s","host":%q,"ports":[31000],"version":"v1"}`, host, host))
	}
	return `{"apps":[{"id":"/a","version":"v1","ports":[8300],"tasks":[` + strings.Join(tasks, ",") + `]}]}`
}

func TestTheFirstReadingWaitsForNamesThatCannotBeResolvedNow(t *testing.T) {
	const late = `host %q cannot be resolved now: lookup %s: the name server fails`
	type step struct {
		after  time.Duration
		agents []string
		addr   names
		want   string
	}
	const head, one = "8300/tcp a mode=tcp source=marathon\n", "  10.0.0.1:31000 check on-host\n"
	known := names{"h1": "10.0.0.1"}
	failed := func(host string) string { return "error " + fmt.Sprintf(late, host, host) }
	left := func(host string) string {
		return "! on-" + host + ": port 0 of the task is left out: " + fmt.Sprintf(late, host, host) + "\n"
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"an error until it can", []step{
			{0, []string{"h1", "h2"}, nil, failed("h1")},
			{time.Second, []string{"h1", "h2"}, known, failed("h2")},
			{time.Second, []string{"h1", "h2"}, names{"h1": "10.0.0.1", "h2": "10.0.0.2"}, head + one + "  10.0.0.2:31000 check on-host\n"},
		}},
		{"a name that does not exist is no reason to wait", []step{
			{0, []string{"h1", "h2"}, names{"h1": "10.0.0.1", "h2": ""}, head + one + "! on-h2: port 0 of the task is left out: its host \"h2\" has no address\n"},
		}},
		{"later a new name costs its task alone", []step{
			{0, []string{"h1"}, known, head + one},
			{2 * hostFresh, []string{"h1", "h3"}, nil, head + one + left("h3")},
		}},
		{"a few names cannot hold up the others for ever", []step{
			{0, []string{"h1", "h2", "h3"}, names{"h1": "10.0.0.1", "h3": ""}, failed("h2")},
			{hostStrict, []string{"h1", "h2", "h3"}, names{"h1": "10.0.0.1", "h3": "10.0.0.1"}, head + one + left("h2")},
		}},
		{"half of the names can", []step{
			{0, []string{"h1", "h2"}, known, failed("h2")},
			{hostStrict, []string{"h1", "h2"}, known, failed("h2")},
		}},
		{"an address outlives a list without its task", []step{
			{0, []string{"h1"}, known, head + one},
			{2 * hostFresh, nil, nil, head},
			{time.Second, []string{"h1"}, nil, head + one},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := mustNew(t, "http://m1")
				r := source.reader()
				for i, s := range c.steps {
					time.Sleep(s.after) // synctest's time
					source.client.http.Transport = fixed(onAgents(s.agents...))
					r.hosts.lookup = s.addr.lookup
					if got := readText(t, r); got != s.want {
						t.Fatalf("step %d:\n got %s\nwant %s", i, got, s.want)
					}
				}
			})
		})
	}
}

// fixed is a Marathon that gives one answer to everything.
type fixed string

func (f fixed) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(string(f)))}, nil
}

// readText reads once and gives what came of it as text.
func readText(t *testing.T, r *reader) string {
	t.Helper()
	got, err := r.read(t.Context(), 0)
	if err != nil {
		return "error " + err.Error()
	}
	return canonical(got.snapshot.Services, got.snapshot.Problems)
}
