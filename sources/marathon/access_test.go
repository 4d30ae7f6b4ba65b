package marathon

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/etcd"
)

// certificates makes an authority with certificates in files.
func certificates(t *testing.T, authority string, names ...string) *etcd.Certificates {
	t.Helper()
	c, err := etcd.NewCertificates(t.TempDir(), authority)
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

func TestSettingsThatContradictEachOtherAreNamed(t *testing.T) {
	c := certificates(t, "ca", "client")
	ca, cert, key := c.File("ca.crt"), c.File("client.crt"), c.File("client.key")
	missing := filepath.Join(t.TempDir(), "missing")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("zecret"), 0o600); err != nil {
		t.Fatal(err)
	}
	rsa := newKey(t)
	account, plainAccount := accountJSON(t, rsa, "https://login"), accountJSON(t, rsa, "http://login")
	const plain, secure = "http://m", "http://m https://m2"
	for _, c := range []struct {
		urls   string
		access Access
		want   string
	}{
		{plain, Access{}, ""},
		{plain, Access{User: "u", Password: "zecret"}, ""},
		{plain, Access{Token: "zecret", TokenScheme: SchemeToken}, ""},
		{plain, Access{Token: "zecret", TokenScheme: SchemeBearer}, ""},
		{plain, Access{ServiceAccount: plainAccount}, ""},
		{"http://u:p@m", Access{Token: "zecret"}, ""},
		{secure, Access{CAFile: ca, CertFile: cert, KeyFile: key}, ""},
		{secure, Access{Insecure: true, CertFile: cert, KeyFile: key}, ""},
		{plain, Access{CAFile: ca, ServiceAccount: account}, ""},
		{plain, Access{User: "u", Password: "zecret", Token: "zecret"}, "--marathon-user and --marathon-token contradict each other; keep one"},
		{plain, Access{User: "u", Password: "zecret", ServiceAccount: account}, "--marathon-user and --marathon-service-account contradict each other; keep one"},
		{plain, Access{Token: "zecret", ServiceAccount: account}, "--marathon-token and --marathon-service-account contradict each other; keep one"},
		{secure, Access{CAFile: ca, Insecure: true}, "--marathon-ca and --marathon-insecure contradict each other; keep one"},
		{plain, Access{User: "u"}, "--marathon-user is given without --marathon-password"},
		{plain, Access{Password: "zecret"}, "--marathon-password is given without --marathon-user"},
		{plain, Access{User: "u:v", Password: "zecret"}, "--marathon-user: a user name has no colon"},
		{plain, Access{TokenScheme: SchemeBearer}, "--marathon-token-scheme Bearer is given without --marathon-token"},
		{secure, Access{CertFile: cert}, "--marathon-cert is given without --marathon-key"},
		{secure, Access{KeyFile: key}, "--marathon-key is given without --marathon-cert"},
		{plain, Access{CAFile: ca}, "--marathon-ca is about https, and no URL of --marathon has that"},
		{plain, Access{CAFile: ca, ServiceAccount: plainAccount}, "--marathon-ca is about https, and no URL of --marathon has that"},
		{plain, Access{Insecure: true}, "--marathon-insecure is about https, and no URL of --marathon has that"},
		{plain, Access{CertFile: cert, KeyFile: key}, "--marathon-cert is about https, and no URL of --marathon has that"},
		{secure, Access{CAFile: missing}, "--marathon-ca: open " + missing + ": no such file or directory"},
		{secure, Access{CAFile: empty}, "--marathon-ca: " + empty + " has no certificate in PEM form"},
		{secure, Access{CertFile: missing, KeyFile: key}, "--marathon-cert " + missing + ", --marathon-key " + key + ": open " + missing + ": no such file or directory"},
		{secure, Access{CertFile: cert, KeyFile: empty}, "--marathon-cert " + cert + ", --marathon-key " + empty + ": tls: failed to find any PEM data in key input"},
		{secure, Access{CertFile: ca, KeyFile: key}, "--marathon-cert " + ca + ", --marathon-key " + key + ": tls: private key does not match public key"},
		{secure, Access{ServiceAccount: "zecret", CAFile: ca}, "--marathon-service-account: want JSON such as"},
	} {
		urls := strings.Fields(c.urls)
		err := c.access.Check(urls)
		if err == nil {
			_, err = New(Config{URLs: urls, Access: c.access})
		}
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (c.want == "" || !strings.HasPrefix(got, c.want)) || strings.Contains(got, "zecret") {
			t.Errorf("%s %+v: got %q, want %q", c.urls, c.access, got, c.want)
		}
	}
}

func TestHowWeSayWhoWeAre(t *testing.T) {
	for _, c := range []struct {
		user   string // in the URL
		access Access
		want   string
	}{
		{"", Access{}, ""},
		{"u:p@", Access{}, basic("u", "p")},
		{"u@", Access{}, basic("u", "")},
		{"", Access{User: "u", Password: "p ä:"}, basic("u", "p ä:")},
		{"", Access{Token: "abc"}, "token=abc"},
		{"", Access{Token: "abc", TokenScheme: SchemeToken}, "token=abc"},
		{"", Access{Token: "abc", TokenScheme: SchemeBearer}, "Bearer abc"},
		{"u:p@", Access{Token: "abc"}, basic("u", "p")},
		{"u:p@", Access{User: "v", Password: "q"}, basic("u", "p")},
	} {
		seen := ""
		at := serve(t, "127.0.0.2", func(w http.ResponseWriter, req *http.Request) {
			seen = req.Header.Get("Authorization")
			io.WriteString(w, goodAnswer)
		})
		s, err := New(Config{URLs: []string{strings.Replace(at, "http://", "http://"+c.user, 1)}, Access: c.access})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Read(t.Context())
		s.client.http.CloseIdleConnections()
		if err != nil || seen != c.want {
			t.Errorf("%s %+v: said %q, %v, want %q", c.user, c.access, seen, err, c.want)
		}
	}
}

func TestWhoIsRefusedIsToldWhereToLook(t *testing.T) {
	const user, token = "--marathon-user and --marathon-password", "--marathon-token and --marathon-token-scheme"
	rsa := newKey(t)
	for _, c := range []struct {
		status int
		body   string
		user   string
		access Access
		want   string
	}{
		{401, `{"message":"Who?"}`, "", Access{User: "u", Password: "zecret"}, "401 Unauthorized: Who? (look at " + user + ")"},
		{403, `{"message":"Not allowed"}`, "", Access{User: "u", Password: "zecret"}, "403 Forbidden: Not allowed (look at " + user + ")"},
		{401, `<html>`, "", Access{Token: "zecret"}, "401 Unauthorized (look at " + token + ")"},
		{401, "", "", Access{Token: "zecret", TokenScheme: SchemeBearer}, "401 Unauthorized (look at --marathon-token)"},
		{401, "", "u:zecret@", Access{Token: "zecret"}, "401 Unauthorized (look at the user and password in --marathon)"},
		{401, "", "", Access{}, "401 Unauthorized (no credentials are given; see --marathon-user)"},
		{403, "", "", Access{ServiceAccount: accountJSON(t, rsa, "LOGIN")}, "403 Forbidden (look at --marathon-service-account)"},
		{401, `{"message":"token zecret is not known"}`, "", Access{Token: "zecret"}, "401 Unauthorized (look at " + token + ")"},
		{500, `{"message":"token=zecret"}`, "", Access{Token: "zecret"}, "500 Internal Server Error"},
		{403, `{"message":"u:zecret"}`, "", Access{User: "u", Password: "zecret"}, "403 Forbidden (look at " + user + ")"},
		{403, `{"message":"dTp6ZWNyZXQ="}`, "", Access{User: "u", Password: "zecret"}, "403 Forbidden (look at " + user + ")"},
		{403, `{"message":"z\"t"}`, "", Access{User: "u", Password: `z"t`}, "403 Forbidden (look at " + user + ")"},
	} {
		at := serve(t, "127.0.0.2", answer(c.status, c.body))
		login := serve(t, "127.0.0.3", answer(200, `{"token":"zecret"}`))
		c.access.ServiceAccount = strings.Replace(c.access.ServiceAccount, "LOGIN", login, 1)
		s, err := New(Config{URLs: []string{strings.Replace(at, "http://", "http://"+c.user, 1)}, Access: c.access})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Read(t.Context())
		s.client.http.CloseIdleConnections()
		if want := fmt.Sprintf("read marathon: %s: %s", at, c.want); err == nil || err.Error() != want {
			t.Errorf("%d %s to %+v:\n got %v\nwant %s", c.status, c.body, c.access, err, want)
		}
	}
}

func TestWhoIsRefusedAfterARedirectIsTold(t *testing.T) {
	evil := serve(t, "127.0.0.3", answer(401, ""))
	standby := serve(t, "127.0.0.2", func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, evil, http.StatusFound) })
	s, err := New(Config{URLs: []string{standby}, Access: Access{Token: "zecret"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.client.http.CloseIdleConnections)
	_, err = s.Read(t.Context())
	want := fmt.Sprintf("read marathon: %s: 401 Unauthorized (a redirect led to %s, where our credentials do not go)", standby, evil)
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestALoginThatTakesTooLongIsNamed(t *testing.T) {
	end := make(chan struct{})
	login := serve(t, "127.0.0.3", func(http.ResponseWriter, *http.Request) { <-end })
	t.Cleanup(func() { close(end) })
	s, err := New(Config{URLs: []string{"http://127.0.0.2:1"}, Access: Access{ServiceAccount: accountJSON(t, newKey(t), login)}})
	if err != nil {
		t.Fatal(err)
	}
	s.client.timeout = 10 * time.Millisecond
	want := "read marathon: http://127.0.0.2:1: log in at " + login + ": no whole answer in time"
	if _, err := s.Read(t.Context()); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
