package registrator

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/etcd"
)

func newCertificates(t *testing.T, dir, authority string, names ...string) *etcd.Certificates {
	t.Helper()
	c, err := etcd.NewCertificates(dir, authority)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := c.Sign(name); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	c := newCertificates(t, dir, "ca", "server", "client")
	newCertificates(t, dir, "stranger", "odd")
	w := newWorld(t, etcd.Config{V2: true, Secure: c})
	for scheme, store := range map[string]string{"etcd2": storeV2, "etcd3": storeV3} {
		t.Run(scheme, func(t *testing.T) {
			config := w.config(scheme + "://CLUSTER")
			config.CAFile, config.CertFile, config.KeyFile = c.File("ca.crt"), c.File("client.crt"), c.File("client.key")
			put(t, config, store)
			observe(t, config).wants(oneWeb)

			stranger := config
			stranger.CAFile = c.File("stranger.crt")
			observe(t, stranger).wantsError("certificate signed by unknown authority")
			nobody := config
			nobody.CertFile, nobody.KeyFile = "", ""
			observe(t, nobody).wantsError("remote error: tls: ")
			odd := config
			odd.CertFile, odd.KeyFile = c.File("odd.crt"), c.File("odd.key")
			observe(t, odd).until("an error", func(text string) bool { return strings.HasPrefix(text, "error: the "+store+" store at ") })
			plain := config
			plain.CAFile, plain.CertFile, plain.KeyFile = "", "", ""
			observe(t, plain).until("an error", func(text string) bool { return strings.HasPrefix(text, "error: the "+store+" store at ") })
		})
	}
}

// put writes one key by the source's own connection, until it can.
func put(t *testing.T, config Config, store string) {
	t.Helper()
	s, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	where, err := parseURL(config.URL)
	if err != nil {
		t.Fatal(err)
	}
	secure, err := tlsConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	end := time.After(patience)
	for {
		if store == storeV2 {
			w := newWeb(where, secure, config.Timeout)
			err = put2(w)
		} else {
			err = put3(t, s.stores[0].(*v3))
		}
		if err == nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-end:
			t.Fatal(err)
		}
	}
}

func put2(w *web) error {
	req, err := http.NewRequest(http.MethodPut, w.member()+"/v2/keys/services/web/vm:c:80?value=10.0.0.1:31000", nil)
	if err != nil {
		return err
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		return errors.New(resp.Status)
	}
	return nil
}

func put3(t *testing.T, s *v3) error {
	c, err := s.connected(t.Context())
	if err != nil {
		return err
	}
	defer s.close()
	_, err = c.Put(t.Context(), "/services/web/vm:c:80", "10.0.0.1:31000")
	return err
}

func TestUserAndPasswordOfV3(t *testing.T) {
	w := newWorld(t, etcd.Config{})
	store := writer3{w, w.client3()}
	store.put("web/vm:c:80", "10.0.0.1:31000")
	for _, role := range []string{"root", "reader"} {
		_, err := store.c.RoleAdd(w.ctx, role)
		w.must(err)
		_, err = store.c.UserAdd(w.ctx, role, "pw-"+role)
		w.must(err)
		_, err = store.c.UserGrantRole(w.ctx, role, role)
		w.must(err)
	}
	_, err := store.c.RoleGrantPermission(w.ctx, "reader", "/services/", "/services0", 0)
	w.must(err)
	_, err = store.c.AuthEnable(w.ctx)
	w.must(err)
	observe(t, w.config("etcd3://reader:pw-reader@CLUSTER")).wants(oneWeb)
	inConfig := w.config("etcd3://CLUSTER")
	inConfig.User, inConfig.Password = "reader", "pw-reader"
	observe(t, inConfig).wants(oneWeb)
	for url, want := range map[string]string{
		"etcd3://reader:zecret@CLUSTER":          "authentication failed, invalid user ID or password",
		"etcd3://CLUSTER":                        "user name is empty",
		"etcd3://reader:pw-reader@CLUSTER/other": "permission denied",
	} {
		o := observe(t, w.config(url))
		o.wantsError(want)
		if strings.Contains(o.last.Err, "zecret") || strings.Contains(o.last.Err, "pw-") {
			t.Errorf("a password is shown: %s", o.last.Err)
		}
	}
}

func TestUserAndPasswordOfV2(t *testing.T) {
	w := newWorld(t, etcd.Config{V2: true})
	store := writer2{w}
	store.put("web/vm:c:80", "10.0.0.1:31000")
	auth := func(path, body string) {
		req, err := http.NewRequestWithContext(w.ctx, http.MethodPut, w.Members[0].URL()+"/v2/auth/"+path, strings.NewReader(body))
		w.must(err)
		req.SetBasicAuth("root", "pw-root")
		resp, err := http.DefaultClient.Do(req)
		w.must(err)
		resp.Body.Close()
		if resp.StatusCode >= 300 {
			t.Fatalf("%s: %s", path, resp.Status)
		}
	}
	auth("users/root", `{"user":"root","password":"pw-root"}`)
	auth("enable", "")
	auth("roles/guest", `{"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}`)
	observe(t, w.config("etcd2://root:pw-root@CLUSTER")).wants(oneWeb)
	o := observe(t, w.config("etcd2://root:zecret@CLUSTER"))
	o.wantsError("requires user authentication")
	if strings.Contains(o.last.Err, "zecret") {
		t.Errorf("a password is shown: %s", o.last.Err)
	}
}

func TestHostNamesAreResolvedBeforeTheFirstSnapshot(t *testing.T) {
	w := newWorld(t, etcd.Config{})
	store := writer3{w, w.client3()}
	store.put("web/vm:c:80", "agent7:31000")
	config := w.config("etcd3://CLUSTER")
	hosts := map[string]string{"agent7": "10.0.0.1", "agent8": "10.0.0.2"}
	release := make(chan struct{})
	config.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
		if host == "agent8" {
			<-release
		}
		if addr, ok := hosts[host]; ok {
			return []netip.Addr{netip.MustParseAddr(addr)}, nil
		}
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	o := observe(t, config)
	o.wants(oneWeb)
	if o.count != 1 {
		t.Errorf("%d snapshots, want 1", o.count)
	}
	store.put("slow/vm:c:82", "agent8:31002")
	store.put("api/vm:d:81", "10.0.0.2:31001") // waits for nobody
	o.wants(oneWeb+oneApi, oneWeb)
	close(release)
	o.wants(oneWeb+oneApi+"82/tcp slow\n  10.0.0.2:31002\n", oneWeb)
	store.put("none/vm:c:83", "nobody:31003")
	o.until("a problem", func(text string) bool {
		return strings.Contains(text, `! /services/none/vm:c:83: its host "nobody" has no address`)
	})
}
