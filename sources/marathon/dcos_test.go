package marathon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"
)

// newKey gives a key, as short as can be, since it is not to be safe.
func newKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// accountJSON gives the JSON of a service account.
func accountJSON(t testing.TB, key *rsa.PrivateKey, endpoint string) string {
	t.Helper()
	text, err := json.Marshal(map[string]string{"uid": "proxymatic", "scheme": "RS256", "login_endpoint": endpoint,
		"private_key": pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestServiceAccounts(t *testing.T) {
	key := newKey(t)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.MarshalPKCS8PrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	const endpoint = "https://leader.mesos/acs/api/v1/auth/login"
	good := pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
	for _, c := range []struct {
		name, uid, scheme, key, endpoint string
		want                             string
	}{
		{"PKCS#1", "p", "RS256", good, endpoint, ""},
		{"PKCS#8", "p", "RS256", pemOf("PRIVATE KEY", pkcs8), endpoint, ""},
		{"no scheme", "p", "", good, endpoint, ""},
		{"no uid", "", "RS256", good, endpoint, "uid is missing"},
		{"another scheme", "p", "HS256", good, endpoint, "scheme should be RS256"},
		{"no key", "p", "RS256", "", endpoint, `private_key: want a private key in PEM form, with \n for its line breaks`},
		{"no RSA", "p", "RS256", pemOf("PRIVATE KEY", other), endpoint, "private_key: want an RSA key"},
		{"rubbish", "p", "RS256", pemOf("PRIVATE KEY", []byte("zecret")), endpoint, "private_key: want an RSA key"},
		{"no endpoint", "p", "RS256", good, "", "login_endpoint should be a URL such as " + endpoint},
		{"a password in the endpoint", "p", "RS256", good, "https://u:zecret@leader", "login_endpoint should be a URL such as " + endpoint},
		{"a query in the endpoint", "p", "RS256", good, endpoint + "?zecret", "login_endpoint should be a URL such as " + endpoint},
	} {
		text, err := json.Marshal(map[string]string{"uid": c.uid, "scheme": c.scheme, "private_key": c.key, "login_endpoint": c.endpoint})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if _, err := parseAccount(string(text)); err != nil {
			got = strings.TrimPrefix(err.Error(), "--marathon-service-account: ")
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	for _, text := range []string{"", "zecret", `"zecret"`, `{"uid":7}`, good} {
		if _, err := parseAccount(text); err == nil || !strings.Contains(err.Error(), "--marathon-service-account: want JSON such as") || strings.Contains(err.Error(), "zecret") {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestLivesOfTokens(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	jwt := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	for token, want := range map[string]time.Duration{
		jwt(`{"exp":1000060,"uid":"p"}`):    time.Minute,
		jwt(`{"exp":1000060.5}`):            time.Minute + 500*time.Millisecond,
		jwt(`{"exp":1000060}`) + "=":        time.Minute,
		jwt(`{"exp":999999}`):               0,
		jwt(`{"exp":1e300}`):                240 * time.Hour,
		jwt(`{"exp":-1e300}`):               0,
		jwt(`{"exp":1e999}`):                0,
		jwt(`{"exp":"1000060"}`):            0,
		jwt(`{}`):                           0,
		jwt(`null`):                         0,
		"e30.!!.c2ln":                       0,
		"opaque":                            0,
		"":                                  0,
		jwt(`{"exp":1000060}`) + ".another": 0,
	} {
		if got := life(token, now); got != want {
			t.Errorf("%s: got %s, want %s", token, got, want)
		}
	}
}

func FuzzServiceAccount(f *testing.F) {
	good := accountJSON(f, newKey(f), "https://login")
	f.Add(good)
	f.Add(strings.ReplaceAll(good, "RSA ", ""))
	f.Add(`{"uid":"zecret","private_key":"-----BEGIN X-----\n\n-----END X-----"}`)
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseAccount(text)
		if err == nil {
			if _, err := a.request(time.Now()); err != nil || a.endpoint.User != nil {
				t.Errorf("%q is taken, and then: %v", text, err)
			}
			return
		}
		// All errors are made of our own words, so none is longer than the longest.
		if !strings.HasPrefix(err.Error(), "--marathon-service-account: ") || len(err.Error()) > 200 {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func FuzzLife(f *testing.F) {
	f.Add("e30.eyJleHAiOjEwMDAwNjB9.c2ln")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		if got := life(token, time.Unix(1_000_000, 0)); got < 0 || got > 10*maxUse {
			t.Errorf("%q lives for %s", token, got)
		}
	})
}
