package client

import (
	"context"
	"iter"
	"time"

	"connectrpc.com/connect"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// Record as the proxy has it.
type Record struct {
	Key     *walproxyv1.Key
	Version uint64 // the LSN of its last write
	// Fields are as mutation.ToAny has them.
	Fields     map[string]any
	ExpiresAt  time.Time // zero: never
	EventCount uint64
	// Document is what the fields were made of.
	Document *walproxyv1.Document
}

func recordOf(key *walproxyv1.Key, d *walproxyv1.Document) Record {
	r := Record{Key: key, Version: d.GetVersion(), Fields: mutation.FieldsToAny(d.GetFields()), EventCount: d.GetEventCount(), Document: d}
	if d.GetExpiresAt() != nil {
		r.ExpiresAt = d.GetExpiresAt().AsTime()
	}
	return r
}

// Event of a record's stream.
type Event struct {
	Number uint64 // from 1
	LSN    uint64
	Fields map[string]any
}

// Get returns a record with every write to it that was acknowledged before.
// ErrNotFound: there is none.
func (c *Client) Get(ctx context.Context, collection string, key *walproxyv1.Key) (r Record, err error) {
	in := &walproxyv1.GetRequest{Collection: collection, Key: key, Consistency: c.consistency}
	err = c.try(ctx, false, func(ctx context.Context) error {
		out, err := c.reads.Get(ctx, connect.NewRequest(in))
		if err == nil {
			r = recordOf(key, out.Msg.GetDocument())
		}
		return err
	})
	return r, err
}

// GetEvents returns the events of a record's stream from a number on; 1 is the first.
// It reads a page when the one before was taken. An error is the last thing that it
// yields; ErrNotFound: there is no such record.
func (c *Client) GetEvents(ctx context.Context, collection string, key *walproxyv1.Key, from uint64) iter.Seq2[Event, error] {
	in := &walproxyv1.GetEventsRequest{Collection: collection, Key: key, From: max(1, from), Limit: pageLimit, Consistency: c.consistency}
	return func(yield func(Event, error) bool) {
		for more := true; more; {
			var out *connect.Response[walproxyv1.GetEventsResponse]
			err := c.try(ctx, false, func(ctx context.Context) (err error) {
				out, err = c.reads.GetEvents(ctx, connect.NewRequest(in))
				return err
			})
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, e := range out.Msg.GetEvents() {
				if !yield(Event{Number: e.GetNumber(), LSN: e.GetLsn(), Fields: mutation.FieldsToAny(e.GetFields())}, nil) {
					return
				}
			}
			in.From, more = out.Msg.GetNext(), out.Msg.GetNext() > 0
		}
	}
}

// pageLimit is how many records or events are asked for at once; the proxy ends a page
// early by its size.
const pageLimit = 500

// Scan returns the records of a collection in the order of their keys; a prefix that is
// not empty keeps to the string keys that begin with it. It reads a page when the one
// before was taken: a record that is written meanwhile is among them, or not. An error
// is the last thing that it yields.
func (c *Client) Scan(ctx context.Context, collection, prefix string) iter.Seq2[Record, error] {
	return c.ScanAfter(ctx, collection, prefix, nil)
}

// ScanAfter is Scan from behind a key.
func (c *Client) ScanAfter(ctx context.Context, collection, prefix string, after *walproxyv1.Key) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		in := &walproxyv1.ScanRequest{Collection: collection, Prefix: prefix, After: after, Limit: pageLimit, Consistency: c.consistency}
		for more := true; more; {
			var out *connect.Response[walproxyv1.ScanResponse]
			err := c.try(ctx, false, func(ctx context.Context) (err error) {
				out, err = c.reads.Scan(ctx, connect.NewRequest(in))
				return err
			})
			if err != nil {
				yield(Record{}, err)
				return
			}
			for _, e := range out.Msg.GetEntries() {
				if !yield(recordOf(e.GetKey(), e.GetDocument()), nil) {
					return
				}
			}
			in.After, more = out.Msg.GetNext(), out.Msg.GetNext() != nil
		}
	}
}
