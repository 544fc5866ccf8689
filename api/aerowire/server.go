// Package aerowire is an Aerospike endpoint: any client of Aerospike's connects
// and finds one node that owns all 4096 partitions of its namespaces.
//
// What it stores goes through the log as every write does: an answer is sent
// once the write is fsync'd. A message is evaluated on the record under its key's
// lock, and what comes out is logged: see docs/aerospike.md for what there is and
// what is answered as unsupported.
package aerowire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/internal/listen"
	"github.com/walproxy/walproxy/internal/slots"
	"github.com/walproxy/walproxy/sinks"
)

// Options of Start. Core, Listener and Namespaces are required; zero values are
// the defaults.
type Options struct {
	Core     api.Core
	Listener net.Listener
	// Namespaces that there are. The records of set s of namespace n are the
	// collection n.s, those of no set are n; keys are the digests, as bytes: the
	// collections' key type must be mutation.KeyBytes.
	Namespaces []string
	TLS        *tls.Config // nil: none
	// Store, if set, is a cluster that keeps the records: its sink is the only one
	// that the namespaces are routed to.
	Store Store
	// LogDeletes has deletions without a condition logged and answered as done,
	// without asking Store whether the record is there.
	LogDeletes bool
	// Patience is how long a request waits for Store. 2 s.
	Patience time.Duration
	// Tables is the store that answers reads, if its collections may be tables; nil:
	// every record is a document.
	Tables sinks.Shaper
	// Remote: the store that answers reads can be slow or away. Plain writes that need
	// no answer of its own are then logged without it.
	Remote bool
	// Node names this node, 16 hexadecimal digits. By default it comes from the
	// listener's address.
	Node        string
	ClusterName string

	MaxConnections  int // 4096
	MaxRequestBytes int // one message, inflated. 16 MiB
	// MaxInFlightBytes of all messages being read or done, and as many again of the
	// lists, maps and expressions that are worked on; at least 128 times
	// MaxRecordBytes of these. 256 MiB.
	MaxInFlightBytes int64
	MaxRecordBytes   int           // 1 MiB
	MaxBatchRows     int           // 5000
	IdleTimeout      time.Duration // of a connection without requests. 10 min
	// RequestTimeout is how long a client may take to send a message, or to take an
	// answer. 30 s.
	RequestTimeout time.Duration

	Now        func() time.Time
	Logger     *zap.Logger           // nil: nothing is logged
	Registerer prometheus.Registerer // of metrics; nil: none
}

func (o Options) withDefaults() (Options, error) {
	if o.Core == nil || o.Listener == nil || len(o.Namespaces) == 0 {
		return o, errors.New("aerowire: options: Core, Listener and Namespaces are required")
	}
	for i, name := range o.Namespaces {
		if err := CheckNamespace(name); err != nil {
			return o, err
		}
		if slices.Contains(o.Namespaces[:i], name) {
			return o, fmt.Errorf("aerowire: namespace %q stands twice", name)
		}
	}
	for _, d := range []struct {
		p     *int
		value int
	}{{&o.MaxConnections, 4096}, {&o.MaxRequestBytes, 16 << 20}, {&o.MaxRecordBytes, 1 << 20}, {&o.MaxBatchRows, 5000}} {
		if *d.p <= 0 {
			*d.p = d.value
		}
	}
	o.MaxRequestBytes = min(o.MaxRequestBytes, codec.SizeMax)
	if o.MaxInFlightBytes <= 0 {
		o.MaxInFlightBytes = 256 << 20
	}
	o.MaxInFlightBytes = max(o.MaxInFlightBytes, int64(o.MaxRequestBytes))
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = 10 * time.Minute
	}
	if o.Patience <= 0 {
		o.Patience = 2 * time.Second
	}
	if o.RequestTimeout <= 0 {
		o.RequestTimeout = 30 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Node == "" {
		o.Node = nodeName(o.Listener.Addr())
	}
	return o, nil
}

// CheckNamespace says why name cannot be a namespace.
func CheckNamespace(name string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	if name == "" || len(name) > 31 || strings.Trim(name, letters) != "" {
		return fmt.Errorf("aerowire: %q is no namespace: want letters, digits, - and _, at most 31", name)
	}
	return nil
}

// Server is a running endpoint.
type Server struct {
	o        Options
	log      *zap.Logger
	inFlight *semaphore.Weighted
	// decoded bounds what lists, maps and expressions take while they are worked
	// on, filters what those of many records take. Who holds of decoded never waits
	// for filters, and for no more of decoded.
	decoded, filters *semaphore.Weighted
	decodedMax       int64
	started          time.Time
	run              uint64 // random: tells this run of the endpoint from others

	stopping atomic.Bool
	slots    *slots.Pool   // one per connection
	stop     chan struct{} // closed by Close
	base     context.Context
	cancel   context.CancelCauseFunc
	running  context.Context // of background queries: ends with base, or when Close begins
	halt     context.CancelFunc
	failed   chan error // capacity 1
	joined   sync.WaitGroup

	mu      sync.Mutex
	conns   map[*conn]struct{}
	once    sync.Once
	done    chan struct{} // Close has finished
	err     error         // of Close; read after done
	stats   counters
	metrics *metrics
	away    away
	jobs    jobs // in front of a cluster
}

// counters for info's statistics.
type counters struct {
	opened   atomic.Int64
	panicked atomic.Int64 // requests
}

var errClosing = errors.New("aerowire: the endpoint closes")

// Start serves o.Listener, which it closes.
func Start(o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		o: o, log: o.Logger, inFlight: semaphore.NewWeighted(o.MaxInFlightBytes), started: time.Now(), run: rand.Uint64(),
		slots: slots.New(o.MaxConnections), stop: make(chan struct{}),
		failed: make(chan error, 1), conns: map[*conn]struct{}{}, done: make(chan struct{}),
	}
	s.decodedMax = max(o.MaxInFlightBytes, roomPerByte*int64(o.MaxRecordBytes))
	s.decoded, s.filters = semaphore.NewWeighted(s.decodedMax), semaphore.NewWeighted(s.decodedMax)
	if s.metrics, err = newMetrics(o.Registerer, s); err != nil {
		return nil, err
	}
	s.base, s.cancel = context.WithCancelCause(context.Background())
	s.running, s.halt = context.WithCancel(s.base)
	s.joined.Go(s.accept)
	return s, nil
}

// SetMaxConnections changes Options.MaxConnections. Nobody is sent away for a smaller one.
func (s *Server) SetMaxConnections(n int) { s.slots.Resize(n) }

// Failed delivers the error that ended the endpoint without a Close.
func (s *Server) Failed() <-chan error { return s.failed }

func (s *Server) now() time.Time { return s.o.Now() }

// failure answers an error, or says what room is missing.
func (s *Server) failure(err error) *answer {
	if n, ok := errors.AsType[noRoom](err); ok {
		return &answer{needs: int64(n)}
	}
	return failed(s.told(err))
}

// told is resultOf, and logs what has no result of its own.
func (s *Server) told(err error) codec.Result {
	r := resultOf(err)
	if r == codec.Unknown {
		s.log.Warn("a request failed", zap.Error(err))
	}
	return r
}

// accept serves connections until the server is closed.
func (s *Server) accept() {
	l := listen.Loop{Listener: s.o.Listener, Slots: s.slots, Stop: s.stop, Joined: &s.joined, Logger: s.log}
	if err := l.Run(s.serve); err != nil {
		s.failed <- fmt.Errorf("aerowire listener: %w", err)
	}
}

func (s *Server) serve(raw net.Conn) {
	s.stats.opened.Add(1)
	s.metrics.connections.Inc()
	if s.o.TLS != nil {
		raw = tls.Server(raw, s.o.TLS)
	}
	c := newConn(s, raw)
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		_ = raw.Close() // everything that was promised is sent
	}()
	defer s.survive(raw)
	if t, ok := raw.(*tls.Conn); ok {
		ctx, cancel := context.WithTimeout(s.base, s.o.RequestTimeout)
		err := t.HandshakeContext(ctx)
		cancel()
		if err != nil {
			s.metrics.refused.Inc()
			s.log.Debug("no TLS", zap.Stringer("client", raw.RemoteAddr()), zap.Error(err))
			return
		}
	}
	c.serve(s.base)
}

// Close stops listening, lets every connection finish the request that it is at
// until ctx ends, cuts the others off and joins every goroutine. It may be called
// twice; the second call waits for the first.
func (s *Server) Close(ctx context.Context) error {
	s.once.Do(func() {
		defer close(s.done)
		s.stopping.Store(true)
		close(s.stop)
		s.halt()
		s.err = s.o.Listener.Close()
		s.wakeIdle()
		stop := context.AfterFunc(ctx, func() {
			s.log.Warn("requests were cut off", zap.NamedError("cause", context.Cause(ctx)))
			s.cancel(errClosing)
			s.closeAll()
		})
		s.joined.Wait()
		stop()
		s.cancel(errClosing)
		s.metrics.close()
	})
	<-s.done
	return s.err
}

// open is how many connections there are.
func (s *Server) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// wakeIdle ends the waits for a next request.
func (s *Server) wakeIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.idle.Load() {
			_ = c.net.SetReadDeadline(time.Unix(1, 0)) // it may have ended
		}
	}
}

func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.net.Close()
	}
}
