package fakeregistrator

import (
	"context"
	"errors"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meltwater/proxymatic/testenv/etcd"
)

// eachStore runs a test with a registrator of an etcd's v2 store, and with one of another's v3 store.
func eachStore(t *testing.T, test func(t *testing.T, c *etcd.Cluster, s reader, r *Registrator)) {
	t.Helper()
	for _, s := range readers() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			c := cluster(t, 1)
			test(t, c, s, &Registrator{Host: "vm", Store: s.store(c.Addrs()), Prefix: "/services"})
		})
	}
}

func TestKeysExpireAfterACrash(t *testing.T) {
	eachStore(t, func(t *testing.T, c *etcd.Cluster, s reader, r *Registrator) {
		must(t, r.Add(hurry(t), oneNamed("stays", "forever", 80, "10.0.0.1:1")))
		r.TTL = time.Second
		must(t, r.Add(hurry(t), oneNamed("a", "web", 80, "10.0.0.1:2")))
		must(t, r.Add(hurry(t), oneNamed("b", "web", 80, "10.0.0.1:3")))
		r.Crash()
		must(t, r.Add(hurry(t), oneNamed("unseen", "web", 80, "10.0.0.1:4")))
		want := map[string]string{"/services/forever/vm:stays:80": "10.0.0.1:1"}
		for ctx := hurry(t); !maps.Equal(want, s.values(t, c)); time.Sleep(5 * time.Millisecond) {
			if ctx.Err() != nil {
				t.Fatalf("got %v, want %v", s.values(t, c), want)
			}
		}
	})
}

func TestRunSetsKeysAnewWithTheSameValue(t *testing.T) {
	eachStore(t, func(t *testing.T, c *etcd.Cluster, s reader, r *Registrator) {
		r.TTL, r.Refresh = time.Minute, 10*time.Millisecond
		must(t, r.Add(hurry(t), oneNamed("a", "web", 80, "10.0.0.1:2")))
		ctx, cancel := context.WithCancel(hurry(t))
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()
		want := map[string]string{"/services/web/vm:a:80": "10.0.0.1:2"}
		last := map[string]string{}
		for seen := 0; seen < 4; {
			if ctx.Err() != nil {
				t.Fatal("not refreshed")
			}
			if now := s.versions(t, c); !maps.Equal(now, last) {
				last = now
				seen++
			}
			wantValues(t, "refreshed", want, s.values(t, c))
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: got %v, want the context's end", err)
		}
		wantValues(t, "after a clean end", want, s.values(t, c))
	})
}

func TestRestartSetsAllKeysAndLeavesTheOthers(t *testing.T) {
	eachStore(t, func(t *testing.T, c *etcd.Cluster, s reader, r *Registrator) {
		must(t, r.Add(hurry(t), oneNamed("aa", "web", 80, "10.0.0.1:2")))
		must(t, r.Add(hurry(t), oneNamed("gone", "web", 80, "10.0.0.1:3")))
		before := s.versions(t, c)["/services/web/vm:aa:80"]
		r.Crash()
		must(t, r.Remove(hurry(t), "gone"))
		must(t, r.Add(hurry(t), oneNamed("new", "web", 80, "10.0.0.1:4")))
		want := map[string]string{"/services/web/vm:aa:80": "10.0.0.1:2", "/services/web/vm:gone:80": "10.0.0.1:3"}
		wantValues(t, "crashed", want, s.values(t, c))
		must(t, r.Restart(hurry(t)))
		want["/services/web/vm:new:80"] = "10.0.0.1:4"
		wantValues(t, "restarted", want, s.values(t, c))
		if s.versions(t, c)["/services/web/vm:aa:80"] == before {
			t.Error("a key that was there was not set")
		}
	})
}

// Upstream's can list nothing in etcd; the fork lists and deletes what it can tell to be its own.
func TestCleanup(t *testing.T) {
	eachStore(t, func(t *testing.T, c *etcd.Cluster, s reader, r *Registrator) {
		ctx := hurry(t)
		other := &Registrator{Host: "other", Store: r.Store, Prefix: r.Prefix}
		must(t, other.Add(ctx, oneNamed("gone", "web", 80, "10.0.0.2:3")))
		must(t, r.Store.Set(ctx, "/servicesX/web/vm:gone:80", "10.0.0.1:1", 0))
		for _, gone := range []Container{oneNamed("gone", "web", 80, "10.0.0.1:3"), oneNamed("nested", "a/b", 80, "10.0.0.1:4"),
			{Name: "id", Image: "idd", Env: map[string]string{"SERVICE_ID": "custom"}, Ports: []Port{{80, false, "10.0.0.1:5"}}}} {
			must(t, r.Add(ctx, gone))
		}
		must(t, r.Add(ctx, oneNamed("stays", "web", 80, "10.0.0.1:2")))
		r.Crash()
		for _, name := range []string{"gone", "nested", "id"} {
			must(t, r.Remove(ctx, name))
		}
		want := s.values(t, c)
		if s.name == "v3" {
			delete(want, "/services/web/vm:gone:80")
		}
		r.Cleanup = true
		must(t, r.Restart(ctx))
		wantValues(t, "cleaned up", want, s.values(t, c))
	})
}

func TestWhatCannotBeWrittenIsForgottenUntilARestart(t *testing.T) {
	eachStore(t, func(t *testing.T, c *etcd.Cluster, s reader, r *Registrator) {
		ctx := hurry(t)
		must(t, r.Add(ctx, oneNamed("a", "web", 80, "10.0.0.1:2")))
		must(t, r.Add(ctx, oneNamed("stale", "web", 80, "10.0.0.1:3")))
		c.Kill()
		if err := r.Add(ctx, oneNamed("missed", "web", 80, "10.0.0.1:4")); err == nil {
			t.Error("no error for a container added without etcd")
		}
		if err := r.Remove(ctx, "stale"); err == nil {
			t.Error("no error for a container removed without etcd")
		}
		must(t, c.Restart(ctx))
		must(t, r.refresh(ctx))
		want := map[string]string{"/services/web/vm:a:80": "10.0.0.1:2", "/services/web/vm:stale:80": "10.0.0.1:3"}
		wantValues(t, "refreshed", want, s.values(t, c))
		must(t, r.whileUp(ctx, r.sync))
		want["/services/web/vm:missed:80"] = "10.0.0.1:4"
		wantValues(t, "resynced", want, s.values(t, c))
		must(t, c.Wipe(ctx))
		must(t, r.refresh(ctx))
		delete(want, "/services/web/vm:stale:80")
		wantValues(t, "wiped and refreshed", want, s.values(t, c))
	})
}

// What no registrator would write can be written, too.
func TestHostileKeysAndValuesArriveAsTheyAre(t *testing.T) {
	eachStore(t, func(t *testing.T, c *etcd.Cluster, s reader, r *Registrator) {
		want := map[string]string{
			"/services/a\nb;#\"'\\%2F@80/vm:ä:80": "line\nbreak \" ' ; # \\ %0a &ttl=1 + ä",
			"/services/long/" + longText():        longText(),
			"/services/empty/vm:c:80":             "",
		}
		for _, key := range keys(want) {
			must(t, r.Store.Set(hurry(t), key, want[key], 0))
		}
		wantValues(t, "hostile", want, s.values(t, c))
		for _, key := range keys(want) {
			must(t, r.Store.Delete(hurry(t), key))
			must(t, r.Store.Delete(hurry(t), key)) // a second time
		}
		wantValues(t, "deleted", map[string]string{}, s.values(t, c))
	})
}

func longText() string {
	long := make([]byte, 5000)
	for i := range long {
		long[i] = 'x'
	}
	return string(long)
}

func TestAnotherMemberIsAskedWhenOneIsDown(t *testing.T) {
	c := cluster(t, 3)
	for _, s := range []Store{V2(c.Addrs()), V3(c.Addrs())} {
		must(t, c.Restart(hurry(t)))
		must(t, s.Set(hurry(t), "/services/web/vm:a:80", "10.0.0.1:1", 0))
		c.Members[0].Kill()
		for ctx := hurry(t); ; { // there may be no leader for a moment
			err := s.Set(ctx, "/services/web/vm:a:80", "10.0.0.1:2", 0)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestNoV2StoreIsAnError(t *testing.T) {
	s := V2(started(t, etcd.Config{Dir: t.TempDir()}).Addrs())
	if err := s.Set(hurry(t), "/services/web/vm:a:80", "10.0.0.1:1", 0); err == nil {
		t.Error("Set: no error")
	}
	if err := s.Delete(hurry(t), "/services/web/vm:a:80"); err == nil {
		t.Error("Delete: no error")
	}
}

// note is a store that notes what is written.
type note struct {
	start time.Time
	said  []string
	err   error
}

func (n *note) Set(_ context.Context, key, _ string, _ time.Duration) error {
	n.said = append(n.said, time.Since(n.start).String()+" "+key)
	return n.err
}
func (n *note) Delete(context.Context, string) error              { return nil }
func (n *note) services(context.Context, string) ([]entry, error) { return nil, nil }

func TestRunRefreshesAndResyncsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &note{start: time.Now()}
		r := &Registrator{Host: "vm", Store: n, Prefix: "/s", TTL: time.Minute, Refresh: 20 * time.Second, Resync: 50 * time.Second}
		var failed []error
		r.Failed = func(err error) { failed = append(failed, err) }
		must(t, r.Add(t.Context(), oneNamed("a", "web", 80, "10.0.0.1:2")))
		ctx, cancel := context.WithTimeout(t.Context(), 65*time.Second)
		defer cancel()
		n.err = errors.New("refused")
		_ = r.Run(ctx) // ends with ctx
		r.Crash()
		ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_ = r.Run(ctx)
		want := []string{"0s /s/web/vm:a:80", "20s /s/web/vm:a:80", "40s /s/web/vm:a:80", "50s /s/web/vm:a:80", "1m0s /s/web/vm:a:80"}
		if diff := cmp.Diff(want, n.said); diff != "" || len(failed) != 4 {
			t.Errorf("%d failures told, want 4; -want +got\n%s", len(failed), diff)
		}
	})
}

func TestOpen(t *testing.T) {
	for url, want := range map[string]string{
		"etcd2://a:1":           "/services",
		"etcd3://a:1,b:2/":      "/services",
		"etcd3://a:1,b:2/x/y/":  "/x/y",
		"etcd2://a:1/services2": "/services2",
		"etcd://a:1/services":   "etcd://a:1/services: want etcd2:// or etcd3://",
		"etcd2:///services":     "etcd2:///services: want host:port of etcd",
	} {
		_, got, err := Open(url)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", url, got, want)
		}
	}
}
