package postgres

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// DefaultSchema is where walproxy keeps what is its own.
const DefaultSchema = "walproxy"

// Options of Open; zero values mean the defaults.
type Options struct {
	// DSN says where: a URL or key=value pairs as libpq takes them, with sslmode,
	// passfile, service, several hosts and target_session_attrs.
	DSN string
	// Schema for walproxy's own tables, default "walproxy". It belongs to one
	// stream: several streams that share a database have a schema each.
	Schema string
	// Collections says how they map to tables; the first match counts.
	Collections []Collection
	// AutoCreate makes a document table for a collection that has none.
	AutoCreate bool

	Pools    Pools
	Timeouts Timeouts
	Expiry   Expiry

	Logger     *zap.Logger           // nil logs nothing
	Registerer prometheus.Registerer // nil exports nothing

	planner planner // tests: instead of the real one
}

// Collection maps the collections that Pattern matches to tables.
type Collection struct {
	Pattern string // of path.Match
	Table   string // with its schema; "": the collection's name
	// Key is the table's columns that make the key; empty: its primary key.
	Key []string
	// VersionColumn holds the version (the LSN); empty: a table of walproxy's.
	VersionColumn string
	// OverflowColumn, of type jsonb, takes the fields that have no column; empty:
	// such records are rejected.
	OverflowColumn string
	// RecordColumn, of type jsonb, takes of those only what an Aerospike record has
	// beside its bins; not with OverflowColumn, which takes it, too.
	RecordColumn string
	// Events is the table of the records' events; nil: walproxy's own.
	Events *Events
}

// Events names a table that the events of a collection are rows of. Its primary
// key is the columns of the stream's key and the version. It has no triggers, no
// other unique index, and no foreign key but to the table of the records.
type Events struct {
	Table   string   // with its schema
	Key     []string // the stream's columns; empty: the primary key without the version
	Version string   // bigint: 1 is the first event; default "version"
	Payload string   // jsonb; default "payload"
	LSN     string   // bigint; empty: it is not kept, and reads give 0
	At      string   // timestamptz: when the event was accepted; empty: it is not kept
}

// Pools bounds the connections. Beside them there is exactly one for the lock of
// the stream: it never waits behind work.
type Pools struct {
	Apply int // default 8; more lanes than that wait for each other
	Read  int // default 4
}

// Timeouts of one step each. None is infinite: 0 means the default.
type Timeouts struct {
	Connect           time.Duration // to connect and authenticate, default 5 s
	Acquire           time.Duration // to wait for a connection of a pool, default 10 s
	Statement         time.Duration // of the server for one statement, default 30 s
	Lock              time.Duration // of the server for one lock, default 5 s
	IdleInTransaction time.Duration // of the server, default 10 s
	// Lease is how long an owner may be silent before another process that
	// wants the stream may end its session and take over, default 30 s.
	Lease time.Duration
}

// Expiry is how expired rows are deleted: behind what is applied, never more than
// Batch rows per Every.
type Expiry struct {
	Disabled bool          // they stay until somebody else deletes them
	Every    time.Duration // between two transactions, default 100 ms
	Batch    int           // rows of one transaction, default 500
	Margin   time.Duration // an end must lie so far back by the server's clock, default 1 min
}

func (o Options) withDefaults() Options {
	if o.Schema == "" {
		o.Schema = DefaultSchema
	}
	for _, d := range []struct {
		value *int
		unset int
	}{{&o.Pools.Apply, 8}, {&o.Pools.Read, 4}, {&o.Expiry.Batch, 500}} {
		if *d.value == 0 {
			*d.value = d.unset
		}
	}
	t := &o.Timeouts
	for _, d := range []struct {
		value *time.Duration
		unset time.Duration
	}{
		{&t.Connect, 5 * time.Second}, {&t.Acquire, 10 * time.Second}, {&t.Statement, 30 * time.Second},
		{&t.Lock, 5 * time.Second}, {&t.IdleInTransaction, 10 * time.Second}, {&t.Lease, 30 * time.Second},
		{&o.Expiry.Every, 100 * time.Millisecond}, {&o.Expiry.Margin, time.Minute},
	} {
		if *d.value == 0 {
			*d.value = d.unset
		}
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// validate reports everything that is wrong; the defaults are filled in.
func (o Options) validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if len(o.Schema) > 63 {
		bad("schema", "longer than PostgreSQL's 63 bytes")
	}
	if o.Pools.Apply < 1 || o.Pools.Apply > 1000 {
		bad("pools.apply", "%d, want 1 to 1000", o.Pools.Apply)
	}
	if o.Pools.Read < 1 || o.Pools.Read > 1000 {
		bad("pools.read", "%d, want 1 to 1000", o.Pools.Read)
	}
	if o.Expiry.Batch < 1 || o.Expiry.Batch > 100_000 {
		bad("expiry.batch", "%d, want 1 to 100000", o.Expiry.Batch)
	}
	for _, t := range []struct {
		field string
		value time.Duration
	}{
		{"expiry.every", o.Expiry.Every}, {"expiry.margin", o.Expiry.Margin},
		{"timeouts.connect", o.Timeouts.Connect}, {"timeouts.acquire", o.Timeouts.Acquire},
		{"timeouts.statement", o.Timeouts.Statement}, {"timeouts.lock", o.Timeouts.Lock},
		{"timeouts.idle_in_transaction", o.Timeouts.IdleInTransaction}, {"timeouts.lease", o.Timeouts.Lease},
	} {
		if t.value < time.Millisecond || t.value > 24*time.Hour {
			bad(t.field, "%v, want 1ms to 24h", t.value)
		}
	}
	return errors.Join(errs...)
}
