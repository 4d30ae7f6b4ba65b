package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

// rarely is a refresh interval that explains nothing which a test sees.
const rarely = "3600"

// callbackWorld is a world with a Marathon of another release, and the URL that this posts to.
type callbackWorld struct {
	world
	url  string
	port int
}

func newCallbackWorld(t *testing.T, gen fakemarathon.Generation) callbackWorld {
	t.Helper()
	w := newWorld(t)
	site, err := stage.NewSite(gen)
	w.must(err)
	w.Cleanup(site.Close)
	w.site = site
	port := w.ports(1)[0]
	return callbackWorld{w, fmt.Sprintf("http://127.0.0.1:%d/events", port), port}
}

// begin starts proxymatic with the callback URL.
func (w callbackWorld) begin(interval string, more ...string) {
	w.Helper()
	w.start(append([]string{"--marathon-callback", w.url, "--refresh-interval", interval}, more...)...)
}

// subscribed waits until the URL is the one subscriber, and no stream is open.
func (w callbackWorld) subscribed() {
	w.Helper()
	w.must(stage.Until(w.patient(), func() error {
		if got := w.site.Marathon.Callbacks(); !slices.Equal(got, []string{w.url}) || w.site.Marathon.Streams() != 0 {
			return fmt.Errorf("subscribers %q and %d streams, want %s and none", got, w.site.Marathon.Streams(), w.url)
		}
		return nil
	}))
}

// follows changes tasks and waits until each change is served.
func (w callbackWorld) follows(port int) {
	w.Helper()
	task, err := w.site.AddTask(port)
	w.must(err)
	w.settled()
	w.served(port)
	w.site.RemoveTask(task, patience)
	w.settled()
}

// complains waits until the status has a problem with a text, or with an empty one that callbacks have no problem.
func (w callbackWorld) complains(text string) {
	w.Helper()
	w.must(stage.Until(w.patient(), func() error {
		for _, p := range w.status().Problems {
			if p.Subject == "callbacks" {
				if text == "" || !strings.Contains(p.Reason, text) {
					return fmt.Errorf("a problem: %s, want %q", p.Reason, text)
				}
				return nil
			}
		}
		if text != "" {
			return errors.New("no problem of callbacks, want " + text)
		}
		return nil
	}))
}

func TestCallbacksBringChangesWithoutAStream(t *testing.T) {
	for _, gen := range []fakemarathon.Generation{"0.8", fakemarathon.GenA, "1.3"} {
		t.Run(string(gen), func(t *testing.T) {
			w := newCallbackWorld(t, gen)
			ports := w.services(3, 2)
			w.begin(rarely)
			w.subscribed()
			load := stage.StartLoad(ports[:2], 200, func(port int, name string, began, ended time.Time) string {
				return w.site.Judge(port, name, began, ended, patience) // nothing that is removed here hangs
			})
			for _, port := range ports {
				w.follows(port)
			}
			w.served(w.services(2, 1)...)
			w.site.RemoveService(ports[2])
			w.held(2) // nobody but the list says that it is gone
			if out := w.command("ack"); out.Code != 0 {
				t.Errorf("ack: %+v", out)
			}
			w.settled()
			w.refused(ports[2])
			w.flawless(load)
			if n := w.site.Marathon.Requests()["GET /v2/events"]; n != 0 {
				t.Errorf("%d streams were asked for", n)
			}
			w.complains("")
			w.end(syscall.SIGTERM)
			if got := w.site.Marathon.Callbacks(); len(got) != 0 {
				t.Errorf("subscribers after the end: %q", got)
			}
		})
	}
}

// Marathon skips a subscriber that was dead for minutes, which a new proxymatic must not inherit.
func TestCallbacksAfterProxymaticRestarts(t *testing.T) {
	w := newCallbackWorld(t, "0.15")
	ports := w.services(2, 2)
	w.begin(rarely)
	w.subscribed()
	w.host.Kill()
	for range 9 { // posted at the same time: the URL is skipped for minutes then
		w.site.Marathon.Emit("api_post_event", nil)
	}
	w.must(stage.Until(w.patient(), func() error {
		if !w.site.Marathon.SkipsCallback(w.url) {
			return errors.New("the dead subscriber is not skipped")
		}
		return nil
	}))
	task, err := w.site.AddTask(ports[0])
	w.must(err)
	w.begin(rarely) // and it sees what happened meanwhile
	w.subscribed()
	w.site.RemoveTask(task, patience)
	w.settled()
	w.follows(ports[1])

	w.must(w.host.Signal(syscall.SIGHUP))
	w.must(stage.Until(w.patient(), func() error {
		if !strings.Contains(w.host.Log(), "configuration read again") {
			return errors.New("the configuration was not read again")
		}
		return nil
	}))
	w.subscribed()
	w.follows(ports[0])

	w.end(syscall.SIGTERM)
	w.begin(rarely)
	w.subscribed()
	w.follows(ports[0])
	w.complains("")
}

func TestCallbacksAfterMarathonRestarts(t *testing.T) {
	for name, c := range map[string]struct {
		interval string
		kept     bool
	}{
		"the subscription is kept": {rarely, true},
		"it is lost":               {"2", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCallbackWorld(t, fakemarathon.GenA)
			ports := w.services(2, 2)
			w.begin(c.interval)
			w.subscribed()
			before := w.site.Wanted()
			w.site.Replica.Close()
			if c.kept {
				w.site.Marathon.SetCallbacks(w.url)
			} else {
				w.site.Marathon.SetCallbacks()
				w.must(stage.Until(w.patient(), func() error { return w.sourceFails("Marathon is away") }))
			}
			w.mustRun(before, "Marathon is away")
			_, err := w.site.Marathon.Replica(strings.TrimPrefix(w.site.URL, "http://"))
			w.must(err)
			w.site.Marathon.FailOver(1)
			w.site.Marathon.RestoreHealth()
			w.subscribed()
			for _, port := range ports {
				w.follows(port)
			}
			w.complains("")
		})
	}
}

// Marathon cannot tell that it does not reach the URL. Polling brings the changes, and so finds out.
func TestCallbacksThatCannotArrive(t *testing.T) {
	w := newCallbackWorld(t, "0.15")
	port := w.services(1, 2)[0]
	w.site.Marathon.CutCallbacks(true)
	w.begin("1")
	w.subscribed()
	w.follows(port) // two changes
	w.complains("changes were found by polling that no callback announced: Marathon may not reach " + w.url)
	w.site.Marathon.CutCallbacks(false)
	w.follows(port)
	w.complains("")
	w.subscribed()
}

func TestMarathonWithoutCallbacksIsFollowedByItsStream(t *testing.T) {
	w := newCallbackWorld(t, fakemarathon.GenD)
	port := w.services(1, 2)[0]
	w.begin(rarely)
	w.complains("Marathon has no callbacks, so its event stream is followed; remove --marathon-callback")
	w.must(w.site.Marathon.WaitStream(w.patient()))
	w.follows(port)
	if n := strings.Count(w.host.Log(), "Marathon has no callbacks"); n != 1 {
		t.Errorf("said %d times, want once", n)
	}
}

func TestCallbackPortIsTakenAtFirst(t *testing.T) {
	w := newCallbackWorld(t, fakemarathon.GenA)
	other, err := net.Listen("tcp", fmt.Sprintf(":%d", w.port))
	w.must(err)
	w.Cleanup(func() { _ = other.Close() }) // it may be closed already
	port := w.services(1, 2)[0]
	w.begin(rarely)
	w.complains(fmt.Sprintf("listen tcp :%d: bind: address already in use", w.port))
	w.must(w.site.Marathon.WaitStream(w.patient()))
	w.follows(port)
	w.must(other.Close())
	w.subscribed()
	w.complains("")
	w.follows(port)
}

func TestCallbackPortIsNoServices(t *testing.T) {
	w := newCallbackWorld(t, fakemarathon.GenA)
	port := w.services(1, 2)[0]
	w.must(w.site.AddService(w.port, 2))
	wanted := func() stage.Servers {
		servers := w.site.Wanted()
		delete(servers, w.port)
		return servers
	}
	w.must(w.host.Start("--marathon", w.site.URL, "--marathon-callback", w.url, "--refresh-interval", rarely))
	w.must(w.host.Ready(w.patient()))
	w.settledOn(wanted)
	w.subscribed()
	_, err := w.site.AddTask(port)
	w.must(err)
	_, err = w.site.AddTask(w.port)
	w.must(err)
	w.settledOn(wanted)
	found := slices.ContainsFunc(w.status().Problems, func(p catalog.Problem) bool {
		return strings.Contains(p.Reason, "give --marathon-callback another port to free it")
	})
	if !found {
		t.Errorf("no problem says why the service is left out: %+v", w.status().Problems)
	}
}

// Strangers can have everything read once a burst, and nothing else.
func TestStrangersPostToTheCallbackURL(t *testing.T) {
	w := newCallbackWorld(t, fakemarathon.GenA)
	port := w.services(1, 2)[0]
	w.begin(rarely)
	w.subscribed()
	w.complains("")
	readings := func() int { return w.site.Marathon.Requests()["GET /v2/apps"] }
	before := readings()
	slow, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.port))
	w.must(err)
	defer slow.Close()
	_, err = io.WriteString(slow, "POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
	w.must(err)
	began := time.Now()
	var wait sync.WaitGroup
	for i := range 1000 {
		wait.Go(func() {
			body, url := io.Reader(strings.NewReader("\x00{[garbage")), w.url
			switch {
			case i%100 == 1:
				body = io.LimitReader(zeros{}, 65<<20)
			case i%3 == 1:
				url += "/x"
			case i%3 == 2:
				body = strings.NewReader(`{"eventType":"status_update_event","taskStatus":"TASK_KILLED","appId":"/shop"}`)
			}
			// Some are refused while they still send: nothing depends on the answers.
			if resp, err := http.Post(url, "text/plain", body); err == nil {
				_ = resp.Body.Close()
			}
		})
	}
	wait.Wait()
	took := time.Since(began)
	w.follows(port)
	// Between two readings are 100 ms without an event, or a second with some. What came before an answer is read here.
	n, most := readings()-before, 4+int(took/(100*time.Millisecond))
	t.Logf("%d readings after 1,000 posts in %s", n, took)
	if n > most {
		t.Errorf("%d readings, want at most %d", n, most)
	}
	if _, err := slow.Read(make([]byte, 1)); err != nil {
		t.Errorf("the slow one was not answered: %v", err)
	}
	w.complains("")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
