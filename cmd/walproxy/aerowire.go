package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire"
	"github.com/walproxy/walproxy/internal/config"
)

// startAerowire serves clients of Aerospike, if the configuration says so.
func (i *instance) startAerowire() error {
	c := i.config.AeroWire
	if c == nil {
		return nil
	}
	secure, err := tlsConfig(c.TLS)
	if err != nil {
		return fmt.Errorf("aerowire.tls: %w", err)
	}
	i.aerowire, err = aerowire.Start(aerowire.Options{
		Core:             api.New(i.proxy),
		Listener:         i.aerowireListener,
		Namespaces:       c.Namespaces,
		TLS:              secure,
		ClusterName:      c.ClusterName,
		MaxConnections:   c.MaxConnections,
		MaxRequestBytes:  int(c.MaxRequestBytes),
		MaxInFlightBytes: int64(c.MaxInFlightBytes),
		MaxRecordBytes:   int(c.MaxRecordBytes),
		MaxBatchRows:     c.MaxBatchRows,
		IdleTimeout:      time.Duration(c.IdleTimeout),
		Logger:           i.logger.Named("aerowire"),
	})
	return err
}

// aerowireFailed is nil, and so never ready, without an endpoint.
func (i *instance) aerowireFailed() <-chan error {
	if i.aerowire == nil {
		return nil
	}
	return i.aerowire.Failed()
}

// tlsConfig loads certificates; nil: there are none.
func tlsConfig(c config.TLS) (*tls.Config, error) {
	if c.Cert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, err
	}
	secure := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if c.ClientCA == "" {
		return secure, nil
	}
	pem, err := os.ReadFile(c.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("client_ca: %w", err)
	}
	secure.ClientCAs = x509.NewCertPool()
	if !secure.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("client_ca: %s holds no certificate", c.ClientCA)
	}
	secure.ClientAuth = tls.RequireAndVerifyClientCert
	return secure, nil
}
