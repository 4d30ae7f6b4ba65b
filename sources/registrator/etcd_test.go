package registrator

import (
	"fmt"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/etcd"
)

const (
	oneWeb = "80/tcp web\n  10.0.0.1:31000\n"
	oneApi = "81/tcp api\n  10.0.0.2:31001\n"
)

func TestChangesArrive(t *testing.T) {
	both(t, 1, func(t *testing.T, w world, url string, store writer) {
		o := observe(t, w.config(url))
		o.wants("")
		if o.last.Succeeded.IsZero() {
			t.Error("an empty store was not read")
		}
		store.put("web/vm:c:80", "10.0.0.1:31000")
		o.wants(oneWeb)
		store.put("api/vm:d:81", "10.0.0.2:31001")
		o.wants(oneWeb + oneApi)
		store.put("web/vm:c:80", "10.0.0.1:31005")
		o.wants("80/tcp web\n  10.0.0.1:31005\n" + oneApi)
		store.put("web/vm:c:80", "nonsense")
		o.wants(oneApi + `! /services/web/vm:c:80: its value "nonsense" should be IP:PORT, with an IPv6 address in brackets` + "\n")
		store.remove("web/vm:c:80")
		o.wants(oneApi)
		store.remove("api/vm:d:81") // the last one, seen
		o.wants("")
	})
}

func TestExpiryIsARemoval(t *testing.T) {
	both(t, 1, func(t *testing.T, w world, url string, store writer) {
		o := observe(t, w.config(url))
		store.lease("web/vm:c:80", "10.0.0.1:31000")
		store.lease("api/vm:d:81", "10.0.0.2:31001")
		o.until("both", func(text string) bool { return text == oneWeb+oneApi })
		o.wants("")
	})
}

func TestEqualRewritesAreNoChange(t *testing.T) {
	both(t, 1, func(t *testing.T, w world, url string, store writer) {
		store.put("web/vm:c:80", "10.0.0.1:31000")
		o := observe(t, w.config(url))
		o.wants(oneWeb)
		o.quiet(func() {
			for range 20 {
				store.put("web/vm:c:80", "10.0.0.1:31000")
			}
			store.put("api/vm:d:81", "10.0.0.2:31001")
		}, oneApi)
	})
}

func TestEtcdIsKilledAndComesBack(t *testing.T) {
	both(t, 1, func(t *testing.T, w world, url string, store writer) {
		store.put("web/vm:c:80", "10.0.0.1:31000")
		o := observe(t, w.config(url))
		o.wants(oneWeb)
		w.Kill()
		o.wantsError("connection refused", oneWeb)
		w.must(w.Restart(w.ctx))
		o.wants(oneWeb, oneWeb)
		store.put("api/vm:d:81", "10.0.0.2:31001")
		o.wants(oneWeb+oneApi, oneWeb)
	})
}

// A source that begins while etcd is away has an error and no success, then all.
func TestEtcdComesLater(t *testing.T) {
	both(t, 1, func(t *testing.T, w world, url string, store writer) {
		store.put("web/vm:c:80", "10.0.0.1:31000")
		w.Kill()
		o := observe(t, w.config(url))
		o.wantsError("connection refused")
		if !o.last.Succeeded.IsZero() {
			t.Errorf("it succeeded: %+v", o.last)
		}
		w.must(w.Restart(w.ctx))
		o.wants(oneWeb)
	})
}

// The wipe takes the keys away without a deletion; they stay until somebody wrote them again, or had the time to.
func TestAWipedStoreTakesNothingAway(t *testing.T) {
	both(t, 1, func(t *testing.T, w world, url string, store writer) {
		store.put("web/vm:c:80", "10.0.0.1:31000")
		store.put("web/vm:c:80", "10.0.0.1:31000") // the store gets on, so that what follows the wipe is not beyond it
		store.put("api/vm:d:81", "10.0.0.2:31001")
		config := w.config(url)
		config.Patience = 2 * time.Second
		o := observe(t, config)
		o.wants(oneWeb + oneApi)
		w.must(w.Wipe(w.ctx))
		o.wantsError("has no key below /services any more; its last services stay until keys are written there again", oneWeb, oneApi)
		store.put("new/vm:n:82", "10.0.0.3:31002")
		const fresh = "82/tcp new\n  10.0.0.3:31002\n"
		o.until("the new one", func(text string) bool {
			return strings.HasPrefix(text, oneWeb+oneApi+fresh+"! the v") && strings.Contains(text, "it lost its keys") && o.last.Err == ""
		})
		store.put("web/vm:c:80", "10.0.0.1:31000")
		o.wants(oneWeb+fresh, oneWeb, fresh)
	})
}

// All keys may really go while we are away. The store's history tells.
func TestRemovalWhileAway(t *testing.T) {
	both(t, 1, func(t *testing.T, w world, url string, store writer) {
		store.put("web/vm:c:80", "10.0.0.1:31000")
		store.put("api/vm:d:81", "10.0.0.2:31001")
		s, err := New(w.config(url))
		w.must(err)
		o := observeSource(t, s)
		o.wants(oneWeb + oneApi)
		o.stop()
		store.remove("web/vm:c:80")
		store.remove("api/vm:d:81")
		o = observeSource(t, s)
		o.wants("")
	})
}

// Without a history an empty store is not believed.
func TestRemovalThatNobodyCanTellOf(t *testing.T) {
	away := func(t *testing.T, w world, url string, store writer, forget func()) {
		store.put("web/vm:c:80", "10.0.0.1:31000")
		s, err := New(w.config(url))
		w.must(err)
		o := observeSource(t, s)
		o.wants(oneWeb)
		o.stop()
		store.remove("web/vm:c:80")
		forget()
		o = observeSource(t, s)
		o.wantsError("has no key below /services any more", oneWeb)
		store.put("web/vm:c:80", "10.0.0.1:31000")
		o.wants(oneWeb, oneWeb)
		store.remove("web/vm:c:80")
		o.wants("")
	}
	t.Run("v3 compacted", func(t *testing.T) {
		w := newWorld(t, etcd.Config{})
		store := writer3{w, w.client3()}
		away(t, w, "etcd3://CLUSTER", store, func() { store.other(1); w.must(w.Members[0].Compact(w.ctx)) })
	})
	t.Run("v2 after 1,000 events", func(t *testing.T) {
		w := newWorld(t, etcd.Config{V2: true})
		store := writer2{w}
		away(t, w, "etcd2://CLUSTER", store, func() { store.other(1001) })
	})
}

func TestCompactionWhileAway(t *testing.T) {
	w := newWorld(t, etcd.Config{})
	store := writer3{w, w.client3()}
	store.put("web/vm:c:80", "10.0.0.1:31000")
	store.put("old/vm:e:82", "10.0.0.3:31002")
	o := observe(t, w.config("etcd3://CLUSTER"))
	o.wants(oneWeb + "82/tcp old\n  10.0.0.3:31002\n")
	// Stopped, the connection hears nothing, and the watch is behind what is left when it goes on.
	w.must(syscall.Kill(w.Members[0].Pid(), syscall.SIGSTOP))
	o.wantsError("no whole answer in time", oneWeb)
	w.must(syscall.Kill(w.Members[0].Pid(), syscall.SIGCONT))
	store.put("api/vm:d:81", "10.0.0.2:31001")
	store.remove("old/vm:e:82")
	w.must(w.Members[0].Compact(w.ctx))
	o.wants(oneWeb+oneApi, oneWeb)
}

func TestOneOfThreeMembersIsKilled(t *testing.T) {
	both(t, 3, func(t *testing.T, w world, url string, store writer) {
		store.put("web/vm:c:80", "10.0.0.1:31000")
		o := observe(t, w.config(url))
		o.wants(oneWeb)
		for i, m := range w.Members {
			m.Kill()
			store.put("api/vm:d:81", fmt.Sprintf("10.0.0.2:%d", 31001+i))
			o.wants(fmt.Sprintf("%s81/tcp api\n  10.0.0.2:%d\n", oneWeb, 31001+i), oneWeb)
			w.must(m.Restart(w.ctx))
		}
	})
}

func TestQuorumIsLostAndRegained(t *testing.T) {
	both(t, 3, func(t *testing.T, w world, url string, store writer) {
		store.put("web/vm:c:80", "10.0.0.1:31000")
		o := observe(t, w.config(url))
		o.wants(oneWeb)
		w.Members[0].Kill()
		w.Members[1].Kill()
		o.until("an error", func(text string) bool { return strings.HasPrefix(text, oneWeb) && o.last.Err != "" })
		w.must(w.Restart(w.ctx))
		o.wants(oneWeb, oneWeb)
		store.put("api/vm:d:81", "10.0.0.2:31001")
		o.wants(oneWeb+oneApi, oneWeb)
	})
}

func TestADirectoryIsDeleted(t *testing.T) {
	for _, directory := range []string{"/services/many/team", "/services/many", "/services"} { // below the prefix, it, and above it
		t.Run(directory, func(t *testing.T) {
			w := newWorld(t, etcd.Config{V2: true})
			store := writer2{w}
			config := w.config("etcd2://CLUSTER/services/many")
			store.put("many/team/web/vm:c:80", "10.0.0.1:31000")
			store.put("many/team/api/vm:d:81", "10.0.0.2:31001")
			o := observe(t, config)
			o.wants("80/tcp team/web\n  10.0.0.1:31000\n81/tcp team/api\n  10.0.0.2:31001\n")
			store.do("DELETE", directory, url.Values{"recursive": {"true"}})
			o.wants("")
			store.put("many/web/vm:c:80", "10.0.0.1:31000")
			o.wants(oneWeb)
		})
	}
}

func TestBothStores(t *testing.T) {
	w := newWorld(t, etcd.Config{V2: true})
	v3, v2 := writer3{w, w.client3()}, writer2{w}
	v2.put("web/vm:c:80", "10.0.0.1:31000")
	o := observe(t, w.config("etcd://CLUSTER/services"))
	o.wants(oneWeb)
	v3.put("api/vm:d:81", "10.0.0.2:31001") // the prefix appears in the other store
	o.wants(oneWeb + oneApi)
	v3.put("web/vm:e:80", "10.0.0.5:31000")
	o.wants("80/tcp web\n  10.0.0.1:31000\n  10.0.0.5:31000\n" + oneApi)
	v2.remove("web/vm:c:80")
	o.wants("80/tcp web\n  10.0.0.5:31000\n" + oneApi)
}

func TestAStoreThatIsNotOffered(t *testing.T) {
	w := newWorld(t, etcd.Config{})
	store := writer3{w, w.client3()}
	store.put("web/vm:c:80", "10.0.0.1:31000")
	o := observe(t, w.config("etcd://CLUSTER/services"))
	o.wants(oneWeb)
	store.put("api/vm:d:81", "10.0.0.2:31001")
	o.wants(oneWeb + oneApi)
	observe(t, w.config("etcd2://CLUSTER/services")).wantsError("it was started without --enable-v2")
	s, err := New(w.config("etcd://CLUSTER/services"))
	w.must(err)
	got, err := s.Read(w.ctx)
	if short(canonical(got.Services, got.Problems)) != oneWeb+oneApi || err != nil || got.Succeeded.IsZero() {
		t.Errorf("Read: %+v, %v", got, err)
	}
}

func TestReadTellsWhatFails(t *testing.T) {
	both(t, 1, func(t *testing.T, w world, url string, store writer) {
		store.put("web/vm:c:80", "10.0.0.1:31000")
		s, err := New(w.config(strings.Replace(url, "://", "://uzer:zecret@", 1)))
		w.must(err)
		if got, err := s.Read(w.ctx); err != nil || short(canonical(got.Services, nil)) != oneWeb {
			t.Errorf("got %+v, %v", got, err)
		}
		w.Kill()
		if _, err := s.Read(w.ctx); err == nil || !strings.HasPrefix(err.Error(), "read registrator: the v") ||
			!strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "zecret") {
			t.Errorf("got %v", err)
		}
	})
}

// The list of each refresh repairs what a stream has lost, and shows life.
func TestRefreshShowsLife(t *testing.T) {
	both(t, 1, func(t *testing.T, w world, url string, store writer) {
		store.put("web/vm:c:80", "10.0.0.1:31000")
		config := w.config(url)
		config.RefreshInterval = 100 * time.Millisecond
		o := observe(t, config)
		o.until("a few", func(string) bool { return o.count >= 5 })
		o.wants(oneWeb)
		store.put("api/vm:d:81", "10.0.0.2:31001")
		o.wants(oneWeb+oneApi, oneWeb)
		store.remove("api/vm:d:81")
		o.wants(oneWeb, oneWeb)
		store.remove("web/vm:c:80") // whichever of list and stream sees it: it is gone
		o.wants("")
	})
}
