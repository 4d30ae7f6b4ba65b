package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/runtime/status"
	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/etcd"
	"github.com/meltwater/proxymatic/testenv/fakeregistrator"
)

// regWorld is a cluster whose services are in a real etcd, with both stores, and a host that serves them.
type regWorld struct {
	world
	etcd *etcd.Cluster
	reg  *stage.Registry
	url  string // for --registrator
}

// newRegWorld gives a world without services, on whose host nothing runs yet.
func newRegWorld(t *testing.T, scheme string, config etcd.Config, programs ...string) regWorld {
	t.Helper()
	w := regWorld{world: worldWith(t, append(programs, "haproxy", "etcd")...), reg: stage.NewRegistry()}
	w.Cleanup(w.reg.Close)
	config.Dir, config.V2 = t.TempDir(), true
	var err error
	w.etcd, err = etcd.Start(w.patient(), config)
	if errors.Is(err, exec.ErrNotFound) {
		unavailable(t, err.Error())
	}
	w.must(err)
	w.Cleanup(w.etcd.Kill)
	w.url = scheme + "://" + w.etcd.Addrs() + "/services"
	return w
}

// eachStore runs a test with each of the stores, told which.
func eachStore(t *testing.T, test func(t *testing.T, w regWorld, store string)) {
	for _, store := range []string{"v2", "v3"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			test(t, newRegWorld(t, "etcd"+store[1:], etcd.Config{}), store)
		})
	}
}

// store gives a way to write one of etcd's stores.
func (w regWorld) store(name string) fakeregistrator.Store {
	if name == "v2" {
		return fakeregistrator.V2(w.etcd.Addrs())
	}
	return fakeregistrator.V3(w.etcd.Addrs())
}

// agent gives a host whose registrator writes one of the stores. Where keys have a TTL, they are refreshed while the test runs.
func (w regWorld) agent(store, host string, ttl time.Duration) *fakeregistrator.Registrator {
	a := &fakeregistrator.Registrator{Host: host, Store: w.store(store), Prefix: "/services", TTL: ttl, Refresh: ttl / 3}
	if ttl > 0 {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = a.Run(ctx) // until the test ends
		}()
		w.Cleanup(func() { cancel(); <-done })
	}
	return a
}

// add adds a container to the service of a port.
func (w regWorld) add(on *fakeregistrator.Registrator, port int) *stage.Instance {
	w.Helper()
	return w.addWish(on, stage.Wish{Key: tcpKey(port)})
}

func (w regWorld) addWish(on *fakeregistrator.Registrator, wish stage.Wish) *stage.Instance {
	w.Helper()
	i, err := w.reg.Add(w.patient(), on, wish)
	w.must(err)
	return i
}

// remove ends a container, which answers as long as a busy machine may take to notice.
func (w regWorld) remove(i *stage.Instance) {
	w.Helper()
	w.must(w.reg.Remove(w.patient(), i, 2*time.Second))
}

func tcpKey(port int) catalog.Key { return catalog.Key{Port: uint16(port), Proto: catalog.TCP} }

// start starts proxymatic on etcd and waits until everything is served.
func (w regWorld) start(more ...string) {
	w.Helper()
	w.must(w.host.Start(append([]string{"--registrator", w.url}, more...)...))
	w.must(w.host.Ready(w.patient()))
	w.settled()
}

func (w regWorld) settled() {
	w.Helper()
	w.settledOn(w.reg.Wanted)
}

// load asks services all the time, and takes only answers of containers that may have given them.
func (w regWorld) load(ports []int, perSecond int) *stage.Load {
	return stage.StartLoad(ports, perSecond, w.reg.Judge)
}

// answers waits until containers answer at their services' ports, and gives how long that took.
func (w regWorld) answers(all ...*stage.Instance) time.Duration {
	w.Helper()
	began := time.Now()
	for _, i := range all {
		w.must(stage.Until(w.patient(), func() error {
			name, err := stage.Request(w.Context(), int(i.Port))
			if err == nil && name != i.Name {
				err = fmt.Errorf("%s does not answer at port %d: %s", i.Name, i.Port, name)
			}
			return err
		}))
	}
	return time.Since(began)
}

// served waits until containers of the services answer.
func (w regWorld) served(ports ...int) {
	w.Helper()
	for _, port := range ports {
		w.must(stage.Until(w.patient(), func() error {
			name, err := stage.Request(w.Context(), port)
			if err == nil && !strings.HasPrefix(name, fmt.Sprintf("r%d.", port)) {
				err = fmt.Errorf("%q answered at port %d", name, port)
			}
			return err
		}))
	}
}

// source gives what the run tells of etcd.
func (w regWorld) source() (status.SourceJSON, error) {
	s, err := w.host.Status(w.Context())
	if err != nil {
		return status.SourceJSON{}, err
	}
	if len(s.Sources) != 1 || s.Sources[0].Name != "registrator" {
		return status.SourceJSON{}, fmt.Errorf("sources are %+v, want registrator", s.Sources)
	}
	return s.Sources[0], nil
}

// says waits until the source's error has all the words.
func (w regWorld) says(words ...string) {
	w.Helper()
	w.must(stage.Until(w.patient(), func() error {
		s, err := w.source()
		if err == nil && (s.Error == "" || !containsAll(s.Error, words)) {
			err = fmt.Errorf("the source does not say %q: %+v", words, s)
		}
		return err
	}))
}

// up waits until the source has no error.
func (w regWorld) up() {
	w.Helper()
	w.must(stage.Until(w.patient(), func() error {
		s, err := w.source()
		if err == nil && !s.Up {
			err = fmt.Errorf("the source is not up: %+v", s)
		}
		return err
	}))
}

func TestRegistratorKeysAreServed(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, w regWorld, store string) {
		ports := w.ports(3)
		one, two := w.agent(store, "vm1", 0), w.agent(store, "vm2", 0)
		first := w.add(one, ports[0])
		w.start()
		worker := w.worker()
		load := w.load(ports[:1], 200)
		second := w.add(two, ports[0])
		t.Logf("a key of a served service was served after %s", w.answers(second))
		w.remove(first)
		w.settled()
		w.answers(second)
		w.sameWorker(worker)

		last := w.add(one, ports[1])
		override := w.addWish(two, stage.Wish{Key: tcpKey(ports[2]), Exposed: 80,
			Env: map[string]string{"SERVICE_NAME": fmt.Sprintf("shop@%d", ports[2])}})
		t.Logf("keys of new services were served after %s", w.answers(last, override))
		worker = w.worker()
		w.remove(last)
		w.refused(ports[1])
		again := w.add(one, ports[1])
		w.answers(again)
		w.sameWorker(worker)
		w.flawless(load)
		w.settled()
		w.validFile()
	})
}

// A host that dies takes its keys with it in one burst, when they expire; that is no reason to doubt it. etcd's v2 store stops
// telling of such a burst after 100 events.
func TestRegistratorHostDies(t *testing.T) {
	t.Parallel()
	w := newRegWorld(t, "etcd", etcd.Config{})
	ports := w.ports(10)
	const each = 60
	var dying []*fakeregistrator.Registrator
	for i, store := range []string{"v2", "v3"} {
		stays, dies := w.agent(store, "stays-"+store, 3*time.Second), w.agent(store, "dies-"+store, 3*time.Second)
		dying = append(dying, dies)
		for _, port := range ports[5*i : 5*i+4] {
			w.add(stays, port)
		}
		for n := range 5 * each {
			w.add(dies, ports[5*i+n%5])
		}
	}
	served := append(ports[:4:4], ports[5:9]...)
	w.start()
	worker := w.worker()
	load := w.load(served, 200)
	passes := w.status().Pass.Count
	began := time.Now()
	for _, host := range dying {
		w.reg.Crash(host, patience)
	}
	w.refused(ports[4], ports[9])
	w.settled()
	t.Logf("2 x %d keys of dead hosts were gone after %s, in %d passes", 5*each, time.Since(began), w.status().Pass.Count-passes)
	w.must(load.WaitRequests(w.patient(), 100))
	w.flawless(load)
	for _, host := range dying {
		w.must(host.Restart(w.patient()))
	}
	w.served(ports[4], ports[9])
	w.sameWorker(worker)
}

func TestRegistratorBothStores(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"v2", "v3"} {
		t.Run(before+" first", func(t *testing.T) {
			t.Parallel()
			later := map[string]string{"v2": "v3", "v3": "v2"}[before]
			w := newRegWorld(t, "etcd", etcd.Config{})
			ports := w.ports(2)
			old, fresh := w.agent(before, "vm1", 0), w.agent(later, "vm2", 0)
			first := w.add(old, ports[0])
			w.start()
			worker := w.worker()
			w.answers(first)
			joined := w.add(fresh, ports[0]) // the first key that the store gets
			t.Logf("the first key in the other store was served after %s", w.answers(joined))
			w.sameWorker(worker)
			w.answers(first, w.add(fresh, ports[1]))
			w.settled()
			w.remove(first)
			w.settled()
			w.answers(joined)
		})
	}
}

func TestRegistratorUDP(t *testing.T) {
	t.Parallel()
	w := newRegWorld(t, "etcd", etcd.Config{}, "pen")
	port := w.ports(1)[0]
	key := catalog.Key{Port: uint16(port), Proto: catalog.UDP}
	for _, store := range []string{"v2", "v3"} {
		host := w.agent(store, "vm-"+store, 0)
		w.add(host, port) // TCP at the same port
		i := w.addWish(host, stage.Wish{Key: key})
		if store == "v2" {
			w.start()
		}
		w.must(stage.Until(w.patient(), func() error {
			name, err := stage.RequestUDP(port)
			if err == nil && name != i.Name {
				err = fmt.Errorf("%s does not answer: %q", i.Name, name)
			}
			return err
		}))
	}
	servers, err := w.host.PenServers(catalog.UDP)
	w.must(err)
	if n := len(servers[port]); n != 2 || len(servers) != 1 {
		t.Errorf("pen serves %v, want port %d with 2 servers", servers, port)
	}
	w.settled()
}
