package main

import (
	"crypto/tls"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/certs"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/sinks/aerospike"
)

// openAerospike opens a sink named name. Sinks on one cluster share connections.
func (i *instance) openAerospike(name string, c config.Sink) (*aerospike.Sink, error) {
	if i.clusters == nil {
		i.clusters = aerospike.NewClients()
	}
	o, err := aerospikeOptions(name, c, i.logger, i.registry)
	if err != nil {
		return nil, err
	}
	o.Collections = append(fronted(i.config.AeroWire, name), o.Collections...)
	o.Clients = i.clusters
	return aerospike.Open(o)
}

// aerospikeOptions translates the configuration of a sink named name.
func aerospikeOptions(name string, c config.Sink, logger *zap.Logger, registry prometheus.Registerer) (aerospike.Options, error) {
	cl := c.Cluster
	o := aerospike.Options{
		Hosts: c.Hosts, ClusterName: cl.Name, Namespace: c.Namespace,
		State:  aerospike.Place{Namespace: cl.State.Namespace, Set: cl.State.Set},
		Settle: time.Duration(cl.Settle),
		Login:  aerospike.Login{User: cl.User, Password: cl.Password, External: cl.ExternalAuth},
		Services: aerospike.Services{
			Alternate: cl.Alternate, SeedOnly: cl.SeedOnly,
		},
		Connections: cl.Connections, BatchKeys: cl.BatchKeys,
		Timeouts: aerospike.Timeouts{
			Connect: time.Duration(c.Timeouts.Connect), Socket: time.Duration(c.Timeouts.Socket), Total: time.Duration(c.Timeouts.Total),
		},
		Logger: logger.Named("sink." + name),
	}
	if registry != nil {
		o.Registerer = prometheus.WrapRegistererWith(prometheus.Labels{"sink": name}, registry)
	}
	for _, pattern := range c.Patterns() {
		col := c.Collections[pattern]
		if col.Namespace == "" && col.Set == "" && !col.Digest && !col.SendKey {
			continue // what it says is not about where the records go
		}
		o.Collections = append(o.Collections, aerospike.Collection{
			Pattern: pattern, Namespace: col.Namespace, Set: col.Set, Digest: col.Digest, SendKey: col.SendKey,
		})
	}
	var err error
	o.TLSName = cl.TLS.Name
	if o.TLS, err = clientTLS(cl.TLS); err != nil {
		return o, fmt.Errorf("cluster.tls: %w", err)
	}
	return o, nil
}

// clientTLS loads certificates; nil: there is no TLS.
func clientTLS(c config.ClusterTLS) (*tls.Config, error) {
	if !c.Enabled {
		return nil, nil
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.Cert != "" {
		cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, err
		}
		secure.Certificates = []tls.Certificate{cert}
	}
	if c.CA == "" {
		return secure, nil
	}
	var err error
	if secure.RootCAs, err = certs.Pool(c.CA); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return secure, nil
}
