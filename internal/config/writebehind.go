package config

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/walproxy/walproxy/mutation"
)

// WriteBehind is what the owner of a table says of it.
type WriteBehind struct {
	// Safe: triggers, foreign keys and checks of the table do not stand in the way.
	Safe bool `yaml:"safe"`
	// AssumeRows: UPDATE, DELETE and ON CONFLICT DO NOTHING are acknowledged from the
	// log, too, as if each row were there, or were not.
	AssumeRows bool `yaml:"assume_rows"`
}

// BehindTable is a table that is written behind.
type BehindTable struct {
	Schema, Name string
	Collection   string
	Key          []string // columns, in the order of the collection's keys
	KeyType      mutation.KeyType
	WriteBehind
}

// BehindTables lists the tables of pgwire.write_behind in order: validated.
func (c *Config) BehindTables() []BehindTable {
	if c.PGWire == nil {
		return nil
	}
	var list []BehindTable
	for _, table := range slices.Sorted(maps.Keys(c.PGWire.WriteBehind)) {
		schema, name, _ := strings.Cut(table, ".")
		collection, _ := c.behindCollection(table)
		list = append(list, BehindTable{Schema: schema, Name: name, Collection: collection, Key: c.Sinks[c.PGWire.Sink].Collections[collection].Key,
			KeyType: c.keyTypeOf(collection), WriteBehind: c.PGWire.WriteBehind[table]})
	}
	return list
}

// behindCollection is the collection that pgwire.sink keeps in a table.
func (c *Config) behindCollection(table string) (collection string, ok bool) {
	for _, pattern := range slices.Sorted(maps.Keys(c.Sinks[c.PGWire.Sink].Collections)) {
		if wildcards(pattern) == 0 && c.Sinks[c.PGWire.Sink].Collections[pattern].Table == table {
			return pattern, true
		}
	}
	return "", false
}

func (c *Config) keyTypeOf(collection string) mutation.KeyType {
	for _, rule := range c.KeyTypes() {
		if ok, _ := path.Match(rule.Pattern, collection); ok { // validated: no error
			return rule.Type
		}
	}
	return mutation.KeyString
}

// Values of pgwire.transactions.
const (
	// TransactionsPass: PostgreSQL does all that stands behind a BEGIN.
	TransactionsPass = "pass"
	// TransactionsLog: COMMIT logs the writes as one record.
	TransactionsLog = "log"
)

// behindDefaults fills in what only tables that are written behind need.
func (p *PGWire) behindDefaults() {
	or(&p.GateTimeout, Duration(10*time.Second))
	or(&p.ReadTimeout, Duration(10*time.Second))
	or(&p.AckTimeout, Duration(30*time.Second))
	or(&p.CatalogueInterval, Duration(time.Second))
	orString(&p.Transactions, TransactionsPass)
	or(&p.SequenceBlock, 100)
}

func (c *checker) writeBehind(cfg *Config) {
	p := cfg.PGWire
	if p == nil {
		return
	}
	if len(p.WriteBehind) == 0 {
		c.want(p.Sink == "", "pgwire.sink", "is for the tables of pgwire.write_behind, and there is none")
		c.want(p.Transactions == "", "pgwire.transactions", "is about the tables of pgwire.write_behind, and there is none")
		return
	}
	for _, d := range []struct {
		key   string
		value Duration
	}{
		{"gate_timeout", p.GateTimeout}, {"read_timeout", p.ReadTimeout}, {"ack_timeout", p.AckTimeout}, {"catalogue_interval", p.CatalogueInterval},
	} {
		c.want(d.value >= Duration(time.Millisecond), "pgwire."+d.key, "%s is out of range: 1ms or more", d.value)
	}
	c.want(p.Transactions == TransactionsPass || p.Transactions == TransactionsLog, "pgwire.transactions", "%q: want %s or %s", p.Transactions, TransactionsPass, TransactionsLog)
	c.want(p.SequenceBlock >= 1 && p.SequenceBlock <= 100_000, "pgwire.sequence_block", "%d is out of range: 1 to 100000", p.SequenceBlock)
	sink, ok := cfg.Sinks[p.Sink]
	if !ok || sink.Type != TypePostgres {
		c.fault("pgwire.sink", "%q: want the name of a sink of type %s, which applies what pgwire.write_behind logs", p.Sink, TypePostgres)
		return
	}
	for _, table := range slices.Sorted(maps.Keys(p.WriteBehind)) {
		c.behindTable(cfg, table)
	}
}

func (c *checker) behindTable(cfg *Config, table string) {
	p, key := cfg.PGWire, "pgwire.write_behind."+table
	schema, name, _ := strings.Cut(table, ".")
	if schema == "" || name == "" {
		c.fault(key, "want a table with its schema, as public.orders")
		return
	}
	collection, ok := cfg.behindCollection(table)
	if !ok {
		c.fault(key, "sinks.%s.collections has none, by its name and not by a pattern, with table: %s", p.Sink, table)
		return
	}
	c.want(cfg.Sinks[p.Sink].Collections[collection].VersionColumn == "", key, "its collection %s has a version_column, which SQL does not move, so that versions would lie", collection)
	route := routeOf(cfg.Routes, collection)
	c.want(route != nil && slices.Contains(route.Sinks, p.Sink), key, "routes do not send its collection %s to %s", collection, cmp.Or(p.Sink, "pgwire.sink"))
}
