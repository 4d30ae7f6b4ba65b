package marathon

import (
	"context"
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

	"github.com/meltwater/proxymatic/sources/hostname"
)

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
		{"that none exists is the name server's fault, for ten minutes", []step{
			{0, []string{"h1", "h2"}, names{"h1": "", "h2": ""}, "error its host \"h1\" has no address"},
			{9 * time.Minute, []string{"h1", "h2"}, names{"h1": "", "h2": ""}, "error its host \"h1\" has no address"},
			{time.Minute, []string{"h1", "h2"}, names{"h1": "", "h2": ""}, head + "! on-h1: port 0 of the task is left out: its host \"h1\" has no address\n" +
				"! on-h2: port 0 of the task is left out: its host \"h2\" has no address\n"},
		}},
		{"later a new name costs its task alone", []step{
			{0, []string{"h1"}, known, head + one},
			{2 * hostname.Fresh, []string{"h1", "h3"}, nil, head + one + left("h3")},
		}},
		{"a few names cannot hold up the others for ever", []step{
			{0, []string{"h1", "h2", "h3"}, names{"h1": "10.0.0.1", "h3": ""}, failed("h2")},
			{time.Minute, []string{"h1", "h2", "h3"}, names{"h1": "10.0.0.1", "h3": "10.0.0.1"}, head + one + left("h2")},
		}},
		{"half of the names can", []step{
			{0, []string{"h1", "h2"}, known, failed("h2")},
			{time.Minute, []string{"h1", "h2"}, known, failed("h2")},
		}},
		{"an address outlives a list without its task", []step{
			{0, []string{"h1"}, known, head + one},
			{2 * hostname.Fresh, nil, nil, head},
			{time.Second, []string{"h1"}, nil, head + one},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := mustNew(t, "http://m1")
				var now names
				source.config.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) { return now.lookup(ctx, host) }
				r := source.reader()
				for i, s := range c.steps {
					time.Sleep(s.after) // synctest's time
					source.client.http.Transport = fixed(onAgents(s.agents...))
					now = s.addr
					if got := readText(t, r); got != s.want {
						t.Fatalf("step %d:\n got %s\nwant %s", i, got, s.want)
					}
				}
			})
		})
	}
}

// A name server fails just when a task comes to a host of which nothing is known.
func TestWhatCannotBeResolvedIsAskedForAgain(t *testing.T) {
	app := `{"id":"/a","version":"v1","ports":[8300],"tasks":[{"id":"a.u1","host":"10.0.0.1","ports":[31000],"version":"v1"}%s]}`
	var fails atomic.Bool
	fails.Store(true)
	resolve := func(context.Context, string) ([]netip.Addr, error) {
		if fails.Load() {
			return nil, &net.DNSError{Err: "server misbehaving", IsTemporary: true}
		}
		return []netip.Addr{netip.MustParseAddr("10.0.0.2")}, nil
	}
	s := &farm{apps: map[string]func() string{}}
	s.json("/a", fmt.Sprintf(app, ""))
	runFarm(t, s, Config{Resolve: resolve}, func(serving func() string) {
		time.Sleep(time.Second) // synctest's time
		s.json("/a", fmt.Sprintf(app, `,{"id":"a.u2","host":"h2","ports":[31000],"version":"v1"}`))
		s.send(`{"eventType":"status_update_event","appId":"/a","taskId":"a.u2","taskStatus":"TASK_RUNNING","host":"h2","ports":[31000],"version":"v1"}`)
		time.Sleep(2 * time.Second)
		if got := serving(); strings.Contains(got, "10.0.0.2") {
			t.Errorf("while the name server fails:\n%s", got)
		}
		fails.Store(false)
		time.Sleep(2 * hostname.Retry)
		if got := serving(); !strings.Contains(got, "10.0.0.2") {
			t.Errorf("%s after the name server answers again:\n%s", 2*hostname.Retry, got)
		}
	})
}

// fixed is a Marathon that gives one answer to everything.
type fixed string

func (f fixed) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{Request: req, StatusCode: 200, Body: io.NopCloser(strings.NewReader(string(f)))}, nil
}

// readText reads once and gives what came of it as text.
func readText(t *testing.T, r *reader) string {
	t.Helper()
	got, err := r.all(t.Context(), 0)
	if err != nil {
		return "error " + err.Error()
	}
	f, _ := newFleet(Name, 1).renewed(got, time.Now())
	return canonical(f.board.all(), f.problems())
}
