package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/backend"
	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/etcd"
	"github.com/meltwater/proxymatic/testenv/fakeregistrator"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// BenchmarkRegistratorV2 measures from before a container's key is put into etcd's v2 store until clients notice: the first
// connection that the container serves, and, when the key is deleted, the last one. The service has one other container, so
// that a client meets either at each second connection. put is etcd's part: until it has answered.
func BenchmarkRegistratorV2(b *testing.B) { benchRegistrator(b, "etcd2", fakeregistrator.V2) }

// BenchmarkRegistratorV3 measures the same with the v3 store.
func BenchmarkRegistratorV3(b *testing.B) { benchRegistrator(b, "etcd3", fakeregistrator.V3) }

func benchRegistrator(b *testing.B, scheme string, open func(addrs string) fakeregistrator.Store) {
	for _, services := range []int{100, 1000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			w := emptyBench(b, "haproxy")
			c, err := etcd.Start(w.ctx, etcd.Config{Dir: b.TempDir(), V2: true})
			w.must(err)
			b.Cleanup(c.Kill)
			host := &fakeregistrator.Registrator{Host: "vm", Store: open(c.Addrs()), Prefix: "/services"}
			w.register(host, services)
			w.measure(host, func() {
				w.must(w.host.Start("--registrator", scheme+"://"+c.Addrs()))
				w.must(w.host.Ready(w.ctx))
			})
			b.ReportMetric(0, "ns/op") // of a whole round, which says nothing
		})
	}
}

// register writes so many services whose containers are all the same few backends. Registrator knows no health, so that
// HAProxy checks all of them.
func (w bench) register(host *fakeregistrator.Registrator, services int) {
	w.Helper()
	var shared []string
	for i := range tasksEach {
		s, err := backend.ListenHTTP("127.0.0.1:0", fmt.Sprintf("shared%d", i))
		w.must(err)
		w.Cleanup(s.Close)
		shared = append(shared, s.Addr())
	}
	ports, err := freeport.Get(services)
	w.must(err)
	for _, port := range ports {
		for i, addr := range shared {
			w.must(host.Add(w.ctx, fakeregistrator.Container{Name: fmt.Sprintf("c%d.%d", port, i), Image: fmt.Sprintf("example/s%d", port),
				Ports: []fakeregistrator.Port{{Exposed: uint16(port), Addr: addr}}}))
		}
	}
}

// measure adds a service of its own, starts proxymatic, and changes it again and again.
func (w bench) measure(host *fakeregistrator.Registrator, start func()) {
	w.Helper()
	reg := stage.NewRegistry()
	w.Cleanup(reg.Close)
	ports, err := freeport.Get(1)
	w.must(err)
	timed := &timedStore{Store: host.Store}
	host = &fakeregistrator.Registrator{Host: "timed", Store: timed, Prefix: host.Prefix}
	wish := stage.Wish{Key: catalog.Key{Port: uint16(ports[0]), Proto: catalog.TCP}}
	_, err = reg.Add(w.ctx, host, wish)
	w.must(err)
	start()
	w.awaitOpen(ports[0])
	var added, removed, put []time.Duration
	for w.Loop() {
		for range taskChanges {
			i, err := reg.Add(w.ctx, host, wish)
			w.must(err)
			w.awaitName(ports[0], i.Name)
			added, put = append(added, time.Since(timed.began)), append(put, timed.took)
			removed = append(removed, w.lastAnswer(ports[0], i.Name, func() { w.must(reg.Remove(w.ctx, i, time.Minute)) }))
		}
	}
	w.report("add", added)
	w.report("remove", removed)
	w.report("put", put)
}

// timedStore tells when the last key began to be set and how long that took.
type timedStore struct {
	fakeregistrator.Store
	began time.Time
	took  time.Duration
}

// Set sets a key.
func (s *timedStore) Set(ctx context.Context, key, value string, ttl time.Duration) error {
	s.began = time.Now()
	err := s.Store.Set(ctx, key, value, ttl)
	s.took = time.Since(s.began)
	return err
}
