// Package config is walproxy's configuration: a YAML file, environment
// variables over it, defaults under it.
//
// Unknown keys are refused, and everything that is wrong is reported at once,
// by YAML key and, where a file said it, by line and column. What belongs to a
// later version is known here, so that a typo and a missing feature are told
// apart, and refused when it is switched on.
package config

import (
	"time"
)

// Config is the whole configuration. The zero value with Default applied is what
// `walproxy serve` runs on without a file.
type Config struct {
	// DataDir holds the log, the state store and the embedded sinks.
	DataDir  string          `yaml:"data_dir"`
	Log      Log             `yaml:"log"`
	API      API             `yaml:"api"`
	Admin    Admin           `yaml:"admin"`
	PGWire   *PGWire         `yaml:"pgwire"`
	AeroWire *AeroWire       `yaml:"aerowire"`
	Sinks    map[string]Sink `yaml:"sinks"`
	Routes   []Route         `yaml:"routes"`
	Requests Requests        `yaml:"request_ids"`
	Shutdown Shutdown        `yaml:"shutdown"`
	Logging  Logging         `yaml:"logging"`
	Tracing  Tracing         `yaml:"tracing"`

	origin origin
}

// Log bounds and tunes the log.
type Log struct {
	Engine         string `yaml:"engine"`
	MaxBytes       Size   `yaml:"max_bytes"`        // log and state store together
	MinFree        Size   `yaml:"min_free"`         // stays free on the file system; -1: no floor
	SegmentBytes   Size   `yaml:"segment_bytes"`    // where a segment is sealed
	GroupBytes     Size   `yaml:"group_bytes"`      // cap of a group commit
	MaxRecordBytes Size   `yaml:"max_record_bytes"` // largest record
	RingBytes      Size   `yaml:"ring_bytes"`       // nothing any more: the newest records are read from the page cache, too
}

// API is the REST endpoint.
type API struct {
	Listen string `yaml:"listen"`
	// AllowInsecure permits an address that is not loopback without tokens and
	// without certificates of clients (tls.client_ca).
	AllowInsecure bool    `yaml:"allow_insecure"`
	TLS           TLS     `yaml:"tls"`
	Tokens        []Token `yaml:"tokens"`
	// Hosts that a request may name beside addresses and localhost, where nothing
	// else tells who sends it.
	Hosts            []string `yaml:"hosts"`
	HTTP             HTTP     `yaml:"http"`
	MaxConnections   int      `yaml:"max_connections"`
	MaxItemBytes     Size     `yaml:"max_item_bytes"`     // one write
	MaxBodyBytes     Size     `yaml:"max_body_bytes"`     // one POST /v1/mutations
	MaxInFlightBytes Size     `yaml:"max_inflight_bytes"` // all requests being read
}

// TLS of an endpoint: files in PEM, which are read again when they are renewed.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ClientCA, if set, turns away clients without a certificate of it.
	ClientCA string `yaml:"client_ca"`
}

// Admin is the endpoint for metrics, health and pprof.
type Admin struct {
	Listen        string `yaml:"listen"`
	AllowInsecure bool   `yaml:"allow_insecure"` // as the API's
	TLS           TLS    `yaml:"tls"`
	// Tokens; none: the API's.
	Tokens         []Token  `yaml:"tokens"`
	Hosts          []string `yaml:"hosts"` // as the API's
	HTTP           HTTP     `yaml:"http"`
	MaxConnections int      `yaml:"max_connections"`
}

// Sink is one store.
type Sink struct {
	Type string `yaml:"type"` // pebble, postgres, aerospike
	// Paused accepts writes for the sink without applying them.
	Paused bool   `yaml:"paused"`
	Path   string `yaml:"path"` // pebble: its directory
	DSN    string `yaml:"dsn"`  // postgres; what follows is postgres', too
	// Schema holds walproxy's own tables. It belongs to one log.
	Schema string `yaml:"schema"`
	// AutoCreate makes a table for a collection that has none.
	AutoCreate bool     `yaml:"auto_create"`
	Pools      Pools    `yaml:"pools"`
	Timeouts   Timeouts `yaml:"timeouts"`
	Expiry     Expiry   `yaml:"expiry"`
	// Hosts, Namespace and Cluster are aerospike's, and so are Timeouts' connect,
	// socket and total.
	Hosts        []string `yaml:"hosts"`
	Namespace    string   `yaml:"namespace"`
	Cluster      Cluster  `yaml:"cluster"`
	Lanes        int      `yaml:"lanes"`
	Batch        Batch    `yaml:"batch"`
	ApplyTimeout Duration `yaml:"apply_timeout"`
	// HaltRetry is about how long after a halt that may pass by itself the sink is
	// tried again; negative: not before somebody says so.
	HaltRetry Duration `yaml:"halt_retry"`
	// HoldAfter is how many bytes of the log the sink may keep from being freed
	// before its records are copied out of it; 0: replay.Options.HoldAfter.
	HoldAfter Size `yaml:"hold_after"`
	// MaxLagBytes of the log may be routed to the sink and not applied: writes
	// beyond it are refused. 0: no bound but log.max_bytes.
	MaxLagBytes Size `yaml:"max_lag_bytes"`
	// Retain so much of the log below the sink's checkpoint.
	Retain      Size                  `yaml:"retain"`
	DeadLetters DeadLetters           `yaml:"dead_letters"`
	Collections map[string]Collection `yaml:"collections"`
}

// DeadLetters bounds what is kept of records that the sink rejected, and of those
// parked behind them. At a bound the sink halts; nothing is dropped.
type DeadLetters struct {
	Bytes Size     `yaml:"bytes"`
	Age   Duration `yaml:"age"` // 0: no bound
}

// Batch bounds one apply.
type Batch struct {
	Records int      `yaml:"records"`
	Bytes   Size     `yaml:"bytes"`
	Linger  Duration `yaml:"linger"`  // the longest that a batch waits for more
	Latency Duration `yaml:"latency"` // batches shrink while an apply takes longer
}

// Collection says what a sink does with the collections that match a pattern.
type Collection struct {
	KeyType  string `yaml:"key_type"`  // string, int64, bytes, composite
	OnReject string `yaml:"on_reject"` // park_key, skip, halt
	// LaneGroup: the collections of one group share a lane, so that what one
	// needs of another is applied before it.
	LaneGroup string `yaml:"lane_group"`
	// OwnLanes, if not 0, are so many lanes for these collections alone: the
	// backlog of others does not hold them up.
	OwnLanes int      `yaml:"own_lanes"`
	Table    string   `yaml:"table"` // postgres
	Key      []string `yaml:"key"`   // postgres
	// VersionColumn holds the version instead of a table of walproxy's; postgres.
	VersionColumn string `yaml:"version_column"`
	// OverflowColumn takes the fields that have no column; postgres.
	OverflowColumn string `yaml:"overflow_column"`
	// RecordColumn takes what an Aerospike record has beside its bins; postgres.
	RecordColumn string `yaml:"record_column"`
	// Events, with a table, is where the events go instead of to a table of
	// walproxy's; postgres.
	Events Events `yaml:"events"`
	// Namespace and Set are where the records go, instead of the sink's namespace and
	// the set of the collection's name; aerospike, as what follows.
	Namespace string `yaml:"namespace"`
	Set       string `yaml:"set"`
	Digest    bool   `yaml:"digest"`   // keys are digests of 20 bytes
	SendKey   bool   `yaml:"send_key"` // the key is stored with the record
}

// Route sends collections to sinks; the first match wins, the first sink of a
// route answers reads.
type Route struct {
	Collections []string `yaml:"collections"`
	Sinks       []string `yaml:"sinks"`
}

// Requests is the window in which a request id is remembered.
type Requests struct {
	Age   Duration `yaml:"age"`
	Count int      `yaml:"count"`
}

// Shutdown bounds the stop.
type Shutdown struct {
	DrainTimeout Duration `yaml:"drain_timeout"`
}

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// MainSink is the name of the embedded sink there is without configuration.
const MainSink = "main"

// withDefaults fills in what was left out.
func (c *Config) withDefaults() {
	orString(&c.DataDir, "./walproxy-data")
	orString(&c.Log.Engine, "native")
	or(&c.Log.MaxBytes, 64*gib)
	or(&c.Log.MinFree, 2*gib)
	or(&c.Log.SegmentBytes, 16*mib)
	or(&c.Log.GroupBytes, 4*mib)
	or(&c.Log.MaxRecordBytes, 16*mib)
	orString(&c.API.Listen, "127.0.0.1:7070")
	or(&c.API.MaxConnections, 4096)
	or(&c.API.MaxItemBytes, 1*mib)
	or(&c.API.MaxBodyBytes, 256*mib)
	or(&c.API.MaxInFlightBytes, 256*mib)
	c.API.HTTP.withDefaults()
	orString(&c.Admin.Listen, "127.0.0.1:7071")
	or(&c.Admin.MaxConnections, 64)
	c.Admin.HTTP.withDefaults()
	if len(c.Admin.Tokens) == 0 {
		c.Admin.Tokens = c.API.Tokens
	}
	or(&c.Requests.Age, Duration(24*time.Hour))
	or(&c.Requests.Count, 1_000_000)
	or(&c.Shutdown.DrainTimeout, Duration(20*time.Second))
	c.Logging.withDefaults()
	c.Tracing.withDefaults()
	if len(c.Sinks) == 0 {
		c.Sinks = map[string]Sink{MainSink: {}}
	}
	if c.PGWire != nil {
		c.PGWire.withDefaults()
	}
	if c.AeroWire != nil {
		c.AeroWire.withDefaults(c.Sinks)
	}
	for name, s := range c.Sinks {
		orString(&s.Type, TypePebble)
		or(&s.Lanes, 4)
		or(&s.Batch.Records, 1000)
		or(&s.Batch.Bytes, 1*mib)
		or(&s.Batch.Linger, Duration(100*time.Millisecond))
		or(&s.ApplyTimeout, Duration(30*time.Second))
		or(&s.HaltRetry, Duration(30*time.Second))
		or(&s.Batch.Latency, min(Duration(200*time.Millisecond), s.ApplyTimeout))
		or(&s.DeadLetters.Bytes, 1*gib)
		switch s.Type {
		case TypePostgres:
			s.postgresDefaults()
		case TypeAerospike:
			s.aerospikeDefaults()
		}
		c.Sinks[name] = s
	}
	if len(c.Routes) == 0 && len(c.Sinks) == 1 {
		for name := range c.Sinks {
			c.Routes = []Route{{Collections: []string{"*"}, Sinks: []string{name}}}
		}
	}
}

func or[T ~int | ~int64](p *T, value T) {
	if *p == 0 {
		*p = value
	}
}

func orString(p *string, value string) {
	if *p == "" {
		*p = value
	}
}
