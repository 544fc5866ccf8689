// Package walproxy is embedded mode: a durable log in front of the sinks that
// the caller passes in.
package walproxy

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// CONTRACT STUBS: replaced by the real thing.

// Level of durability that Wait waits for.
type Level int

const (
	// Logged: fsync'd in the log; the ack.
	Logged Level = iota
	// Applied: in every sink it is routed to.
	Applied
)

// Options of Open.
type Options struct {
	Dir    string
	Log    wal.Options // FS, Logger, Boot, MustExist and ExtraBytes are set by Open
	Sinks  []SinkOptions
	Routes []Route // empty: everything to every sink
	// KeyTypes by collection pattern (path.Match), first match; default KeyString.
	KeyTypes     []KeyType
	DrainTimeout time.Duration // 20 s
	RequestAge   time.Duration // 24 h
	RequestCount int           // 1,000,000
	Logger       *zap.Logger
	Registerer   prometheus.Registerer
}

// SinkOptions of one sink. The caller opened it and closes it after Close.
type SinkOptions struct {
	Name string
	Sink sinks.Sink
	Loop replay.Options
}

// Route: the first match wins; its first sink answers reads.
type Route struct {
	Collections []string
	Sinks       []string
}

// KeyType of the collections that match.
type KeyType struct {
	Collection string
	Type       mutation.KeyType
}

// Proxy is an open log with its loops.
type Proxy struct{}

func Open(ctx context.Context, o Options) (*Proxy, error) { panic("stub") }

// Result of an accepted write.
type Result struct {
	LSN wal.LSN // also the record's new version
	// Repeat: the request id was seen before and LSN is the original write's.
	Repeat bool
	// EventCount after an append_event with if_event_count; else 0.
	EventCount uint64
}

func (p *Proxy) Append(ctx context.Context, m *walproxyv1.Mutation) (Result, error) { panic("stub") }
func (p *Proxy) AppendGroup(ctx context.Context, g *walproxyv1.Group) (Result, error) {
	panic("stub")
}

// BatchResult is the outcome of one mutation of AppendBatch.
type BatchResult struct {
	Result
	Err error
}

// AppendBatch appends each mutation on its own (not atomic), sharing fsyncs.
func (p *Proxy) AppendBatch(ctx context.Context, ms []*walproxyv1.Mutation) []BatchResult {
	panic("stub")
}

// AppendAsync returns once the write has its LSN.
func (p *Proxy) AppendAsync(ctx context.Context, m *walproxyv1.Mutation) (*Pending, error) {
	panic("stub")
}

// Pending is a write that is not known to be durable yet.
type Pending struct{}

func (p *Pending) Done() <-chan struct{}                    { panic("stub") }
func (p *Pending) Wait(ctx context.Context) (Result, error) { panic("stub") }

func (p *Proxy) Read(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error) {
	panic("stub")
}
func (p *Proxy) ReadEvents(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error) {
	panic("stub")
}
func (p *Proxy) Wait(ctx context.Context, lsn wal.LSN, level Level) error { panic("stub") }

// WriteState of a write: "unknown" (no such LSN yet), "logged", "applied".
type WriteState struct {
	LSN   wal.LSN
	State string
	Sinks map[string]string
}

func (p *Proxy) WriteState(lsn wal.LSN) WriteState { panic("stub") }

// Status of log and sinks.
type Status struct {
	Stream string
	Log    wal.Stats
	State  int64 // bytes of the state store
	Sinks  []SinkStatus
}
type SinkStatus struct {
	Name string
	replay.Status
	Lag uint64 // durable - applied
}

func (p *Proxy) Status() Status { panic("stub") }

// Done is closed when the proxy cannot go on (log poisoned); Err says why.
func (p *Proxy) Done() <-chan struct{} { panic("stub") }
func (p *Proxy) Err() error            { panic("stub") }

// Report says what Close left.
type Report struct{ Remaining map[string]uint64 }

// Close: no new work, last group durable, drain until ctx or DrainTimeout, close.
func (p *Proxy) Close(ctx context.Context) error { panic("stub") }
