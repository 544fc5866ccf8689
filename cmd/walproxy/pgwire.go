package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/walproxy/walproxy/api/pgwire"
	"github.com/walproxy/walproxy/internal/certs"
	"github.com/walproxy/walproxy/internal/config"
)

// startPGWire serves clients of PostgreSQL, if the configuration says so.
func (i *instance) startPGWire() error {
	c := i.config.PGWire
	if c == nil {
		return nil
	}
	secure, err := tlsConfig(c.TLS)
	if err != nil {
		return fmt.Errorf("pgwire.tls: %w", err)
	}
	upstream, err := pgwireUpstream(c.Upstream)
	if err != nil {
		return fmt.Errorf("pgwire.upstream: %w", err)
	}
	users, err := pgwireUsers(c)
	if err != nil {
		return err
	}
	i.pgwire, err = pgwire.Start(pgwire.Options{
		Listener:                 i.pgwireListener,
		Upstream:                 upstream,
		TLS:                      secure,
		RequireTLS:               c.RequireTLS,
		AllowTrust:               c.AllowTrust,
		RefuseReplication:        c.RefuseReplication,
		MaxConnections:           c.MaxConnections,
		MaxUserConnections:       c.MaxUserConnections,
		MaxDatabaseConnections:   c.MaxDatabaseConnections,
		MaxMessageBytes:          int64(c.MaxMessageBytes),
		LoginTimeout:             time.Duration(c.LoginTimeout),
		ConnectTimeout:           time.Duration(c.ConnectTimeout),
		QueryWait:                time.Duration(c.QueryWait),
		IdleTimeout:              time.Duration(c.IdleTimeout),
		IdleInTransactionTimeout: time.Duration(c.IdleInTransactionTimeout),
		StallTimeout:             time.Duration(c.StallTimeout),
		Users:                    users,
		Status:                   i.proxy.Status,
		ConsoleUsers:             c.ConsoleUsers,
		AuthQuery:                pgwireAuthQuery(c.AuthQuery),
		Away:                     pgwireAway(c.Away, i.config.DataDir),
		Pool:                     pgwirePool(c.Pool),
		WriteBehind:              i.writeBehind(),
		Logger:                   i.logger.Named("pgwire"),
		Registerer:               i.registry,
	})
	return err
}

// pgwireFailed is nil, and so never ready, without an endpoint.
func (i *instance) pgwireFailed() <-chan error {
	if i.pgwire == nil {
		return nil
	}
	return i.pgwire.Failed()
}

// pgwireUpstream translates the URL, and loads the certificates that it names.
func pgwireUpstream(text string) (pgwire.Upstream, error) {
	u, err := config.ParseUpstream(text)
	if err != nil {
		return pgwire.Upstream{}, err
	}
	to := pgwire.Upstream{TLSOptional: u.Mode == "prefer"}
	for _, a := range u.Addresses {
		to.Addresses = append(to.Addresses, pgwire.Address{Network: a.Network, Address: a.Address})
	}
	if u.Mode == "disable" {
		return to, nil
	}
	// As libpq: without a verify mode who answers is not asked who it is.
	to.TLS = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: u.Mode != "verify-full"}
	if u.RootCert != "" {
		if to.TLS.RootCAs, err = certs.Pool(u.RootCert); err != nil {
			return to, fmt.Errorf("sslrootcert: %w", err)
		}
	}
	if u.Mode == "verify-ca" || u.Mode == "require" && u.RootCert != "" {
		to.TLS.VerifyConnection = verifyAuthority(to.TLS.RootCAs)
	}
	if u.Cert != "" {
		cert, err := tls.LoadX509KeyPair(u.Cert, u.Key)
		if err != nil {
			return to, fmt.Errorf("sslcert: %w", err)
		}
		to.TLS.Certificates = []tls.Certificate{cert}
	}
	return to, nil
}

// verifyAuthority is verify-ca: who signed the certificate counts, not its name.
func verifyAuthority(roots *x509.CertPool) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return errors.New("PostgreSQL shows no certificate")
		}
		o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, cert := range state.PeerCertificates[1:] {
			o.Intermediates.AddCert(cert)
		}
		_, err := state.PeerCertificates[0].Verify(o)
		return err
	}
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
	if secure.ClientCAs, err = certs.Pool(c.ClientCA); err != nil {
		return nil, fmt.Errorf("client_ca: %w", err)
	}
	secure.ClientAuth = tls.RequireAndVerifyClientCert
	return secure, nil
}
