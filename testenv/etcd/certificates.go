package etcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Certificates are a certificate authority for tests and what it signed, as files in a directory: NAME.crt and NAME.key, for the
// authority's own name too. They are good for an hour.
type Certificates struct {
	dir, name string
	ca        *x509.Certificate
	key       *ecdsa.PrivateKey
}

// NewCertificates makes an authority with a name and writes its files.
func NewCertificates(dir, name string) (*Certificates, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	c := &Certificates{dir: dir, name: name, key: key, ca: &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}}
	return c, c.write(name, c.ca, key)
}

// Sign writes a certificate and a key for 127.0.0.1, which are good for a server and for a client.
func (c *Certificates) Sign(name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return c.write(name, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, key)
}

func (c *Certificates) write(name string, template *x509.Certificate, key *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, template, c.ca, &key.PublicKey, c.key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(c.File(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(c.File(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600))
}

// File gives the path of a file, such as "NAME.crt".
func (c *Certificates) File(name string) string { return filepath.Join(c.dir, name) }

// Client gives what a client needs that trusts the authority and shows the certificate of that name.
func (c *Certificates) Client(name string) (*tls.Config, error) {
	own, err := tls.LoadX509KeyPair(c.File(name+".crt"), c.File(name+".key"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	authority, err := os.ReadFile(c.File(c.name + ".crt"))
	if err != nil {
		return nil, err
	}
	pool.AppendCertsFromPEM(authority)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{own}}, nil
}
