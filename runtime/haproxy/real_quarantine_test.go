package haproxy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// pickyRig has a template that makes HAProxy refuse services of mode http until a file is there.
func pickyRig(t *testing.T) (h *rig, page string) {
	page = filepath.Join(t.TempDir(), "page.http")
	h = newRig(t, func(c *Config) {
		c.TemplateFile = writeTemplate(t, "{{if .HTTP}}    errorfile 503 "+page+"\n{{end}}", "")
	})
	return h, page
}

func httpService(s *catalog.Service) *catalog.Service {
	other := *s
	other.Mode = catalog.ModeHTTP
	return &other
}

// later gives a function that lets time pass.
func later(h *rig) func(time.Duration) {
	var passed time.Duration
	h.driver.now = func() time.Time { return time.Now().Add(passed) }
	return func(t time.Duration) { passed += t }
}

// A service that HAProxy refuses costs nobody else anything: in the same pass the others are loaded without it.
func TestRealRefusedServiceIsLeftOut(t *testing.T) {
	h, page := pickyRig(t)
	p := freePorts(t, 3)
	a, b, c := service(p[0], backend(t, "a")), service(p[1], backend(t, "b")), service(p[2], backend(t, "c"))
	h.apply([]*catalog.Service{a})
	later := later(h)
	later(time.Minute)
	want := []*catalog.Service{a, httpService(b), c}
	catalog.Sort(want)
	r := h.apply(want)
	if len(r.Reloads) != 1 || !hasProblem(r, b.Title(), "errorfile 503") || len(r.Problems) != 1 {
		t.Fatalf("reloads %q, problems %+v, want one of each", r.Reloads, r.Problems)
	}
	mustAnswer(t, p[0], "a")
	mustAnswer(t, p[2], "c")
	h.mustBeSettled(want)

	pid := h.driver.last.pid
	later(refusedFirst)
	if r = h.apply(want); len(r.Reloads) != 0 || !hasProblem(r, b.Title(), "errorfile 503") || h.driver.last.pid != pid {
		t.Fatalf("tried again: reloads %q, problems %+v, want no reload", r.Reloads, r.Problems)
	}
	if q := h.driver.refused[b.Key]; q == nil || q.delay != 2*refusedFirst {
		t.Fatalf("refused %+v, want a longer pause", q)
	}
	if err := os.WriteFile(page, []byte("HTTP/1.0 503 no\r\n\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r = h.apply(want); len(r.Reloads) != 0 {
		t.Fatalf("tried before its time: %q", r.Reloads)
	}
	later(2 * refusedFirst)
	if r = h.apply(want); len(r.Reloads) != 1 || len(r.Problems) != 0 {
		t.Fatalf("reloads %q, problems %+v, want the service to be back", r.Reloads, r.Problems)
	}
	h.mustBeSettled(want)
}

// One that is changed so that HAProxy accepts it is loaded at once.
func TestRealRefusedServiceThatChangesIsTriedAtOnce(t *testing.T) {
	h, _ := pickyRig(t)
	p := freePorts(t, 2)
	a, b := service(p[0], backend(t, "a")), service(p[1], backend(t, "b"))
	want := []*catalog.Service{a, httpService(b)}
	catalog.Sort(want)
	if r := h.apply(want); !hasProblem(r, b.Title(), "left out") { // at the first start, too
		t.Fatalf("problems %+v", r.Problems)
	}
	mustAnswer(t, p[0], "a")
	waitLoad(h)
	want = []*catalog.Service{a, b}
	catalog.Sort(want)
	if r := h.apply(want); len(r.Problems) != 0 {
		t.Errorf("problems %+v", r.Problems)
	}
	mustAnswer(t, p[1], "b")
	if len(h.driver.refused) != 0 {
		t.Errorf("not forgotten: %+v", h.driver.refused)
	}
}

// One that runs goes on as it was, with the servers of now, and is found again by a driver without a memory.
func TestRealRefusedChangeOfARunningServiceIsNotMade(t *testing.T) {
	h, _ := pickyRig(t)
	p := freePorts(t, 2)
	a, b := backend(t, "a"), backend(t, "b")
	h.apply([]*catalog.Service{service(p[0], a), service(p[1], a)}[:1])
	waitLoad(h)
	want := []*catalog.Service{httpService(service(p[0], b)), service(p[1], a)}
	catalog.Sort(want)
	for range 2 {
		r := h.apply(want)
		if len(r.Problems) != 1 || !hasProblem(r, want[0].Title(), "goes on as it was") {
			t.Fatalf("problems %+v", r.Problems)
		}
		mustAnswer(t, p[0], "b")
		mustAnswer(t, p[1], "a")
		h.mustBeSettled(want)
		h.restart()
		waitLoad(h)
	}
	h.apply(want)
	want = []*catalog.Service{httpService(service(p[0], a)), want[1]} // another server of the refused form
	r := h.apply(want)
	mustAnswer(t, p[0], "a")
	if len(r.Reloads) != 0 || len(r.Changes) != 2 {
		t.Errorf("changes %+v", r.Changes)
	}
	h.mustBeSettled(want)
}

// What cannot be kept as it was is not taken away: others wait.
func TestRealRunningServiceThatIsRefusedAsItIsGoesOn(t *testing.T) {
	h, page := pickyRig(t)
	p := freePorts(t, 2)
	if err := os.WriteFile(page, []byte("HTTP/1.0 503 no\r\n\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := httpService(service(p[0], backend(t, "a")))
	h.apply([]*catalog.Service{a})
	pid := h.driver.last.pid
	if err := os.Remove(page); err != nil {
		t.Fatal(err)
	}
	waitLoad(h)
	want := []*catalog.Service{a, service(p[1], backend(t, "b"))}
	catalog.Sort(want)
	_, err := h.driver.Apply(t.Context(), want)
	if err == nil || !strings.Contains(err.Error(), a.Title()+", which runs") {
		t.Errorf("error %v, want one that names the service", err)
	}
	if _, err := ask(p[0]); errors.Is(err, syscall.ECONNREFUSED) || h.driver.last.pid != pid {
		t.Errorf("the running service is gone: %v", err)
	}
}

// Where HAProxy's words name no line, halves of what is new are left out to find the culprit.
func TestRealRefusedServiceIsFoundByHalves(t *testing.T) {
	h, _ := pickyRig(t)
	p := freePorts(t, 16)
	a := backend(t, "a")
	want := []*catalog.Service{service(p[0], a)}
	h.apply(want)
	checks := 0
	h.driver.check = func(ctx context.Context, path string) error {
		checks++
		if err := checkConfig(ctx, path); err != nil {
			return &refusedError{"haproxy refuses " + path, "[ALERT] something is wrong"}
		}
		return nil
	}
	for _, port := range p[1:] {
		want = append(want, service(port, a))
	}
	catalog.Sort(want)
	want[9] = httpService(want[9])
	waitLoad(h)
	r := h.apply(want)
	if len(r.Problems) != 1 || !hasProblem(r, want[9].Title(), "something is wrong") {
		t.Errorf("problems %+v", r.Problems)
	}
	if checks > 13 { // 1 finds that it is refused, 2 with all and with none, 2 for each halving, 1 for the proof
		t.Errorf("%d checks for 15 services", checks)
	}
	mustAnswer(t, p[15], "a")
	h.mustBeSettled(want)
}

// counting counts commands that begin with a word.
type counting struct {
	cli
	word string
	n    int
}

func (c *counting) do(ctx context.Context, commands []string) ([]string, error) {
	for _, command := range commands {
		if strings.HasPrefix(command, c.word) {
			c.n++
		}
	}
	return c.cli.do(ctx, commands)
}

// A server whose command HAProxy refuses fails nobody's pass and is not sent again and again.
func TestRealRefusedCommandWaitsByItself(t *testing.T) {
	h := newRig(t, func(c *Config) {
		c.TemplateFile = writeTemplate(t, "", "{{if .Check}} ssl verify required ca-file /no/such/file{{end}}")
	})
	p := freePorts(t, 2)
	a, b := backend(t, "a"), backend(t, "b")
	want := []*catalog.Service{service(p[0], a), service(p[1], a)}
	catalog.Sort(want)
	h.apply(want)
	needAdds(t, h)
	later := later(h)
	adds := &counting{cli: h.driver.cli, word: "add server"}
	h.driver.cli = adds
	bad := service(want[0].Port, a, b)
	for i := range bad.Servers {
		bad.Servers[i].Check = bad.Servers[i].Addr == b
	}
	want = []*catalog.Service{bad, want[1]}
	r := h.apply(want)
	if len(r.Problems) != 1 || !hasProblem(r, title(listenName(bad), bad.Key), "/no/such/file") {
		t.Fatalf("problems %+v", r.Problems)
	}
	adds.n = 0
	want = []*catalog.Service{bad, service(want[1].Port, b)}
	if r = h.apply(want); len(r.Changes) != 2 || adds.n != 1 || len(r.Problems) != 1 {
		t.Errorf("another service: changes %+v, %d servers added, problems %+v", r.Changes, adds.n, r.Problems)
	}
	mustAnswer(t, want[1].Port, "b")
	h.mustBeSettled(want)
	if wait := <-h.driver.alarm; wait > balkFirst {
		t.Errorf("the next try is in %s, want at most %s", wait, balkFirst)
	}
	later(balkFirst)
	adds.n = 0
	if h.apply(want); adds.n == 0 || h.driver.balks[onlyKey(h.driver.balks)].delay != 2*balkFirst {
		t.Errorf("%d tries after the pause; waiting %+v", adds.n, h.driver.balks)
	}
	want = []*catalog.Service{service(bad.Port, a), want[1]}
	if r = h.apply(want); len(r.Problems) != 0 || len(h.driver.balks) != 0 {
		t.Errorf("problems %+v after the server is gone", r.Problems)
	}
	h.mustBeSettled(want)
}

func onlyKey[V any](m map[string]V) string {
	for key := range m {
		return key
	}
	return ""
}
