package marathon_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/marathon"
	"github.com/meltwater/proxymatic/testenv/etcd"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
	"github.com/meltwater/proxymatic/testenv/freeport"
)

// dcos gives a cluster that wants tokens, and an account that gets them.
func dcos(t *testing.T, gen fakemarathon.Generation, addrs ...string) (*fakemarathon.Cluster, *fakemarathon.Login, []string, marathon.Access) {
	t.Helper()
	c, _, urls := cluster(t, gen, addrs...)
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	login, err := c.Login("127.0.0.4:0", nil, "proxymatic", &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	account, err := json.Marshal(map[string]string{"uid": "proxymatic", "scheme": "RS256", "login_endpoint": login.URL(),
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))})
	if err != nil {
		t.Fatal(err)
	}
	return c, login, urls, marathon.Access{ServiceAccount: string(account)}
}

func waitStream(t *testing.T, c *fakemarathon.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.WaitStream(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestAServiceAccountGoesOnWhenItsTokensEnd(t *testing.T) {
	c, login, urls, access := dcos(t, "1.8", "127.0.0.2", "127.77.0.2")
	c.FailOver(1) // the stream is redirected
	c.PutApp(web(0))
	w := start(t, marathon.Config{URLs: urls, Access: access})
	w.serves(webAlone)
	c.AddTask("/shop/web", task("1", "10.0.0.1"))
	w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
	if n := login.Attempts(); n != 1 {
		t.Errorf("%d logins, want one for all", n)
	}
	login.Expire()
	c.PutApp(fakemarathon.App{ID: "/dns", Ports: []fakemarathon.PortMapping{{ServicePort: 53}}}) // has to be asked for
	w.serves("53/tcp dns mode=tcp source=marathon\n" + webAlone + "  10.0.0.1:31000 check on-host\n")
	if n := login.Attempts(); n != 2 {
		t.Errorf("%d logins, want one more", n)
	}
	w.never("an error or a problem", func(s catalog.Snapshot) bool { return s.Err != "" || len(s.Problems) > 0 })
}

func TestAStreamIsOpenedWithANewTokenAfterTheOldOneEnded(t *testing.T) {
	c, login, urls, access := dcos(t, "1.4", "127.0.0.2")
	c.PutApp(web(0))
	w := start(t, marathon.Config{URLs: urls, Access: access})
	w.serves(webAlone)
	login.Expire()
	c.CloseStreams()
	waitStream(t, c)
	c.AddTask("/shop/web", task("1", "10.0.0.1"))
	w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
	if n := login.Attempts(); n != 2 {
		t.Errorf("%d logins, want 2", n)
	}
}

func TestCallbacksAreSubscribedToWithATokenThatIsRenewed(t *testing.T) {
	ports, err := freeport.Get(1)
	if err != nil {
		t.Fatal(err)
	}
	c, login, urls, access := dcos(t, "1.3", "127.0.0.2")
	c.PutApp(web(0))
	w := start(t, marathon.Config{URLs: urls, Access: access, Callback: fmt.Sprintf("http://127.0.0.1:%d", ports[0]), RefreshInterval: 200 * time.Millisecond})
	w.serves(webAlone)
	login.Expire()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.WaitRequest(ctx, "POST /v2/eventSubscriptions", 6); err != nil {
		t.Fatal(err)
	}
	c.AddTask("/shop/web", task("1", "10.0.0.1"))
	w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
	if n := login.Attempts(); n != 2 {
		t.Errorf("%d logins, want 2", n)
	}
	w.never("an error or a problem", func(s catalog.Snapshot) bool { return s.Err != "" || len(s.Problems) > 0 })
}

func TestWhatAServiceAccountIsToldShowsNoSecret(t *testing.T) {
	c, login, urls, access := dcos(t, "1.8", "127.0.0.2")
	login.SetStatus(http.StatusForbidden)
	c.PutApp(web(0))
	w := start(t, marathon.Config{URLs: urls, Access: access, RefreshInterval: 20 * time.Millisecond})
	w.until("the endpoint", func(s catalog.Snapshot) bool {
		return strings.HasSuffix(s.Err, "log in at "+login.URL()+": 403 Forbidden; look at --marathon-service-account")
	})
	login.SetStatus(0)
	w.serves(webAlone)
	login.SetStatus(http.StatusServiceUnavailable)
	login.Expire()
	w.until("the endpoint", func(s catalog.Snapshot) bool {
		return strings.HasSuffix(s.Err, "log in at "+login.URL()+": 503 Service Unavailable") && len(s.Services) == 1
	})
	login.SetStatus(0)
	w.serves(webAlone)
	for _, token := range login.Tokens() {
		w.never("a token", func(s catalog.Snapshot) bool { return strings.Contains(s.Err, token) })
	}
}

// secureCluster gives one over TLS that wants certificates of clients.
func secureCluster(t *testing.T, gen fakemarathon.Generation) (*fakemarathon.Cluster, string, *etcd.Certificates) {
	t.Helper()
	certs, err := etcd.NewCertificates(t.TempDir(), "ca")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"server", "client"} {
		if err := certs.Sign(name); err != nil {
			t.Fatal(err)
		}
	}
	secure, err := certs.Client("server")
	if err != nil {
		t.Fatal(err)
	}
	c, _, _ := cluster(t, gen)
	r, err := c.SecureReplica("127.0.0.1:0", &tls.Config{Certificates: secure.Certificates, ClientCAs: secure.RootCAs, ClientAuth: tls.RequireAndVerifyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	return c, r.URL(), certs
}

func TestTLS(t *testing.T) {
	c, url, certs := secureCluster(t, "1.8")
	stranger, err := etcd.NewCertificates(t.TempDir(), "stranger")
	if err != nil {
		t.Fatal(err)
	}
	c.PutApp(web(0))
	ours := marathon.Access{CAFile: certs.File("ca.crt"), CertFile: certs.File("client.crt"), KeyFile: certs.File("client.key")}
	insecure := ours
	insecure.CAFile, insecure.Insecure = "", true
	for _, access := range []marathon.Access{ours, insecure} {
		w := start(t, marathon.Config{URLs: []string{url}, Access: access})
		w.serves(webAlone)
		streams := c.Requests()["GET /v2/events"]
		if streams == 0 {
			t.Error("there is no stream")
		}
	}
	for _, bad := range []struct {
		change func(*marathon.Access)
		want   string
	}{
		{func(a *marathon.Access) { a.CAFile = "" }, "certificate signed by unknown authority (see --marathon-ca)"},
		{func(a *marathon.Access) { a.CAFile = stranger.File("stranger.crt") }, "certificate signed by unknown authority (see --marathon-ca)"},
		{func(a *marathon.Access) { a.CertFile, a.KeyFile = "", "" }, "tls: certificate required (see --marathon-cert and --marathon-key)"},
		{func(a *marathon.Access) {
			a.CertFile, a.KeyFile = stranger.File("stranger.crt"), stranger.File("stranger.key")
		}, "remote error: tls: unknown certificate authority (see --marathon-cert)"},
	} {
		access := ours
		bad.change(&access)
		s, err := marathon.New(marathon.Config{URLs: []string{url}, Access: access})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(t.Context()); err == nil || !strings.HasSuffix(err.Error(), bad.want) {
			t.Errorf("got %v, want %s", err, bad.want)
		}
	}
}

func TestACertificateIsReadAgainForEachConnection(t *testing.T) {
	c, url, certs := secureCluster(t, "1.8")
	c.PutApp(web(0))
	s, err := marathon.New(marathon.Config{URLs: []string{url}, Access: marathon.Access{
		CAFile: certs.File("ca.crt"), CertFile: certs.File("client.crt"), KeyFile: certs.File("client.key")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(certs.File("client.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(t.Context()); err == nil || !strings.Contains(err.Error(), certs.File("client.key")) {
		t.Errorf("got %v, want an error that names the key's file", err)
	}
	if err := certs.Sign("client"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(t.Context()); err != nil {
		t.Errorf("with a new certificate: %v", err)
	}
}

// The 302 of a standby names no leader; answers that it passes on from the leader do.
func TestALeaderWithoutAURLGetsTheCredentialsOnceItWasNamed(t *testing.T) {
	c, replicas, urls := cluster(t, "1.8", "127.0.0.2", "127.77.0.2")
	c.SetFaults(func(f *fakemarathon.Faults) { f.Bearer = "zecret" })
	c.FailOver(1)
	c.PutApp(web(0))
	w := start(t, marathon.Config{URLs: urls[:1], Access: marathon.Access{Token: "zecret", TokenScheme: marathon.SchemeBearer}})
	w.serves(webAlone)
	w.until("a stream", func(s catalog.Snapshot) bool {
		return !slices.ContainsFunc(s.Problems, func(p catalog.Problem) bool { return p.Subject == "event stream" })
	})
	waitStream(t, c)
	c.AddTask("/shop/web", task("1", "10.0.0.1"))
	w.serves(webAlone + "  10.0.0.1:31000 check on-host\n")
	if n := replicas[1].Requests()["GET /v2/events"]; n == 0 {
		t.Error("the leader had no stream")
	}
}
