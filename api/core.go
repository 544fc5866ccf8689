// Package api is what front ends need from the core. They translate between a
// protocol and this, and decide nothing.
package api

import (
	"context"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
)

// Core is the log with its loops; see walproxy.Proxy for what its methods
// promise. All methods may be called concurrently.
type Core interface {
	// Submit gives m its LSN. An error means that nothing was logged.
	Submit(ctx context.Context, m *walproxyv1.Mutation) (Pending, error)
	// Modify reads a record and appends what f makes of it as one step; no Pending
	// and no error: f wanted no write.
	Modify(ctx context.Context, collection string, key *walproxyv1.Key, f walproxy.Change) (Pending, error)
	// Append gives a write of any kind its LSN.
	Append(ctx context.Context, rec *walproxyv1.Record) (Pending, error)
	// AppendNow is Append, but walproxy.ErrDirect at once where that would wait for who
	// writes past the log. Wait is to be called behind it at once, and may outlast its
	// context.
	AppendNow(ctx context.Context, rec *walproxyv1.Record) (Pending, error)
	// Hold calls f under a key's lock, with all writes to the key applied; See
	// without the lock, and maybe more than once. SeeAll waits for all keys' writes.
	Hold(ctx context.Context, collection string, key *walproxyv1.Key, f func(context.Context, Held) error) error
	See(ctx context.Context, collection string, key *walproxyv1.Key, f func(context.Context) error) error
	SeeAll(ctx context.Context, collection string) error
	// Track, Newest, Direct, WaitSink and SinkFate are for who keeps reads and writes
	// that go past the log in order with those of the log.
	Track(collection string)
	Direct(ctx context.Context, sink, collection string) (leave func(), err error)
	Newest(collection string) walproxy.LSN
	WaitSink(ctx context.Context, sink string, lsn walproxy.LSN) error
	SinkFate(sink string, lsn walproxy.LSN) (replay.Fate, error)
	// Wait returns nil once everything up to lsn has come to level.
	Wait(ctx context.Context, lsn walproxy.LSN, level walproxy.Level) error
	// Read and ReadEvents see every write that was acknowledged before the call.
	Read(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error)
	ReadEvents(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error)
	// Scan and Collections list what is there, with every write that was
	// acknowledged before the call.
	Scan(ctx context.Context, collection, prefix string, after *walproxyv1.Key, limit int) ([]sinks.Entry, error)
	Collections(ctx context.Context, like, after string, limit int) ([]string, error)
	// ReadApplied, ReadEventsApplied and ScanApplied answer with what the sink has now.
	ReadApplied(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error)
	ReadEventsApplied(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error)
	ScanApplied(ctx context.Context, collection, prefix string, after *walproxyv1.Key, limit int) ([]sinks.Entry, error)
	WriteState(lsn walproxy.LSN) (walproxy.WriteState, error)
	// DeadLetters and those behind it are about what a sink could not apply.
	DeadLetters(sink string, from walproxy.LSN, limit int) ([]walproxy.DeadLetter, error)
	DeadLetter(sink string, lsn walproxy.LSN) (walproxy.DeadLetter, error)
	DeadLettersOf(sink string, key []byte, limit int) ([]walproxy.DeadLetter, error)
	RetryDeadLetters(ctx context.Context, sink string, lsns []walproxy.LSN) ([]walproxy.Retried, error)
	EditDeadLetter(ctx context.Context, sink string, lsn walproxy.LSN, instead *walproxyv1.Record) ([]walproxy.Retried, error)
	DiscardDeadLetters(sink string, lsns []walproxy.LSN) ([]walproxy.DeadLetter, error)
	// SubmitImported is ImportDeadLetter.
	SubmitImported(ctx context.Context, sink string, in walproxy.ImportedLetter) (Pending, error)
	PauseSink(ctx context.Context, sink string) error
	ResumeSink(sink string) error
	// PlanAccept and AcceptSink are about a sink that is refused.
	PlanAccept(ctx context.Context, sink string, after *walproxy.LSN) (*replay.Plan, error)
	AcceptSink(ctx context.Context, sink string, after *walproxy.LSN, token string) (*replay.Plan, error)
	Backup(ctx context.Context, dir string) (walproxy.Snapshot, error)
	// Drain refuses new writes, until Undrain.
	Drain(ctx context.Context) error
	Undrain() (was bool, err error)
	Status() walproxy.Status
	// Err is why the log takes no more writes; nil while it does.
	Err() error
}

// Pending is a write that has its LSN and is not known to be durable yet.
type Pending interface {
	LSN() walproxy.LSN
	// Done is closed when the outcome is known.
	Done() <-chan struct{}
	// Wait returns nil once the write is durable: the ack. An error means that
	// the outcome is unknown.
	Wait(ctx context.Context) (walproxy.Result, error)
}

// Held is a key that is held; see walproxy.Held.
type Held interface {
	UpTo() walproxy.LSN
	Submit(ctx context.Context, rec *walproxyv1.Record) (Pending, error)
}

type held struct{ *walproxy.Held }

func (h held) Submit(ctx context.Context, rec *walproxyv1.Record) (Pending, error) {
	pending, err := h.Held.Submit(ctx, rec)
	if err != nil {
		return nil, err
	}
	return pending, nil
}

// New returns p as a Core.
func New(p *walproxy.Proxy) Core { return core{p} }

type core struct{ *walproxy.Proxy }

func (c core) Submit(ctx context.Context, m *walproxyv1.Mutation) (Pending, error) {
	pending, err := c.AppendAsync(ctx, m)
	if err != nil {
		return nil, err // not a Pending that holds a nil pointer
	}
	return pending, nil
}

func (c core) Append(ctx context.Context, rec *walproxyv1.Record) (Pending, error) {
	pending, err := c.AppendRecord(ctx, rec)
	if err != nil {
		return nil, err
	}
	return pending, nil
}

func (c core) AppendNow(ctx context.Context, rec *walproxyv1.Record) (Pending, error) {
	pending, err := c.Proxy.AppendNow(ctx, rec)
	if err != nil {
		return nil, err
	}
	return pending, nil
}

func (c core) Hold(ctx context.Context, collection string, key *walproxyv1.Key, f func(context.Context, Held) error) error {
	return c.Proxy.Hold(ctx, collection, key, func(ctx context.Context, h *walproxy.Held) error { return f(ctx, held{h}) })
}

func (c core) SubmitImported(ctx context.Context, sink string, in walproxy.ImportedLetter) (Pending, error) {
	pending, err := c.ImportDeadLetter(ctx, sink, in)
	if err != nil {
		return nil, err
	}
	return pending, nil
}

func (c core) Modify(ctx context.Context, collection string, key *walproxyv1.Key, f walproxy.Change) (Pending, error) {
	pending, err := c.Proxy.Modify(ctx, collection, key, f)
	if err != nil || pending == nil {
		return nil, err
	}
	return pending, nil
}
