package client

import (
	"context"

	"connectrpc.com/connect"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// State is how far a write has come.
type State = walproxyv1.State

// States of a write.
const (
	Logged  = walproxyv1.State_STATE_LOGGED  // on disk in the log: the acknowledgement
	Applied = walproxyv1.State_STATE_APPLIED // in its sinks
	Parked  = walproxyv1.State_STATE_PARKED  // waits behind a dead letter of its key
	Dead    = walproxyv1.State_STATE_DEAD    // a sink refused it: a dead letter
)

// Result of a write that is on disk.
type Result struct {
	// LSN is its place in the log, and the record's version.
	LSN   uint64
	State State
	// Repeat: the request id was seen before, and the LSN is that of the first.
	Repeat bool
	// EventCount of the record's stream, after events under mutation.IfEventCount.
	EventCount uint64
}

func resultOf(m *walproxyv1.WriteResponse) Result {
	return Result{LSN: m.GetLsn(), State: m.GetState(), Repeat: m.GetRepeat(), EventCount: m.GetEventCount()}
}

// Write sends a mutation until its outcome is known; see Options.RetryFor. A mutation
// without a request id gets one here: m is changed, and an error of unknown outcome
// names it.
func (c *Client) Write(ctx context.Context, m *walproxyv1.Mutation) (Result, error) {
	if m.GetRequestId() == "" {
		m.RequestId = c.newID()
	}
	return c.write(ctx, m.RequestId, &walproxyv1.WriteRequest{Write: &walproxyv1.WriteRequest_Mutation{Mutation: m}})
}

// WriteAtomic sends several mutations that are written all or none, as Write does.
// They have no request ids of their own; requestID may be empty.
func (c *Client) WriteAtomic(ctx context.Context, requestID string, ms ...*walproxyv1.Mutation) (Result, error) {
	if requestID == "" {
		requestID = c.newID()
	}
	return c.write(ctx, requestID, &walproxyv1.WriteRequest{Write: &walproxyv1.WriteRequest_Atomic_{
		Atomic: &walproxyv1.WriteRequest_Atomic{Mutations: ms, RequestId: requestID}}})
}

func (c *Client) write(ctx context.Context, id string, in *walproxyv1.WriteRequest) (result Result, err error) {
	in.Ack = c.ack
	err = c.try(ctx, true, func(ctx context.Context) error {
		out, err := c.writes.Write(ctx, connect.NewRequest(in))
		if err == nil {
			result = resultOf(out.Msg)
		}
		return err
	})
	return result, withID(err, id)
}

func withID(err error, id string) error {
	if failed, ok := err.(*Error); ok { // as it was made here
		failed.RequestID = id
	}
	return err
}

// Put replaces a record; fields are as for mutation.FromAny.
func (c *Client) Put(ctx context.Context, collection string, key *walproxyv1.Key, fields map[string]any, options ...mutation.Option) (Result, error) {
	return c.made(ctx)(mutation.Set(collection, key, fields, options...))
}

// Merge sets the named fields and keeps the others.
func (c *Client) Merge(ctx context.Context, collection string, key *walproxyv1.Key, fields map[string]any, options ...mutation.Option) (Result, error) {
	return c.made(ctx)(mutation.Merge(collection, key, fields, options...))
}

// Increment adds numbers to fields.
func (c *Client) Increment(ctx context.Context, collection string, key *walproxyv1.Key, fields map[string]any, options ...mutation.Option) (Result, error) {
	return c.made(ctx)(mutation.Increment(collection, key, fields, options...))
}

// Append adds to the end of strings, bytes or lists.
func (c *Client) Append(ctx context.Context, collection string, key *walproxyv1.Key, fields map[string]any, options ...mutation.Option) (Result, error) {
	return c.made(ctx)(mutation.Append(collection, key, fields, options...))
}

// AppendEvents appends to the record's event stream.
func (c *Client) AppendEvents(ctx context.Context, collection string, key *walproxyv1.Key, events []map[string]any, options ...mutation.Option) (Result, error) {
	return c.made(ctx)(mutation.AppendEvents(collection, key, events, options...))
}

// Delete removes a record and its events. Deleting what is not there does nothing.
func (c *Client) Delete(ctx context.Context, collection string, key *walproxyv1.Key, options ...mutation.Option) (Result, error) {
	return c.Write(ctx, mutation.Delete(collection, key, options...))
}

// made writes what a function of package mutation has made.
func (c *Client) made(ctx context.Context) func(*walproxyv1.Mutation, error) (Result, error) {
	return func(m *walproxyv1.Mutation, err error) (Result, error) {
		if err != nil {
			return Result{}, &Error{Code: "invalid", Message: err.Error(), Err: err}
		}
		return c.Write(ctx, m)
	}
}

// GetWrite says how far a write has come, by sink too.
func (c *Client) GetWrite(ctx context.Context, lsn uint64) (state State, sinks map[string]State, err error) {
	err = c.try(ctx, false, func(ctx context.Context) error {
		out, err := c.writes.GetWrite(ctx, connect.NewRequest(&walproxyv1.GetWriteRequest{Lsn: lsn}))
		if err == nil {
			state, sinks = out.Msg.GetState(), out.Msg.GetSinks()
		}
		return err
	})
	return state, sinks, err
}
