package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/etcd"
	"github.com/meltwater/proxymatic/testenv/fakeregistrator"
)

// How many keys are refreshed, how often, and for how long that is looked at.
const (
	refreshHosts      = 50
	refreshContainers = 100 // of each host, one for each of as many services
	refreshEvery      = 2 * time.Second
	refreshWatched    = 6 * time.Second
)

// Rewriting a key as it is says nothing new, and may cost nothing: no pass, no write, little time. It is not run beside others.
func TestRegistratorRefreshesCostNothing(t *testing.T) {
	for _, store := range []string{"v2", "v3"} {
		t.Run(store, func(t *testing.T) {
			w := newRegWorld(t, "etcd"+store[1:], etcd.Config{})
			port := w.ports(1)[0]
			marker := w.agent(store, "marker", 0)
			w.add(marker, port)
			w.refreshed(store)
			w.must(w.host.Start("--registrator", w.url, "--haproxy-check", "never"))
			w.must(w.host.Ready(w.patient()))
			if wanted := w.status().Wanted.Servers; wanted != refreshHosts*refreshContainers+1 {
				t.Fatalf("%d servers are wanted", wanted)
			}
			calm := w.writes(store) + refreshHosts*refreshContainers // until it has seen that there are many
			w.must(stage.Until(w.patient(), func() error {
				if now := w.writes(store); now < calm {
					return fmt.Errorf("%d writes are still to come", calm-now)
				}
				return nil
			}))

			passes, file, spent, writes := w.status().Pass.Count, w.file(), w.spent(), w.writes(store)
			began := time.Now()
			time.Sleep(refreshWatched) // is what is measured
			took := time.Since(began)
			written := w.writes(store) - writes
			spent = w.spent() - spent
			if n := w.status().Pass.Count - passes; n != 0 {
				t.Errorf("%d passes", n)
			}
			if now := w.file(); !os.SameFile(now, file) || now.ModTime() != file.ModTime() {
				t.Error("haproxy.cfg was written")
			}
			share := spent.Seconds() / took.Seconds()
			t.Logf("%.0f keys/s were refreshed; proxymatic took %.1f %% of a core", float64(written)/took.Seconds(), 100*share)
			if share > 0.05 {
				t.Errorf("proxymatic took %.1f %% of a core, want at most 5 %%", 100*share)
			}
			if written < refreshHosts*refreshContainers {
				t.Errorf("only %d keys were refreshed", written)
			}
			w.answers(w.add(marker, port)) // it still sees what is new
		})
	}
}

// refreshed writes many keys, and again and again while the test runs.
func (w regWorld) refreshed(store string) {
	w.Helper()
	shared, ttl := w.store(store), 5*refreshEvery
	if store == "v3" {
		ttl = 0 // etcd takes longer to grant a lease for each than for all the rest; who watches sees no difference
	}
	ports := w.ports(refreshContainers)
	ctx, cancel := context.WithCancel(context.Background())
	var running, filling sync.WaitGroup
	w.Cleanup(func() { cancel(); running.Wait() })
	for h := range refreshHosts {
		host := &fakeregistrator.Registrator{Host: fmt.Sprintf("vm%d", h), Store: shared, Prefix: "/services", TTL: ttl, Refresh: refreshEvery}
		filling.Go(func() {
			for i, port := range ports {
				c := fakeregistrator.Container{Name: fmt.Sprintf("c%d", i), Image: fmt.Sprintf("example/many%d", i),
					Ports: []fakeregistrator.Port{{Exposed: uint16(port), Addr: fmt.Sprintf("127.0.1.%d:9", h+1)}}} // nobody asks it
				if err := host.Add(w.Context(), c); err != nil {
					w.Error(err)
				}
			}
			running.Go(func() { _ = host.Run(ctx) }) // until the test ends
		})
	}
	filling.Wait()
}

// writes tells how often a store was written so far.
func (w regWorld) writes(store string) int {
	w.Helper()
	base := w.etcd.Members[0].URL()
	if store == "v2" {
		resp, err := http.Get(base + "/v2/keys/other")
		w.must(err)
		w.must(resp.Body.Close())
		n, err := strconv.Atoi(resp.Header.Get("X-Etcd-Index"))
		w.must(err)
		return n
	}
	resp, err := http.Post(base+"/v3/kv/range", "application/json", strings.NewReader(`{"key":"`+base64.StdEncoding.EncodeToString([]byte("/other"))+`"}`))
	w.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	w.must(err)
	var answer struct{ Header struct{ Revision string } }
	w.must(json.Unmarshal(body, &answer))
	n, err := strconv.Atoi(answer.Header.Revision)
	w.must(err)
	return n
}

func (w regWorld) file() os.FileInfo {
	w.Helper()
	info, err := os.Stat(w.host.Config())
	w.must(err)
	return info
}

func (w regWorld) spent() time.Duration {
	w.Helper()
	spent, err := stage.CPU(w.host.Pid())
	w.must(err)
	return spent
}
