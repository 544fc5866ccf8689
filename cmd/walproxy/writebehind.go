package main

import (
	"time"

	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/pgwire"
	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/sinks/postgres"
)

// writeBehind is what the configuration says of tables that are written behind;
// nil: there are none.
func (i *instance) writeBehind() *pgwire.WriteBehind {
	c := i.config.PGWire
	tables := i.config.BehindTables()
	sink, ok := i.sinks[c.Sink].(*postgres.Sink)
	if len(tables) == 0 || !ok {
		return nil
	}
	i.inspector = sink.Inspector()
	w := &pgwire.WriteBehind{
		Core:          api.New(i.proxy),
		Sink:          c.Sink,
		Query:         i.inspector.Query,
		Interval:      time.Duration(c.CatalogueInterval),
		GateTimeout:   time.Duration(c.GateTimeout),
		ReadTimeout:   time.Duration(c.ReadTimeout),
		AckTimeout:    time.Duration(c.AckTimeout),
		SequenceBlock: c.SequenceBlock,
		// Validated: it is one of two.
		LogTransactions: c.Transactions == config.TransactionsLog,
	}
	for _, t := range tables {
		w.Tables = append(w.Tables, pgwire.Table{AssumeRows: t.AssumeRows, Declared: catalogue.Declared{
			Schema: t.Schema, Name: t.Name, Collection: t.Collection, Key: t.Key, KeyType: t.KeyType, Safe: t.Safe}})
	}
	return w
}
