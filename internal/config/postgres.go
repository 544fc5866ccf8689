package config

import "time"

// Pools bounds a sink's connections to PostgreSQL; one more holds the stream's
// lock.
type Pools struct {
	Apply int `yaml:"apply"`
	Read  int `yaml:"read"`
}

// Timeouts of a PostgreSQL or Aerospike sink's single steps; all are finite.
type Timeouts struct {
	Connect           Duration `yaml:"connect"`
	Acquire           Duration `yaml:"acquire"`             // of a connection from its pool
	Statement         Duration `yaml:"statement"`           // by the server
	Lock              Duration `yaml:"lock"`                // by the server
	IdleInTransaction Duration `yaml:"idle_in_transaction"` // by the server
	Lease             Duration `yaml:"lease"`               // silence after which an owner is replaced

	Socket Duration `yaml:"socket"` // aerospike: silence on a connection
	Total  Duration `yaml:"total"`  // aerospike: of one message
}

// Expiry is how expired rows are deleted: at most Batch of a collection per Every.
type Expiry struct {
	Disabled bool     `yaml:"disabled"`
	Every    Duration `yaml:"every"`
	Batch    int      `yaml:"batch"`
	// Margin is how far back an end must lie by the server's clock.
	Margin Duration `yaml:"margin"`
}

// Events names the table of a collection's events, and its columns.
type Events struct {
	Table   string   `yaml:"table"`
	Key     []string `yaml:"key"`     // the stream's columns; default: the primary key without the version
	Version string   `yaml:"version"` // the event's number, default "version"
	Payload string   `yaml:"payload"` // default "payload"
	LSN     string   `yaml:"lsn"`     // optional
	At      string   `yaml:"at"`      // optional: when it was accepted
}

func (e Events) empty() bool {
	return e.Table == "" && len(e.Key) == 0 && e.Version == "" && e.Payload == "" && e.LSN == "" && e.At == ""
}

// postgresDefaults fills in what only such a sink has.
func (s *Sink) postgresDefaults() {
	orString(&s.Schema, "walproxy")
	or(&s.Pools.Apply, s.Lanes)
	or(&s.Pools.Read, 4)
	or(&s.Timeouts.Connect, Duration(5*time.Second))
	or(&s.Timeouts.Acquire, Duration(10*time.Second))
	or(&s.Timeouts.Statement, Duration(30*time.Second))
	or(&s.Timeouts.Lock, Duration(5*time.Second))
	or(&s.Timeouts.IdleInTransaction, Duration(10*time.Second))
	or(&s.Timeouts.Lease, Duration(30*time.Second))
	or(&s.Expiry.Every, Duration(100*time.Millisecond))
	or(&s.Expiry.Batch, 500)
	or(&s.Expiry.Margin, Duration(time.Minute))
}

// postgres judges the keys that only such a sink has.
func (c *checker) postgres(key string, s Sink) {
	c.want(s.DSN != "", key+".dsn", "is needed for type %s", TypePostgres)
	c.want(s.Path == "", key+".path", "is for type %s", TypePebble)
	c.noAerospike(key, s)
	c.want(len(s.Schema) <= 63, key+".schema", "is longer than PostgreSQL's 63 bytes")
	for _, p := range []struct {
		key  string
		size int
	}{{"apply", s.Pools.Apply}, {"read", s.Pools.Read}} {
		c.want(p.size >= 1 && p.size <= 1000, key+".pools."+p.key, "%d is out of range: 1 to 1000", p.size)
	}
	c.want(s.Expiry.Batch >= 1 && s.Expiry.Batch <= 100_000, key+".expiry.batch", "%d is out of range: 1 to 100000", s.Expiry.Batch)
	t := s.Timeouts
	for _, d := range []struct {
		key   string
		value Duration
	}{
		{"timeouts.connect", t.Connect},
		{"timeouts.acquire", t.Acquire},
		{"timeouts.statement", t.Statement},
		{"timeouts.lock", t.Lock},
		{"timeouts.idle_in_transaction", t.IdleInTransaction},
		{"timeouts.lease", t.Lease},
		{"expiry.every", s.Expiry.Every},
		{"expiry.margin", s.Expiry.Margin},
	} {
		c.want(d.value >= Duration(time.Millisecond) && d.value <= Duration(24*time.Hour), key+"."+d.key,
			"%s is out of range: 1ms to 24h", d.value)
	}
	for pattern, col := range s.Collections {
		for i, column := range col.Key {
			c.want(column != "", key+".collections."+pattern+".key", "column %d is empty", i+1)
		}
		c.want(col.RecordColumn == "" || col.OverflowColumn == "", key+".collections."+pattern+".record_column",
			"is not needed beside overflow_column, which takes the same")
		c.want(col.Events.empty() || col.Events.Table != "", key+".collections."+pattern+".events.table", "is missing")
	}
}

// noTables refuses a PostgreSQL sink's keys on another, but for time-outs.
func (c *checker) noTables(key string, s Sink) {
	c.want(s.DSN == "", key+".dsn", "is for type %s", TypePostgres)
	c.want(s.Schema == "", key+".schema", "is for type %s", TypePostgres)
	c.want(!s.AutoCreate, key+".auto_create", "is for type %s", TypePostgres)
	c.want(s.Pools == Pools{}, key+".pools", "is for type %s", TypePostgres)
	c.want(s.Expiry == Expiry{}, key+".expiry", "is for type %s", TypePostgres)
}

func (c *checker) noTable(key string, col Collection) {
	c.want(col.Table == "", key+".table", "is for type %s", TypePostgres)
	c.want(len(col.Key) == 0, key+".key", "is for type %s", TypePostgres)
	c.want(col.VersionColumn == "", key+".version_column", "is for type %s", TypePostgres)
	c.want(col.OverflowColumn == "", key+".overflow_column", "is for type %s", TypePostgres)
	c.want(col.RecordColumn == "", key+".record_column", "is for type %s", TypePostgres)
	c.want(col.Events.empty(), key+".events", "is for type %s", TypePostgres)
}
