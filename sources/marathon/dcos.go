package marathon

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/url"
	"strings"
	"time"
)

// requestLife is how long a request to log in is good for, if somebody gets hold of it. Clocks differ by less.
const requestLife = 5 * time.Minute

// account is a service account of DC/OS.
type account struct {
	uid      string
	key      *rsa.PrivateKey
	endpoint *url.URL
}

// parseAccount reads an account's JSON. Its errors quote nothing of it.
func parseAccount(text string) (account, error) {
	var raw struct {
		UID        string `json:"uid"`
		Scheme     string `json:"scheme"`
		PrivateKey string `json:"private_key"`
		Endpoint   string `json:"login_endpoint"`
	}
	bad := func(reason string) (account, error) {
		return account{}, errors.New("--marathon-service-account: " + reason)
	}
	if json.Unmarshal([]byte(text), &raw) != nil {
		return bad(`want JSON such as {"uid":"...","private_key":"-----BEGIN ...","login_endpoint":"https://leader.mesos/acs/api/v1/auth/login","scheme":"RS256"}`)
	}
	endpoint, err := url.Parse(raw.Endpoint)
	switch {
	case raw.UID == "":
		return bad("uid is missing")
	case raw.Scheme != "" && raw.Scheme != "RS256":
		return bad("scheme should be RS256")
	case err != nil, endpoint.Scheme != "http" && endpoint.Scheme != "https", endpoint.Hostname() == "", endpoint.User != nil, endpoint.RawQuery != "":
		return bad("login_endpoint should be a URL such as https://leader.mesos/acs/api/v1/auth/login")
	}
	key, err := parseKey(raw.PrivateKey)
	if err != nil {
		return bad("private_key: " + err.Error())
	}
	a := account{uid: raw.UID, key: key, endpoint: endpoint}
	if _, err := a.request(time.Now()); err != nil {
		return bad("private_key cannot sign: " + err.Error())
	}
	return a, nil
}

func parseKey(text string) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("want a private key in PEM form, with \\n for its line breaks")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*rsa.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("want an RSA key")
	}
	return key, nil
}

// request gives the body of a login: a token of our own, signed with RS256.
func (a account) request(now time.Time) ([]byte, error) {
	claims, err := json.Marshal(map[string]any{"uid": a.uid, "exp": now.Add(requestLife).Unix()})
	if err != nil {
		return nil, err
	}
	token, err := sign(a.key, []byte(`{"alg":"RS256","typ":"JWT"}`), claims)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]string{"uid": a.uid, "token": token})
}

// sign gives a JSON web token. It is written out since it is this little, of one of the many forms that libraries know.
func sign(key *rsa.PrivateKey, header, claims []byte) (string, error) {
	text := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

// life is how long a token lasts by its own word, whose signature is not ours to check; 0 when it does not say. By a clock
// that differs a new token can seem to have expired: that says nothing either.
func life(token string, now time.Time) time.Duration {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0
	}
	claims, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	var said struct {
		Exp float64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(claims, &said) != nil {
		return 0
	}
	left := said.Exp - float64(now.UnixNano())/1e9
	return time.Duration(max(0, min(left, 10*maxUse.Seconds())) * float64(time.Second))
}
