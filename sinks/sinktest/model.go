package sinktest

import (
	"errors"
	"iter"
	"maps"
	"time"

	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// model is what a store has to hold: mutation.Apply over a map. A key that was
// ever written keeps an entry, so that its absence is checked too.
type model map[string]entry

type entry struct {
	key      *walproxyv1.Key
	document *mutation.Document
	events   []mutation.StoredEvent
}

func mapKeys(m model) iter.Seq[string] { return maps.Keys(m) }

// apply does a record, all of it or, with an error, nothing.
func (m model) apply(r *sinks.Record) error {
	mutations, err := mutation.Mutations(r.Body)
	if err != nil {
		return err
	}
	staged := maps.Clone(m)
	for _, mu := range mutations {
		name := string(mutation.AppendKey(nil, mu.GetCollection(), mu.GetKey()))
		e := staged[name]
		e.key = mu.GetKey()
		effect, err := mutation.Apply(e.document, mu, r.LSN, r.Accepted)
		if err != nil {
			return err
		}
		if !effect.Unchanged {
			if effect.Document == nil || effect.DropEvents {
				e.events = nil
			}
			e.events = e.events[:len(e.events):len(e.events)]
			for i, event := range effect.Events {
				e.events = append(e.events, mutation.StoredEvent{Number: effect.FirstEvent + uint64(i), LSN: r.LSN, Event: event})
			}
			e.document = effect.Document
		}
		staged[name] = e
	}
	maps.Copy(m, staged)
	return nil
}

// checkKey compares one record and its events.
func (r *rig) checkKey(name string) {
	r.t.Helper()
	want := r.model[name]
	key := mutation.KeyText(want.key)
	ctx, cancel := r.ctx()
	defer cancel()
	got, err := r.reader().Read(ctx, collection, want.key)
	if want.document == nil || want.document.ExpiredAt(time.Now()) {
		if !errors.Is(err, mutation.ErrNotFound) {
			r.t.Fatalf("Read(%q): %v, error %v; want mutation.ErrNotFound: it was deleted, has expired or was never written", key, got, err)
		}
		return
	}
	if err != nil {
		r.t.Fatalf("Read(%q): %v; want version %v", key, err, want.document.Version)
	}
	r.compare(key, got, want.document)
	if !r.h.NoEvents {
		r.compareEvents(key, want)
	}
}

func (r *rig) compare(key string, got, want *mutation.Document) {
	r.t.Helper()
	if got.Version != want.Version {
		r.t.Fatalf("Read(%q): version %v, want %v: a record's version is the LSN of its last write", key, got.Version, want.Version)
	}
	fields := want.Fields
	if r.h.NullIsAbsent {
		fields = maps.Clone(fields)
		maps.DeleteFunc(fields, func(_ string, v *walproxyv1.Value) bool {
			_, null := v.GetKind().(*walproxyv1.Value_Null)
			return null
		})
	}
	if !sameFields(got.Fields, fields) {
		r.t.Fatalf("Read(%q), version %v: fields %v, want %v: a write was lost, doubled or out of order",
			key, got.Version, mutation.FieldsToAny(got.Fields), mutation.FieldsToAny(fields))
	}
	if !r.h.NoExpiry && !got.ExpiresAt.Equal(want.ExpiresAt) {
		r.t.Fatalf("Read(%q): expires %v, want %v", key, got.ExpiresAt, want.ExpiresAt)
	}
	if !r.h.NoEvents && got.EventCount != want.EventCount {
		r.t.Fatalf("Read(%q): %d events, want %d", key, got.EventCount, want.EventCount)
	}
}

func (r *rig) compareEvents(key string, want entry) {
	r.t.Helper()
	ctx, cancel := r.ctx()
	defer cancel()
	got, err := r.reader().ReadEvents(ctx, collection, want.key, 1, len(want.events)+10)
	if err != nil {
		r.t.Fatalf("ReadEvents(%q): %v", key, err)
	}
	if len(got) != len(want.events) {
		r.t.Fatalf("ReadEvents(%q): %d events, want %d: events were lost, doubled or not removed with their record", key, len(got), len(want.events))
	}
	for i, e := range want.events {
		if got[i].Number != e.Number || got[i].LSN != e.LSN || !sameFields(got[i].Event.GetFields(), e.Event.GetFields()) {
			r.t.Fatalf("ReadEvents(%q)[%d]: number %d, LSN %v, %v; want number %d, LSN %v, %v", key, i,
				got[i].Number, got[i].LSN, mutation.FieldsToAny(got[i].Event.GetFields()),
				e.Number, e.LSN, mutation.FieldsToAny(e.Event.GetFields()))
		}
	}
}

func sameFields(a, b map[string]*walproxyv1.Value) bool {
	return maps.EqualFunc(a, b, func(x, y *walproxyv1.Value) bool { return proto.Equal(x, y) })
}

// The mutations that the cases are made of.

func key(name string) *walproxyv1.Key { return mutation.String(name) }

func must(m *walproxyv1.Mutation, err error) *walproxyv1.Mutation {
	if err != nil {
		panic(err) // the suite's own mistake
	}
	return m
}

func set(name string, fields map[string]any, o ...mutation.Option) *walproxyv1.Mutation {
	return must(mutation.Set(collection, key(name), fields, o...))
}

// add increments n by one: a double shows.
func add(name string, o ...mutation.Option) *walproxyv1.Mutation {
	return must(mutation.Increment(collection, key(name), map[string]any{"n": int64(1)}, o...))
}

// write appends to a text: doubles and wrong order show.
func write(name, text string) *walproxyv1.Mutation {
	return must(mutation.Append(collection, key(name), map[string]any{"text": text}))
}

func event(name string, n int) *walproxyv1.Mutation {
	return must(mutation.AppendEvents(collection, key(name), []map[string]any{{"n": int64(n)}}))
}

func remove(name string) *walproxyv1.Mutation { return mutation.Delete(collection, key(name)) }
