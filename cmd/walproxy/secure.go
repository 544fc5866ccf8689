package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/walproxy/walproxy/internal/access"
	"github.com/walproxy/walproxy/internal/certs"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/httpserve"
)

// openCertificates loads what the endpoints show, before anything else is opened.
func (i *instance) openCertificates() error {
	i.certificates = map[string]*certs.Server{}
	for name, c := range endpointTLS(i.config) {
		if c.Cert == "" {
			continue
		}
		server, err := certs.Open(filesOf(c), i.logger.Named(name), protocolsOf(name)...)
		if err != nil {
			return fmt.Errorf("%s.tls: %w", name, err)
		}
		i.certificates[name] = server
	}
	return nil
}

// endpointTLS are the certificates that are read again when they are renewed. Those of
// pgwire are not: what it says to PostgreSQL about a client depends on them.
func endpointTLS(c *config.Config) map[string]config.TLS {
	of := map[string]config.TLS{"api": c.API.TLS, "admin": c.Admin.TLS}
	if c.AeroWire != nil {
		of["aerowire"] = c.AeroWire.TLS
	}
	return of
}

func filesOf(c config.TLS) certs.Files {
	return certs.Files{Cert: c.Cert, Key: c.Key, ClientCA: c.ClientCA}
}

func protocolsOf(endpoint string) []string {
	if endpoint == "aerowire" {
		return nil
	}
	return httpserve.Protocols
}

// secure is TLS of an endpoint; nil: it has none.
func (i *instance) secure(endpoint string) *tls.Config {
	if server := i.certificates[endpoint]; server != nil {
		return server.Config()
	}
	return nil
}

func (i *instance) serve() {
	for _, warning := range i.config.Exposed() {
		i.logger.Warn(warning)
	}
	i.apiServer = i.serveHTTP("api", i.apiListener, i.rest, i.config.API.MaxConnections, i.config.API.HTTP)
	i.adminServer = i.serveHTTP("admin", i.adminListener, i.adminAccess.Handler(i.adminHandler, access.AdminRight),
		i.config.Admin.MaxConnections, i.config.Admin.HTTP)
}

func (i *instance) serveHTTP(name string, l net.Listener, h http.Handler, connections int, c config.HTTP) *httpserve.Server {
	return httpserve.Start(httpserve.Options{
		Name: name, Listener: l, Handler: h, MaxConnections: connections, TLS: i.secure(name),
		HeaderTimeout: time.Duration(c.HeaderTimeout), IdleTimeout: time.Duration(c.IdleTimeout), MaxStreams: c.MaxStreams,
		Logger: i.logger.Named(name),
	})
}
