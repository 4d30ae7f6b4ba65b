package registrator

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/testenv/etcd"
)

// refresher writes many keys with their values again and again, as registrators do with -ttl.
type refresher struct {
	write func(key, value string) error
	keys  int
	wrote atomic.Int64
}

func (r *refresher) key(i int) (key, value string) {
	i %= r.keys
	return fmt.Sprintf("/services/service%d/vm%d:c%d:%d", i/10, i%10, i, 1000+i/10), fmt.Sprintf("10.0.%d.%d:%d", i>>8, i&255, 20000+i)
}

// all writes every key, several at a time.
func (r *refresher) all(t testing.TB) {
	var wait sync.WaitGroup
	for worker := range 16 {
		wait.Go(func() {
			for i := worker; i < r.keys; i += 16 {
				if err := r.write(r.key(i)); err != nil {
					t.Error(err)
					return
				}
				r.wrote.Add(1)
			}
		})
	}
	wait.Wait()
}

// write2 writes the v2 store; keys live so many seconds.
func write2(base string, ttl int) func(key, value string) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	return func(key, value string) error {
		req, err := http.NewRequest(http.MethodPut, base+"/v2/keys"+key+fmt.Sprintf("?ttl=%d&value=", ttl)+value, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode >= 300 {
			return fmt.Errorf("%s: %s", key, resp.Status)
		}
		return nil
	}
}

func write3(c *clientv3.Client) func(key, value string) error {
	return func(key, value string) error {
		_, err := c.Put(context.Background(), key, value)
		return err
	}
}

// More keys are written again than are read as they come, so that the streams are left to heap up; what is new is seen.
func TestManyRefreshesAreNoChange(t *testing.T) {
	both(t, 1, func(t *testing.T, w world, url string, store writer) {
		r := &refresher{keys: 200, write: write2(w.Members[0].URL(), 60)}
		if _, is := store.(writer3); is {
			r.write = write3(store.(writer3).c)
		}
		r.all(t)
		o := observe(t, w.config(url))
		o.until("all", func(string) bool { return catalog.CountServers(o.last.Services) == r.keys })
		o.quiet(func() {
			for r.wrote.Load() < 1500 {
				r.all(t)
			}
			store.put("web/vm:c:80", "10.0.0.1:31000")
		}, oneWeb)
		store.remove("web/vm:c:80")
		o.until("the removal", func(text string) bool { return !strings.Contains(text, oneWeb) })
	})
}

// BenchmarkRefresh tells what 5,000 keys that are written again every 2 s cost the source, in percent of one core. The
// writing is another process's, which this one starts from its own file.
func BenchmarkRefresh(b *testing.B) {
	for _, store := range []string{"v3", "v2"} {
		b.Run(store, func(b *testing.B) {
			c, err := etcd.Start(b.Context(), etcd.Config{Dir: b.TempDir(), V2: true})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Kill()
			stop := startWriter(b, store, c.Members[0].URL())
			defer stop()
			s, err := New(Config{URL: "etcd" + store[1:] + "://" + c.Addrs()})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			snaps, done := make(chan catalog.Snapshot), make(chan error, 1)
			go func() { done <- s.Run(ctx, snaps) }()
			for n := 0; n < 5000; {
				n = catalog.CountServers((<-snaps).Services)
			}
			sleep(ctx, 3*time.Second) // until it has seen that there are many
			sent := 0
			for b.Loop() {
				began, used := time.Now(), cpu()
				for end := time.After(6 * time.Second); end != nil; {
					select {
					case <-snaps:
						sent++
					case <-end:
						end = nil
					}
				}
				b.ReportMetric(100*float64(cpu()-used)/float64(time.Since(began)), "%core")
			}
			b.ReportMetric(float64(sent), "snapshots")
			cancel()
			<-done
		})
	}
}

func cpu() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkPut tells how long it takes from before a key is put until its snapshot is there.
func BenchmarkPut(b *testing.B) {
	c, err := etcd.Start(b.Context(), etcd.Config{Dir: b.TempDir(), V2: true})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Kill()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{c.Members[0].URL()}, Logger: zap.NewNop()})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	for store, write := range map[string]func(key, value string) error{"v3": write3(client), "v2": write2(c.Members[0].URL(), 60)} {
		b.Run(store, func(b *testing.B) {
			r := &refresher{keys: 500, write: write}
			r.all(b)
			s, err := New(Config{URL: "etcd" + store[1:] + "://" + c.Addrs()})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			snaps, done := make(chan catalog.Snapshot), make(chan error, 1)
			go func() { done <- s.Run(ctx, snaps) }()
			for n := 0; n < r.keys; {
				n = catalog.CountServers((<-snaps).Services)
			}
			var all, puts []time.Duration
			for i := 0; b.Loop(); i++ {
				began := time.Now()
				if err := write("/services/bench/vm:c:80", fmt.Sprintf("10.9.9.9:%d", 1+i%60000)); err != nil {
					b.Fatal(err)
				}
				puts = append(puts, time.Since(began))
				<-snaps
				all = append(all, time.Since(began))
			}
			cancel()
			<-done
			b.ReportMetric(float64(median(puts).Microseconds()), "put-us")
			b.ReportMetric(float64(median(all).Microseconds()), "put+snapshot-us")
		})
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// writerEnv makes TestWriter write: the store, a blank, and where etcd is.
const writerEnv = "REGISTRATOR_TEST_WRITER"

func startWriter(b *testing.B, store, base string) (stop func()) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestWriter$")
	cmd.Env = append(os.Environ(), writerEnv+"="+store+" "+base)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// TestWriter is the other process of BenchmarkRefresh, and else nothing. It writes 5,000 keys every 2 s until it is killed.
func TestWriter(t *testing.T) {
	store, base, ok := strings.Cut(os.Getenv(writerEnv), " ")
	if !ok {
		return
	}
	r := &refresher{keys: 5000, write: write2(base, 60)}
	if store == "v3" {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{base}, Logger: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		r.write = write3(c)
	}
	work := make(chan int)
	for range 16 {
		go func() {
			for i := range work {
				_ = r.write(r.key(i))
			}
		}()
	}
	next := 0
	for range time.Tick(10 * time.Millisecond) {
		for range 25 {
			work <- next
			next++
		}
	}
}
