package e2e

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/etcd"
	"github.com/meltwater/proxymatic/testenv/fakeregistrator"
)

// half is a service in one of the stores.
type half struct {
	store     string
	host      *fakeregistrator.Registrator
	port      int
	instances []*stage.Instance
}

// halves are services in both stores, which etcd:// reads both.
type halves struct {
	regWorld
	of []*half
}

// newHalves serves a service with two containers from each store.
func newHalves(t *testing.T, config etcd.Config) halves {
	t.Helper()
	w := halves{regWorld: newRegWorld(t, "etcd", config)}
	for i, port := range w.ports(2) {
		store := []string{"v2", "v3"}[i]
		h := &half{store: store, host: w.agent(store, "vm-"+store, 0), port: port}
		h.instances = []*stage.Instance{w.add(h.host, port), w.add(h.host, port)}
		w.of = append(w.of, h)
	}
	w.start()
	return w
}

func (w halves) load() *stage.Load {
	return w.regWorld.load([]int{w.of[0].port, w.of[1].port}, 200)
}

// change adds a container to each service and removes its oldest, as soon as etcd takes it, and waits until that is served.
func (w halves) change(after string) {
	w.Helper()
	var fresh []*stage.Instance
	for _, h := range w.of {
		w.must(stage.Until(w.patient(), func() error { return h.host.Store.Set(w.Context(), "/other", "x", 0) }))
		h.instances = append(h.instances, w.add(h.host, h.port))
		w.must(w.reg.Remove(w.patient(), h.instances[0], patience)) // until it is seen, the old one may answer
		h.instances = h.instances[1:]
		fresh = append(fresh, h.instances[len(h.instances)-1])
	}
	began := time.Now()
	w.answers(fresh...)
	w.settled()
	w.Logf("%s: the next change of both stores was served after %s", after, time.Since(began).Round(time.Millisecond))
	w.up()
}

// stays lets some time of the load pass.
func (w halves) stays(l *stage.Load) {
	w.Helper()
	w.must(l.WaitRequests(w.patient(), 100))
}

// Whatever becomes of etcd, what it told last is served, and what it tells next is.
func TestRegistratorFaultsOfEtcd(t *testing.T) {
	t.Parallel()
	w := newHalves(t, etcd.Config{})
	worker := w.worker()
	load := w.load()

	w.etcd.Kill()
	w.says("connection refused")
	w.stays(load)
	w.must(w.etcd.Restart(w.patient()))
	w.change("etcd was killed")

	w.must(w.host.Signal(syscall.SIGSTOP))
	w.away()
	w.must(w.host.Signal(syscall.SIGCONT))
	w.settled()
	w.change("both histories were compacted while we were away")

	w.must(w.etcd.Wipe(w.patient()))
	w.says("v2 store", "v3 store", "has no key below")
	w.stays(load)
	w.settled()
	for _, h := range w.of {
		w.must(h.host.Restart(w.patient()))
	}
	w.change("etcd was wiped")

	w.flawless(load)
	w.sameWorker(worker)
}

// away changes both services, lets etcd forget how they came to that, and cuts all connections.
func (w halves) away() {
	w.Helper()
	for _, h := range w.of {
		gone := h.instances[0]
		h.instances = append(h.instances[1:], w.add(h.host, h.port))
		w.must(w.reg.Remove(w.patient(), gone, patience))
	}
	const history = 1000 // the v2 store's
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for range history/8 + 10 {
				if err := w.of[0].host.Store.Set(w.Context(), "/other", "x", 0); err != nil {
					w.Error(err)
				}
			}
		})
	}
	writers.Wait()
	w.must(w.etcd.Members[0].Compact(w.patient()))
	w.etcd.Kill()
	w.must(w.etcd.Restart(w.patient()))
}

// One member of three is no loss whichever it is; two are, and services stay until one of them is back.
func TestRegistratorFaultsOfMembers(t *testing.T) {
	t.Parallel()
	w := newHalves(t, etcd.Config{Members: 3})
	worker := w.worker()
	load := w.load()
	for i, m := range w.etcd.Members {
		m.Kill()
		w.change(fmt.Sprintf("member %d was killed", i))
		w.must(m.Restart(w.patient()))
	}
	for _, m := range w.etcd.Members[1:] {
		m.Kill()
	}
	began := time.Now()
	w.says("v2 store", "v3 store")
	t.Logf("the loss of the quorum was noticed after %s", time.Since(began).Round(time.Millisecond))
	w.stays(load)
	w.must(w.etcd.Members[1].Restart(w.patient()))
	w.change("the quorum was back")
	w.flawless(load)
	w.sameWorker(worker)
}

func TestRegistratorRestartWithoutEtcd(t *testing.T) {
	t.Parallel()
	w := newHalves(t, etcd.Config{})
	worker := w.worker()
	load := w.load()
	w.etcd.Kill()
	w.host.Kill()
	w.must(os.RemoveAll(w.host.Path("state"))) // or else what was saved counts
	w.must(w.host.Start("--registrator", w.url))
	w.says("connection refused")
	if _, body, err := w.host.Get(w.patient(), "/status"); err != nil || !strings.HasPrefix(body, "INITIALIZING") {
		t.Errorf("status is %q (%v), want INITIALIZING", body, err)
	}
	w.stays(load)
	w.must(w.etcd.Restart(w.patient()))
	w.change("proxymatic was killed while etcd was down")
	w.flawless(load)
	w.sameWorker(worker)
}
