package main

import (
	"time"

	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/aerospike"
)

// startAerowire serves clients of Aerospike, if the configuration says so.
func (i *instance) startAerowire() error {
	c := i.config.AeroWire
	if c == nil {
		return nil
	}
	store, _ := i.sinks[c.Sink].(aerowire.Store) // a cluster's; others have their records here
	tables, _ := i.sinks[c.Sink].(sinks.Shaper)
	var err error
	i.aerowire, err = aerowire.Start(aerowire.Options{
		Store:            store,
		LogDeletes:       c.Deletes == config.LogDeletes,
		Patience:         time.Duration(c.Patience),
		Core:             api.New(i.proxy),
		Listener:         i.aerowireListener,
		Namespaces:       c.Namespaces,
		Tables:           tables,
		Remote:           i.config.Sinks[c.Sink].Type == config.TypePostgres,
		TLS:              i.secure("aerowire"),
		ClusterName:      c.ClusterName,
		MaxConnections:   c.MaxConnections,
		MaxRequestBytes:  int(c.MaxRequestBytes),
		MaxInFlightBytes: int64(c.MaxInFlightBytes),
		MaxRecordBytes:   int(c.MaxRecordBytes),
		MaxBatchRows:     c.MaxBatchRows,
		IdleTimeout:      time.Duration(c.IdleTimeout),
		Logger:           i.logger.Named("aerowire"),
		Registerer:       i.registry,
	})
	return err
}

// fronted says where the collections of the endpoint's namespaces are in the cluster
// of a sink: the sets of the same names, by digest.
func fronted(c *config.AeroWire, sink string) (list []aerospike.Collection) {
	if c == nil || c.Sink != sink {
		return nil
	}
	for _, ns := range c.Namespaces {
		list = append(list,
			aerospike.Collection{Pattern: ns, Namespace: ns, NoSet: true, Digest: true},
			aerospike.Collection{Pattern: ns + ".*", Namespace: ns, Set: "*", Digest: true})
	}
	return list
}

// aerowireFailed is nil, and so never ready, without an endpoint.
func (i *instance) aerowireFailed() <-chan error {
	if i.aerowire == nil {
		return nil
	}
	return i.aerowire.Failed()
}
