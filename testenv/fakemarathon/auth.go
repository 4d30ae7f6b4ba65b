package fakemarathon

import (
	"cmp"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// SecureReplica is Replica over TLS. Whether clients must show certificates, and which, is in secure.
func (c *Cluster) SecureReplica(addr string, secure *tls.Config) (*Replica, error) {
	return c.replica(addr, secure)
}

// listen listens, over TLS unless secure is nil. Streams take connections over, which HTTP/2 has not.
func listen(addr string, secure *tls.Config) (l net.Listener, scheme string, err error) {
	l, err = net.Listen("tcp", addr)
	if err != nil {
		return nil, "", fmt.Errorf("fake Marathon: %w", err)
	}
	if secure == nil {
		return l, "http", nil
	}
	secure = secure.Clone()
	secure.NextProtos = []string{"http/1.1"}
	return tls.NewListener(l, secure), "https", nil
}

// quiet is for what clients do wrong, such as trusting nobody.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// loginPath is where DC/OS has it.
const loginPath = "/acs/api/v1/auth/login"

// Login is a DC/OS login endpoint of one service account. While a cluster has one, its replicas want a token of it.
type Login struct {
	cluster *Cluster
	url     string
	uid     string
	key     *rsa.PublicKey
	server  *http.Server

	// Under the cluster's lock:
	life     time.Duration
	status   int
	opaque   bool
	attempts int
	issued   []issued
}

type issued struct {
	token string
	until time.Time
}

// Login starts the endpoint, over TLS unless secure is nil, and makes all replicas want its tokens. They last an hour. It ends
// with the cluster.
func (c *Cluster) Login(addr string, secure *tls.Config, uid string, key *rsa.PublicKey) (*Login, error) {
	l, scheme, err := listen(addr, secure)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.Join(errors.New("fake Marathon: the cluster is closed"), l.Close())
	}
	g := &Login{cluster: c, url: scheme + "://" + l.Addr().String() + loginPath, uid: uid, key: key, life: time.Hour}
	g.server = &http.Server{Handler: g, ErrorLog: quiet()}
	c.login = g
	c.wg.Go(func() { _ = g.server.Serve(l) }) // ends with ErrServerClosed, always
	return g, nil
}

// URL is the account's login_endpoint.
func (g *Login) URL() string { return g.url }

// SetLife says how long later tokens last, to the next full second.
func (g *Login) SetLife(life time.Duration) { g.set(func() { g.life = life }) }

// SetOpaque makes later tokens random text that does not say when it ends.
func (g *Login) SetOpaque() { g.set(func() { g.opaque = true }) }

// SetStatus makes the endpoint give this answer to all; 0 ends that.
func (g *Login) SetStatus(status int) { g.set(func() { g.status = status }) }

// Expire makes all tokens so far useless, whatever they say.
func (g *Login) Expire() {
	g.set(func() {
		for i := range g.issued {
			g.issued[i].until = time.Time{}
		}
	})
}

func (g *Login) set(change func()) {
	g.cluster.mu.Lock()
	defer g.cluster.mu.Unlock()
	change()
}

// Attempts is how often somebody wanted to log in.
func (g *Login) Attempts() (n int) {
	g.set(func() { n = g.attempts })
	return n
}

// Tokens gives all tokens, also those that are of no use any more.
func (g *Login) Tokens() (tokens []string) {
	g.set(func() {
		for _, i := range g.issued {
			tokens = append(tokens, i.token)
		}
	})
	return tokens
}

// ServeHTTP gives a token for a login that the account's key has signed.
func (g *Login) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var in struct{ UID, Token string }
	err := json.NewDecoder(req.Body).Decode(&in)
	if err == nil {
		err = g.check(in.UID, in.Token)
	}
	if req.Method != http.MethodPost || req.URL.Path != loginPath {
		http.NotFound(w, req)
		return
	}
	status, body := g.answer(err == nil)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintln(w, mustJSON(body))
}

func (g *Login) answer(good bool) (int, any) {
	c := g.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	g.attempts++
	c.notify()
	status := cmp.Or(g.status, http.StatusOK)
	if !good {
		status = http.StatusUnauthorized
	}
	if status != http.StatusOK {
		return status, object{"title": http.StatusText(status), "description": "Invalid user ID / service account.", "code": "ERR_INVALID_CREDENTIALS"}
	}
	until := time.Unix(int64(math.Ceil(float64(time.Now().Add(g.life).UnixNano())/1e9)), 0)
	token := "opaque-" + c.uuid()
	if !g.opaque {
		token = segment([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + segment([]byte(mustJSON(object{"uid": g.uid, "exp": until.Unix()}))) + "." + segment([]byte(c.uuid()))
	}
	g.issued = append(g.issued, issued{token, until})
	return status, object{"token": token}
}

func segment(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// check checks a login's own token as DC/OS does.
func (g *Login) check(uid, token string) error {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return errors.New("no JSON web token")
	}
	var raw [3][]byte
	for i, p := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(p); err != nil {
			return err
		}
	}
	var header struct{ Alg string }
	var claims struct {
		UID string
		Exp int64
	}
	if err := errors.Join(json.Unmarshal(raw[0], &header), json.Unmarshal(raw[1], &claims)); err != nil {
		return err
	}
	left := time.Until(time.Unix(claims.Exp, 0))
	if header.Alg != "RS256" || uid != g.uid || claims.UID != uid || left <= 0 || left > time.Hour {
		return errors.New("wrong claims")
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	return rsa.VerifyPKCS1v15(g.key, crypto.SHA256, digest[:], raw[2])
}

// admits reports whether a request has what the cluster wants, beside the faults of one replica.
func (c *Cluster) admits(req *http.Request) bool {
	if c.login == nil {
		return true
	}
	token, found := strings.CutPrefix(req.Header.Get("Authorization"), "token=")
	i := slices.IndexFunc(c.login.issued, func(i issued) bool { return i.token == token })
	return found && i >= 0 && time.Now().Before(c.login.issued[i].until)
}
