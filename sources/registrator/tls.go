package registrator

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// tlsConfig reads the certificates' files; without any it gives nil, which is no TLS.
func tlsConfig(config Config) (*tls.Config, error) {
	if (config.CertFile == "") != (config.KeyFile == "") {
		return nil, errors.New("registrator: a client certificate and its key are given together")
	}
	if config.CAFile == "" && config.CertFile == "" {
		return nil, nil
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	if config.CAFile != "" {
		pem, err := os.ReadFile(config.CAFile)
		if err != nil {
			return nil, fmt.Errorf("registrator: CA certificates: %w", err)
		}
		secure.RootCAs = x509.NewCertPool()
		if !secure.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("registrator: CA certificates: %s has none in PEM form", config.CAFile)
		}
	}
	if config.CertFile == "" {
		return secure, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(config.CertFile, config.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("client certificate %s: %w", config.CertFile, err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return nil, fmt.Errorf("registrator: %w", err)
	}
	// Certificates are renewed while we run.
	secure.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return secure, nil
}
