package rpc

import (
	"context"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// reader answers reads with one consistency.
type reader struct {
	record func(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error)
	events func(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error)
	scan   func(ctx context.Context, collection, prefix string, after *walproxyv1.Key, limit int) ([]sinks.Entry, error)
}

// reader is the core's: with what is applied, or with every write acknowledged before.
func (s *Server) reader(applied bool) reader {
	if applied {
		return reader{s.core.ReadApplied, s.core.ReadEventsApplied, s.core.ScanApplied}
	}
	return reader{s.core.Read, s.core.ReadEvents, s.core.Scan}
}

// readerOf is the reader that a procedure asks for.
func (s *Server) readerOf(c walproxyv1.Consistency) (reader, *Error) {
	switch c {
	case walproxyv1.Consistency_CONSISTENCY_UNSPECIFIED, walproxyv1.Consistency_CONSISTENCY_LATEST:
		return s.reader(false), nil
	case walproxyv1.Consistency_CONSISTENCY_APPLIED:
		return s.reader(true), nil
	}
	return reader{}, invalid("consistency", "%d is none", c)
}

// applied reports whether ?consistency= asks for what the sink has now.
func (q *query) applied() bool {
	switch c := q.values.Get("consistency"); c {
	case "", "latest":
		return false
	case "applied":
		return true
	default:
		q.fail(invalid("consistency", "%q is neither latest nor applied", clip(c)))
		return false
	}
}
