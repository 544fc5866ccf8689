package access

import (
	"context"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
)

// Core is c for those whom a Guard has let in: each call is checked against the grant of
// its context, whichever way it came. Without one nothing is done. Calls that take no
// context are their caller's to check.
//
// Request ids are told apart by who sends them: one client's do not meet another's.
func Core(c api.Core) api.Core { return guarded{c} }

type guarded struct{ api.Core }

// Submit implements api.Core.
func (g guarded) Submit(ctx context.Context, m *walproxyv1.Mutation) (api.Pending, error) {
	if err := Allow(ctx, Write, m.GetCollection()); err != nil {
		return nil, err
	}
	if m.GetRequestId() != "" {
		m.RequestId = scoped(ctx, m.GetRequestId())
	}
	return g.Core.Submit(ctx, m)
}

// scoped is a request id of who asks.
func scoped(ctx context.Context, id string) string {
	if who := Who(ctx); who != "" {
		return who + ":" + id
	}
	return id
}

// Modify implements api.Core.
func (g guarded) Modify(ctx context.Context, collection string, key *walproxyv1.Key, f walproxy.Change) (api.Pending, error) {
	for _, right := range []Right{Read, Write} {
		if err := Allow(ctx, right, collection); err != nil {
			return nil, err
		}
	}
	return g.Core.Modify(ctx, collection, key, f)
}

// Append implements api.Core.
func (g guarded) Append(ctx context.Context, rec *walproxyv1.Record) (api.Pending, error) {
	if err := allowRecord(ctx, rec); err != nil {
		return nil, err
	}
	return g.Core.Append(ctx, rec)
}

// AppendNow implements api.Core.
func (g guarded) AppendNow(ctx context.Context, rec *walproxyv1.Record) (api.Pending, error) {
	if err := allowRecord(ctx, rec); err != nil {
		return nil, err
	}
	return g.Core.AppendNow(ctx, rec)
}

// allowRecord checks every write of rec, and makes its request id its sender's.
func allowRecord(ctx context.Context, rec *walproxyv1.Record) error {
	switch body := rec.GetBody().(type) {
	case *walproxyv1.Record_Mutation:
		if err := Allow(ctx, Write, body.Mutation.GetCollection()); err != nil {
			return err
		}
		if body.Mutation.GetRequestId() != "" {
			body.Mutation.RequestId = scoped(ctx, body.Mutation.GetRequestId())
		}
	case *walproxyv1.Record_Group:
		for _, m := range body.Group.GetMembers() {
			right, collection := Write, m.GetMutation().GetCollection()
			if m.GetMutation() == nil { // no client of ours sends others
				right, collection = Admin, ""
			}
			if err := Allow(ctx, right, collection); err != nil {
				return err
			}
		}
		if body.Group.GetRequestId() != "" {
			body.Group.RequestId = scoped(ctx, body.Group.GetRequestId())
		}
	default:
		return Allow(ctx, Admin, "")
	}
	return nil
}

// Hold implements api.Core.
func (g guarded) Hold(ctx context.Context, collection string, key *walproxyv1.Key, f func(context.Context, api.Held) error) error {
	if err := Allow(ctx, Admin, ""); err != nil { // what it writes is not seen here
		return err
	}
	return g.Core.Hold(ctx, collection, key, f)
}

// See implements api.Core.
func (g guarded) See(ctx context.Context, collection string, key *walproxyv1.Key, f func(context.Context) error) error {
	if err := Allow(ctx, Read, collection); err != nil {
		return err
	}
	return g.Core.See(ctx, collection, key, f)
}

// SeeAll implements api.Core.
func (g guarded) SeeAll(ctx context.Context, collection string) error {
	if err := Allow(ctx, Read, collection); err != nil {
		return err
	}
	return g.Core.SeeAll(ctx, collection)
}

// Direct implements api.Core.
func (g guarded) Direct(ctx context.Context, sink, collection string) (leave func(), err error) {
	if err := Allow(ctx, Write, collection); err != nil {
		return nil, err
	}
	return g.Core.Direct(ctx, sink, collection)
}

// Read implements api.Core.
func (g guarded) Read(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error) {
	if err := Allow(ctx, Read, collection); err != nil {
		return nil, err
	}
	return g.Core.Read(ctx, collection, key)
}

// ReadEvents implements api.Core.
func (g guarded) ReadEvents(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error) {
	if err := Allow(ctx, Read, collection); err != nil {
		return nil, err
	}
	return g.Core.ReadEvents(ctx, collection, key, from, limit)
}

// Scan implements api.Core.
func (g guarded) Scan(ctx context.Context, collection, prefix string, after *walproxyv1.Key, limit int) ([]sinks.Entry, error) {
	if err := Allow(ctx, Read, collection); err != nil {
		return nil, err
	}
	return g.Core.Scan(ctx, collection, prefix, after, limit)
}

// ReadApplied implements api.Core.
func (g guarded) ReadApplied(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error) {
	if err := Allow(ctx, Read, collection); err != nil {
		return nil, err
	}
	return g.Core.ReadApplied(ctx, collection, key)
}

// ReadEventsApplied implements api.Core.
func (g guarded) ReadEventsApplied(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error) {
	if err := Allow(ctx, Read, collection); err != nil {
		return nil, err
	}
	return g.Core.ReadEventsApplied(ctx, collection, key, from, limit)
}

// ScanApplied implements api.Core.
func (g guarded) ScanApplied(ctx context.Context, collection, prefix string, after *walproxyv1.Key, limit int) ([]sinks.Entry, error) {
	if err := Allow(ctx, Read, collection); err != nil {
		return nil, err
	}
	return g.Core.ScanApplied(ctx, collection, prefix, after, limit)
}

// Collections implements api.Core. A page of some of them cannot be told from the last
// one, so it is for who may administer.
func (g guarded) Collections(ctx context.Context, like, after string, limit int) ([]string, error) {
	if err := Allow(ctx, Admin, ""); err != nil {
		return nil, err
	}
	return g.Core.Collections(ctx, like, after, limit)
}

// RetryDeadLetters implements api.Core.
func (g guarded) RetryDeadLetters(ctx context.Context, sink string, lsns []walproxy.LSN) ([]walproxy.Retried, error) {
	if err := Allow(ctx, Admin, ""); err != nil {
		return nil, err
	}
	return g.Core.RetryDeadLetters(ctx, sink, lsns)
}

// EditDeadLetter implements api.Core.
func (g guarded) EditDeadLetter(ctx context.Context, sink string, lsn walproxy.LSN, instead *walproxyv1.Record) ([]walproxy.Retried, error) {
	if err := Allow(ctx, Admin, ""); err != nil {
		return nil, err
	}
	return g.Core.EditDeadLetter(ctx, sink, lsn, instead)
}

// SubmitImported implements api.Core.
func (g guarded) SubmitImported(ctx context.Context, sink string, in walproxy.ImportedLetter) (api.Pending, error) {
	if err := Allow(ctx, Admin, ""); err != nil {
		return nil, err
	}
	return g.Core.SubmitImported(ctx, sink, in)
}

// PauseSink implements api.Core.
func (g guarded) PauseSink(ctx context.Context, sink string) error {
	if err := Allow(ctx, Admin, ""); err != nil {
		return err
	}
	return g.Core.PauseSink(ctx, sink)
}

// AcceptSink implements api.Core.
func (g guarded) AcceptSink(ctx context.Context, sink string, after *walproxy.LSN, token string) (*replay.Plan, error) {
	if err := Allow(ctx, Admin, ""); err != nil {
		return nil, err
	}
	return g.Core.AcceptSink(ctx, sink, after, token)
}

// Backup implements api.Core.
func (g guarded) Backup(ctx context.Context, dir string) (walproxy.Snapshot, error) {
	if err := Allow(ctx, Admin, ""); err != nil {
		return walproxy.Snapshot{}, err
	}
	return g.Core.Backup(ctx, dir)
}

// Drain implements api.Core.
func (g guarded) Drain(ctx context.Context) error {
	if err := Allow(ctx, Admin, ""); err != nil {
		return err
	}
	return g.Core.Drain(ctx)
}
