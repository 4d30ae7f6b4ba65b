package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/etcd"
)

// door writes an etcd that does not let in everybody.
type door struct {
	regWorld
	http     *http.Client
	base     string
	password string // of root; without it nobody has to say who he is
	token    string // that v3 gave for it
}

func (w regWorld) door(secure *tls.Config) *door {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: secure, DisableKeepAlives: true}}
	return &door{regWorld: w, http: client, base: w.etcd.Members[0].URL()}
}

// ask sends a request and gives the answer.
func (d *door) ask(ctx context.Context, method, path, contentType, body string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, d.base+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", contentType)
	switch {
	case strings.HasPrefix(path, "/v2/"):
		req.SetBasicAuth("root", d.password) // is not looked at while there is no need to
	case d.token != "":
		req.Header.Set("Authorization", d.token)
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s %s", method, path, resp.Status, answer)
	}
	return string(answer), err
}

func (d *door) mustAsk(method, path, body string) string {
	d.Helper()
	answer, err := d.ask(d.patient(), method, path, "application/json", body)
	d.must(err)
	return answer
}

// put writes a key into each store: the same service, with another container.
func (d *door) put(port int, v2, v3 *stage.Instance) {
	d.Helper()
	_, err := d.ask(d.patient(), http.MethodPut, fmt.Sprintf("/v2/keys/services/r%d/vm:%s:%d", port, v2.Name, port),
		"application/x-www-form-urlencoded", url.Values{"value": {v2.Addr}}.Encode())
	d.must(err)
	body, err := json.Marshal(map[string][]byte{"key": fmt.Appendf(nil, "/services/r%d/vm:%s:%d", port, v3.Name, port), "value": []byte(v3.Addr)})
	d.must(err)
	d.mustAsk(http.MethodPost, "/v3/kv/put", string(body))
}

// pair starts containers of a service, one for each store, that no registrator knows.
func (d *door) pair(port int) (v2, v3 *stage.Instance) {
	d.Helper()
	nobody := d.agent("v2", "nobody", 0)
	nobody.Crash()
	return d.add(nobody, port), d.add(nobody, port)
}

// served lets proxymatic serve what is behind the door, and then what comes there.
func (d *door) served(flags ...string) {
	d.Helper()
	port := d.ports(1)[0]
	first, second := d.pair(port)
	d.put(port, first, second)
	d.start(flags...)
	d.answers(first, second)
	third, fourth := d.pair(port)
	d.put(port, third, fourth)
	d.answers(third, fourth)
	d.settled()
}

// refusedTo checks what somebody is told whom etcd does not let in.
func (d *door) refusedTo(flags []string, words ...string) {
	d.Helper()
	out, err := d.host.Command(d.patient(), append([]string{"services", "--registrator", d.url}, flags...)...)
	d.must(err)
	if out.Code != 1 || !containsAll(out.Stderr, words) {
		d.Errorf("%q: got %+v, want exit code 1 and %q", flags, out, words)
	}
}

func TestRegistratorTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, err := etcd.NewCertificates(dir, "ca")
	stranger, strangerErr := etcd.NewCertificates(dir, "stranger")
	if err := errors.Join(err, strangerErr, c.Sign("server"), c.Sign("client")); err != nil {
		t.Fatal(err)
	}
	w := newRegWorld(t, "etcd", etcd.Config{Secure: c})
	secure, err := c.Client("client")
	w.must(err)
	ours := []string{"--registrator-cert", c.File("client.crt"), "--registrator-key", c.File("client.key")}
	d := w.door(secure)
	d.served(append(ours, "--registrator-ca", c.File("ca.crt"))...)
	d.refusedTo(append(ours, "--registrator-ca", stranger.File("stranger.crt")), "certificate signed by unknown authority")
	d.refusedTo([]string{"--registrator-ca", c.File("ca.crt")}, "remote error: tls")
}

func TestRegistratorUserAndPassword(t *testing.T) {
	t.Parallel()
	w := newRegWorld(t, "etcd", etcd.Config{})
	d := w.door(nil)
	d.password = "pw-root"
	d.mustAsk(http.MethodPut, "/v2/auth/users/root", `{"user":"root","password":"pw-root"}`)
	d.mustAsk(http.MethodPut, "/v2/auth/enable", "")
	d.mustAsk(http.MethodPut, "/v2/auth/roles/guest", `{"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}`)
	d.mustAsk(http.MethodPost, "/v3/auth/role/add", `{"name":"root"}`)
	d.mustAsk(http.MethodPost, "/v3/auth/user/add", `{"name":"root","password":"pw-root"}`)
	d.mustAsk(http.MethodPost, "/v3/auth/user/grant", `{"user":"root","role":"root"}`)
	d.mustAsk(http.MethodPost, "/v3/auth/enable", "{}")
	var login struct{ Token string }
	w.must(json.Unmarshal([]byte(d.mustAsk(http.MethodPost, "/v3/auth/authenticate", `{"name":"root","password":"pw-root"}`)), &login))
	d.token = login.Token

	file := w.host.Path("password")
	w.must(os.WriteFile(file, []byte("pw-root\n"), 0o600))
	w.host.Env = append(os.Environ(), "REGISTRATOR_PASSWORD_FILE="+file)
	d.served("--registrator-user", "root")
	w.host.Env = nil
	for _, store := range []string{"etcd2", "etcd3"} {
		d.url = store + "://" + w.etcd.Addrs()
		d.refusedTo([]string{"--registrator-user", "root", "--registrator-password", "pw-zecret"}, "authenticat")
		d.refusedTo(nil, "user")
	}
	if strings.Contains(w.host.Log(), "pw-") {
		t.Error("the log tells a password")
	}
}
