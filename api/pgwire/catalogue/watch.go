package catalogue

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
)

// Watch holds the current snapshot. Run keeps it; its other methods may be called
// concurrently.
type Watch struct {
	query    Query
	tables   []Declared
	interval time.Duration
	log      *zap.Logger

	session *semaphore.Weighted // query's, one: a refresh has transactions
	current atomic.Pointer[known]
	kicked  chan struct{}
	read    atomic.Uint64 // snapshots
}

// known is a snapshot, nil: none, since some call of Changed. last is the one before
// that call.
type known struct {
	*Snapshot
	last *Snapshot
}

// NewWatch returns a Watch that has nothing yet. query opens a session of its own
// as needed; interval is how long a change made past the proxy may go unnoticed.
func NewWatch(query Query, tables []Declared, interval time.Duration, log *zap.Logger) *Watch {
	if log == nil {
		log = zap.NewNop()
	}
	w := &Watch{query: query, tables: tables, interval: interval, log: log, session: semaphore.NewWeighted(1), kicked: make(chan struct{}, 1)}
	w.current.Store(&known{})
	return w
}

// Current returns the snapshot that was read last; nil: none yet. It stays while
// the server is away.
func (w *Watch) Current() *Snapshot { return w.current.Load().Snapshot }

// Last is Current, or what that was before Changed was called: for who cannot wait until
// it is read again. nil: none was read yet.
func (w *Watch) Last() *Snapshot { return w.current.Load().latest() }

func (k *known) latest() *Snapshot {
	if k.Snapshot != nil {
		return k.Snapshot
	}
	return k.last
}

// Snapshots counts what was read: one more whenever the schema has changed.
func (w *Watch) Snapshots() uint64 { return w.read.Load() }

// Changed says that the schema may have changed: what was read is not used until it
// has been looked at again.
func (w *Watch) Changed() {
	for {
		old := w.current.Load()
		if w.current.CompareAndSwap(old, &known{last: old.latest()}) {
			break
		}
	}
	select {
	case w.kicked <- struct{}{}:
	default:
	}
}

// Refresh reads the catalogue if it changed, and returns the snapshot.
func (w *Watch) Refresh(ctx context.Context) (*Snapshot, error) {
	if err := w.session.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer w.session.Release(1)
	return w.refresh(ctx)
}

// Await returns the snapshot, and reads it only if there is none.
func (w *Watch) Await(ctx context.Context) (*Snapshot, error) {
	if err := w.session.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer w.session.Release(1)
	if s := w.Current(); s != nil { // whom this waited for has read it
		return s, nil
	}
	return w.refresh(ctx)
}

// refresh is Refresh: session is locked.
func (w *Watch) refresh(ctx context.Context) (*Snapshot, error) {
	for range attempts {
		old := w.current.Load()
		if old.Snapshot != nil {
			now, err := signature(ctx, w.query, w.tables)
			if err != nil {
				return nil, err
			}
			if now == old.Signature {
				return old.Snapshot, nil
			}
		}
		s, err := Load(ctx, w.query, w.tables)
		if err != nil {
			return nil, err
		}
		if w.current.CompareAndSwap(old, &known{Snapshot: s}) { // else Changed was called meanwhile
			w.read.Add(1)
			w.report(s)
			return s, nil
		}
	}
	return nil, errChanged
}

// Ask runs one statement on the session that the catalogue is read on, outside its
// transactions.
func (w *Watch) Ask(ctx context.Context, sql string) ([][]string, error) {
	if err := w.session.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer w.session.Release(1)
	return w.query(ctx, sql)
}

func (w *Watch) report(s *Snapshot) {
	w.log.Info("read the catalogue", zap.Int("tables", len(s.Tables)))
	for _, t := range s.Tables {
		if t.Refused != Accepted {
			w.log.Warn("table cannot be written behind", zap.String("table", t.String()), zap.String("reason", t.Refused.Explain()), zap.String("detail", t.Detail))
		}
	}
}

// readTimeout bounds a refresh of Run's: a server that hangs must not keep the session.
const readTimeout = 30 * time.Second

// Run refreshes until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	ticker := time.NewTicker(w.interval)
	defer ticker.Stop()
	for failing := false; ; {
		reading, cancel := context.WithTimeout(ctx, readTimeout)
		_, err := w.Refresh(reading)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			w.log.Warn("the catalogue cannot be read; what is known of it is used", zap.Error(err))
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-w.kicked:
		}
	}
}
