// Package embedded opens walproxy without a network, for the crash tests'
// writer and their checker alike.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/ledger"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/wal"
)

// Embedded is an open proxy with its store.
type Embedded struct {
	*walproxy.Proxy
	sink sinks.Sink
}

// Open opens dir with small segments and batches, so that little writing passes
// through every stage of a log's life.
func Open(ctx context.Context, dir string) (*Embedded, error) {
	return open(ctx, dir, wal.Options{SegmentBytes: 32 << 10, MinFree: -1}, false)
}

// OpenPaused opens dir with the log as it is by default, of which the store gets
// nothing.
func OpenPaused(ctx context.Context, dir string) (*Embedded, error) {
	return open(ctx, dir, wal.Options{MinFree: -1}, true)
}

func open(ctx context.Context, dir string, log wal.Options, paused bool) (*Embedded, error) {
	sink, err := pebble.Open(filepath.Join(dir, "store"), pebble.Options{})
	if err != nil {
		return nil, err
	}
	so := walproxy.SinkOptions{Name: "main", Sink: sink, Paused: paused}
	so.Loop.Lanes = 3
	so.Loop.Batch.Records = 20
	so.Loop.Batch.Linger = time.Millisecond
	p, err := walproxy.Open(ctx, walproxy.Options{
		Dir:   dir,
		Log:   log,
		Sinks: []walproxy.SinkOptions{so},
	})
	if err != nil {
		return nil, errors.Join(err, sink.Close(ctx))
	}
	return &Embedded{Proxy: p, sink: sink}, nil
}

// Close closes the proxy, then its store.
func (e *Embedded) Close(ctx context.Context) error {
	return errors.Join(e.Proxy.Close(ctx), e.sink.Close(ctx))
}

// WaitDrained waits until the store has the whole log.
func (e *Embedded) WaitDrained(ctx context.Context) error {
	return e.Wait(ctx, e.Status().Log.Durable, walproxy.Applied)
}

// Mutation is what a write of the ledger means.
func Mutation(w ledger.Write) (*walproxyv1.Mutation, error) {
	key, id := mutation.String(w.Key), mutation.WithRequestID(w.Token)
	collection := w.Kind.Collection()
	switch w.Kind {
	case ledger.Increment:
		return mutation.Increment(collection, key, map[string]any{"count": int64(1), "sum": w.Delta}, id)
	case ledger.Event:
		return mutation.AppendEvents(collection, key, []map[string]any{{"token": w.Token}}, id)
	case ledger.Set:
		return mutation.Set(collection, key, map[string]any{"token": w.Token}, id)
	}
	return nil, fmt.Errorf("embedded: unknown kind %d", w.Kind)
}

// Record reads a counter or register: Embedded is a ledger.Store.
func (e *Embedded) Record(ctx context.Context, collection, key string) (*ledger.Record, error) {
	doc, err := e.Read(ctx, collection, mutation.String(key))
	if errors.Is(err, mutation.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &ledger.Record{
		Version: uint64(doc.Version),
		Count:   doc.Fields["count"].GetInt64(),
		Sum:     doc.Fields["sum"].GetInt64(),
		Token:   doc.Fields["token"].GetString_(),
	}, nil
}

// Events reads a whole stream.
func (e *Embedded) Events(ctx context.Context, collection, key string) ([]ledger.StoredEvent, error) {
	const page = 1000
	var all []ledger.StoredEvent
	for {
		events, err := e.ReadEvents(ctx, collection, mutation.String(key), uint64(len(all))+1, page)
		if errors.Is(err, mutation.ErrNotFound) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		for _, ev := range events {
			all = append(all, ledger.StoredEvent{
				Number: ev.Number, LSN: uint64(ev.LSN), Token: ev.Event.GetFields()["token"].GetString_(),
			})
		}
		if len(events) < page {
			return all, nil
		}
	}
}
