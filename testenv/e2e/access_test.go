package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/etcd"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

// tells waits until the status names the reason why Marathon cannot be read.
func (m *member) tells(words string) {
	m.Helper()
	m.must(stage.Until(m.patient(), func() error {
		if s := m.status().Sources[0]; s.Up || !strings.Contains(s.Error, words) {
			return fmt.Errorf("the source is %+v, want an error with %s", s, words)
		}
		return nil
	}))
}

// changes adds a task, and waits until it is served.
func (m *member) changes(port int) {
	m.Helper()
	_, err := m.site.AddTask(port)
	m.must(err)
	m.settled()
}

// way is one way to say who we are.
type way struct {
	wants  func(*fakemarathon.Faults) // what Marathon wants to be told
	other  func(*fakemarathon.Faults) // the same after somebody changed it there
	right  func(*member) (env, flags []string)
	wrong  func(*member) (env, flags []string)
	hint   string // what those are told whom Marathon does not let in
	inArgs bool   // the secret is on the command line
}

func basicWay(right, wrong func(*member) (env, flags []string), hint string) way {
	return way{right: right, wrong: wrong, hint: hint,
		wants: func(f *fakemarathon.Faults) { f.BasicAuth = "proxymatic:" + rightPassword },
		other: func(f *fakemarathon.Faults) { f.BasicAuth = "proxymatic:another" }}
}

// withURL is a user and a password in the URL, in a file.
func withURL(password string) func(m *member) (env, flags []string) {
	return func(m *member) (env, flags []string) {
		url := strings.Replace(m.site.URL, "http://", "http://proxymatic:"+escaped(password)+"@", 1)
		return []string{m.secretFile("MARATHON_URL", url)}, nil
	}
}

func withFile(variable, secret string, more ...string) func(m *member) (env, flags []string) {
	return func(m *member) (env, flags []string) {
		return []string{m.secretFile(variable, secret)}, append([]string{"--marathon", m.site.URL}, more...)
	}
}

func withEnv(variable, secret string, more ...string) func(m *member) (env, flags []string) {
	return func(m *member) (env, flags []string) {
		return []string{variable + "=" + secret}, append([]string{"--marathon", m.site.URL}, more...)
	}
}

func ways() map[string]way {
	const user, userHint = "--marathon-user=proxymatic", "(look at --marathon-user and --marathon-password)"
	inFlags := basicWay(withEnv("NOTHING", "", user, "--marathon-password", rightPassword), withEnv("NOTHING", "", user, "--marathon-password", wrongPassword), userHint)
	inFlags.inArgs = true
	return map[string]way{
		"URL":                     basicWay(withURL(rightPassword), withURL(wrongPassword), "(look at the user and password in --marathon)"),
		"flags":                   inFlags,
		"password in a file":      basicWay(withFile("MARATHON_PASSWORD", rightPassword, user), withFile("MARATHON_PASSWORD", wrongPassword, user), userHint),
		"password in environment": basicWay(withEnv("MARATHON_PASSWORD", rightPassword, user), withEnv("MARATHON_PASSWORD", wrongPassword, user), userHint),
		"token": {hint: "(look at --marathon-token and --marathon-token-scheme)",
			wants: func(f *fakemarathon.Faults) { f.Token = rightToken }, other: func(f *fakemarathon.Faults) { f.Token = "another" },
			right: withFile("MARATHON_TOKEN", rightToken), wrong: withFile("MARATHON_TOKEN", wrongToken)},
		"bearer": {hint: "(look at --marathon-token)",
			wants: func(f *fakemarathon.Faults) { f.Bearer = rightToken }, other: func(f *fakemarathon.Faults) { f.Bearer = "another" },
			right: withEnv("MARATHON_TOKEN", rightToken, "--marathon-token-scheme", "Bearer"), wrong: withEnv("MARATHON_TOKEN", wrongToken, "--marathon-token-scheme", "Bearer")},
	}
}

// Each way to say who we are is taken; without it, and when it is no longer taken, the reason is told; and nobody is ever told the
// secret.
func TestMarathonAccess(t *testing.T) {
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMember(t)
			m.site.Marathon.SetFaults(way.wants)
			ports := m.services(2, 2)
			m.must(m.site.AddUDPService(m.ports(1)[0], 1))

			env, flags := way.wrong(m)
			services, printed := m.commands(env, flags...)
			m.says(services, 1, "401 Unauthorized", way.hint)
			env, flags = way.right(m)
			services, more := m.commands(env, flags...)
			m.says(services, 0, fmt.Sprintf("s%d.shop", ports[0]))
			if places := m.shown(map[string]string{"what commands print": printed + more}); len(places) > 0 {
				m.Errorf("a secret is shown by %q", places)
			}

			m.run(env, flags...)
			m.must(m.site.Marathon.WaitStream(m.patient()))
			load := m.load(ports, 100)
			m.changes(ports[0])
			m.site.Marathon.SetFaults(way.other) // somebody changed it
			m.site.Marathon.CloseStreams()
			m.tells(way.hint)
			before := m.site.Wanted()
			_, err := m.site.AddTask(ports[1])
			m.must(err)
			m.mustRun(before, "Marathon does not let us in")
			seen := m.lookout()
			m.site.Marathon.SetFaults(way.wants)
			m.settled()
			m.changes(ports[1])
			m.flawless(load)
			if way.inArgs {
				// What the lookout is able to find.
				if want := fmt.Sprintf("cmdline of process %d", m.host.Pid()); !slices.Equal(m.shown(seen), []string{want}) {
					m.Errorf("a secret is shown by %q, want just the %s", m.shown(seen), want)
				}
			} else if places := m.shown(seen); len(places) > 0 {
				m.Errorf("a secret is shown by %q", places)
			} else {
				m.keepsSecrets()
			}
			m.ends()
		})
	}
}

// accountOf gives the JSON of a service account and its secrets.
func (m *member) accountOf(key *rsa.PrivateKey, endpoint string) string {
	m.Helper()
	text := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	account, err := json.Marshal(map[string]string{"uid": "proxymatic", "scheme": "RS256", "login_endpoint": endpoint, "private_key": text})
	m.must(err)
	m.secrets = append(m.secrets, "BEGIN RSA", strings.Split(text, "\n")[2])
	m.secrets = append(m.secrets, base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256"`))) // what we sign ourselves
	return string(account)
}

func TestMarathonServiceAccount(t *testing.T) {
	t.Parallel()
	m := newMember(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	m.must(err)
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	m.must(err)
	login, err := m.site.Marathon.Login("127.0.0.1:0", nil, "proxymatic", &key.PublicKey)
	m.must(err)
	login.SetLife(time.Second)
	ports := m.services(2, 2)
	m.must(m.site.AddUDPService(m.ports(1)[0], 1))
	env := []string{m.secretFile("MARATHON_SERVICE_ACCOUNT", m.accountOf(key, login.URL()))}
	wrong := []string{m.secretFile("MARATHON_SERVICE_ACCOUNT", m.accountOf(stranger, login.URL()))}
	services, printed := m.commands(wrong, "--marathon", m.site.URL)
	m.says(services, 1, "log in at "+login.URL()+": 401 Unauthorized; look at --marathon-service-account")

	m.run(env, "--marathon", m.site.URL)
	load := m.load(ports, 100)
	m.must(stage.Until(m.patient(), func() error { // tokens end all the time
		if n := len(login.Tokens()); n < 4 {
			return fmt.Errorf("%d tokens", n)
		}
		return nil
	}))
	m.changes(ports[0])
	for line := range strings.Lines(m.host.Log()) {
		if strings.Contains(line, "level=WARN") && !strings.Contains(line, `subject="HAProxy 2.2`) {
			m.Errorf("tokens that end are a warning: %s", line)
		}
	}
	login.SetLife(time.Hour)
	login.SetOpaque()
	login.Expire() // long before they say
	m.site.Marathon.CloseStreams()
	m.changes(ports[1])

	login.SetStatus(http.StatusServiceUnavailable)
	login.Expire()
	m.tells("log in at " + login.URL() + ": 503 Service Unavailable")
	seen := m.lookout()
	login.SetStatus(0)
	m.changes(ports[0])
	m.flawless(load)
	m.secrets = append(m.secrets, login.Tokens()...)
	seen["what commands print"] = printed
	if places := m.shown(seen); len(places) > 0 {
		m.Errorf("a secret is shown by %q", places)
	}
	m.keepsSecrets()
	m.ends()
}

func TestMarathonTLS(t *testing.T) {
	t.Parallel()
	certs, err := etcd.NewCertificates(t.TempDir(), "ca")
	stranger, strangerErr := etcd.NewCertificates(t.TempDir(), "stranger")
	if err := errors.Join(err, strangerErr, certs.Sign("server"), certs.Sign("client")); err != nil {
		t.Fatal(err)
	}
	m := newMember(t)
	secure, err := certs.Client("server")
	m.must(err)
	r, err := m.site.Marathon.SecureReplica("127.0.0.1:0", &tls.Config{Certificates: secure.Certificates, ClientCAs: secure.RootCAs, ClientAuth: tls.RequireAndVerifyClientCert})
	m.must(err)
	m.site.Marathon.FailOver(1)
	m.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.Token = rightToken })
	key, err := os.ReadFile(certs.File("client.key"))
	m.must(err)
	m.secrets = append(m.secrets, "BEGIN EC", strings.Split(string(key), "\n")[1])
	ports := m.services(2, 2)
	m.must(m.site.AddUDPService(m.ports(1)[0], 1))

	env := []string{m.secretFile("MARATHON_TOKEN", rightToken), "MARATHON_URL=" + r.URL()}
	ours := []string{"--marathon-cert", certs.File("client.crt"), "--marathon-key", certs.File("client.key")}
	for _, bad := range []struct {
		flags []string
		want  string
	}{
		{ours, "certificate signed by unknown authority (see --marathon-ca)"},
		{append([]string{"--marathon-ca", stranger.File("stranger.crt")}, ours...), "certificate signed by unknown authority (see --marathon-ca)"},
		{[]string{"--marathon-ca", certs.File("ca.crt")}, "certificate required (see --marathon-cert and --marathon-key)"},
		{[]string{"--marathon-insecure", "--marathon-ca", certs.File("ca.crt")}, "--marathon-ca and --marathon-insecure contradict each other"},
	} {
		services, _ := m.commands(env, bad.flags...)
		m.says(services, 1, bad.want)
	}
	services, _ := m.commands(env, append([]string{"--marathon-insecure"}, ours...)...)
	m.says(services, 0, fmt.Sprintf("s%d.shop", ports[0]))

	m.run(env, append([]string{"--marathon-ca", certs.File("ca.crt")}, ours...)...)
	m.changes(ports[0])
	m.must(m.site.Marathon.WaitStream(m.patient()))
	m.keepsSecrets()
	m.ends()
	m.run(env, append([]string{"--marathon-insecure"}, ours...)...)
	m.changes(ports[1])
	m.keepsSecrets()
	if !strings.Contains(m.host.Log(), "certificate is not checked") {
		m.Error("the log does not tell that nothing is checked")
	}
	m.ends()
}

// A standby redirects to the leader on another host, which gets the credentials; a stranger who is redirected to does not.
func TestMarathonRedirects(t *testing.T) {
	t.Parallel()
	m := newMember(t)
	leader, err := m.site.Marathon.Replica("127.77.0.2:0")
	m.must(err)
	m.site.Marathon.SetFaults(func(f *fakemarathon.Faults) { f.Token, f.Standby = rightToken, fakemarathon.StandbyRedirects })
	m.site.Marathon.FailOver(1)
	ports := m.services(2, 2)
	m.must(m.site.AddUDPService(m.ports(1)[0], 1))
	env := []string{m.secretFile("MARATHON_TOKEN", rightToken)}

	told := make(chan http.Header, 100)
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		told <- req.Header
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(stranger.Close)
	stray := httptest.NewUnstartedServer(http.RedirectHandler(strings.Replace(stranger.URL, "127.0.0.1", "localhost", 1), http.StatusFound))
	stray.Start()
	t.Cleanup(stray.Close)
	services, _ := m.commands(env, "--marathon", stray.URL)
	m.says(services, 1, "a redirect led to http://localhost:", "where our credentials do not go")
	for len(told) > 0 {
		if header := <-told; header.Get("Authorization") != "" {
			t.Errorf("a stranger was told %v", header)
		}
	}

	m.run(env, "--marathon", m.site.URL+","+leader.URL())
	m.must(m.site.Marathon.WaitStream(m.patient()))
	m.changes(ports[0])
	if n := m.site.Replica.Requests()["GET /v2/apps"]; n == 0 {
		t.Error("the standby was not asked")
	}
	m.keepsSecrets()
	m.ends()
}
