package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/sinks/postgres"
)

// postgresOptions translates the configuration of a sink named name.
func postgresOptions(name string, c config.Sink, logger *zap.Logger, registry prometheus.Registerer) postgres.Options {
	o := postgres.Options{
		DSN: c.DSN, Schema: c.Schema, AutoCreate: c.AutoCreate,
		Pools: postgres.Pools{Apply: c.Pools.Apply, Read: c.Pools.Read},
		Timeouts: postgres.Timeouts{
			Connect:           time.Duration(c.Timeouts.Connect),
			Acquire:           time.Duration(c.Timeouts.Acquire),
			Statement:         time.Duration(c.Timeouts.Statement),
			Lock:              time.Duration(c.Timeouts.Lock),
			IdleInTransaction: time.Duration(c.Timeouts.IdleInTransaction),
			Lease:             time.Duration(c.Timeouts.Lease),
		},
		Expiry: postgres.Expiry{
			Disabled: c.Expiry.Disabled, Batch: c.Expiry.Batch,
			Every: time.Duration(c.Expiry.Every), Margin: time.Duration(c.Expiry.Margin),
		},
		Logger: logger.Named("sink." + name),
	}
	if registry != nil {
		o.Registerer = prometheus.WrapRegistererWith(prometheus.Labels{"sink": name}, registry)
	}
	for _, pattern := range c.Patterns() {
		col := c.Collections[pattern]
		to := postgres.Collection{
			Pattern: pattern, Table: col.Table, Key: col.Key,
			VersionColumn: col.VersionColumn, OverflowColumn: col.OverflowColumn, RecordColumn: col.RecordColumn,
		}
		if e := col.Events; e.Table != "" {
			to.Events = &postgres.Events{Table: e.Table, Key: e.Key, Version: e.Version, Payload: e.Payload, LSN: e.LSN, At: e.At}
		}
		o.Collections = append(o.Collections, to)
	}
	return o
}
