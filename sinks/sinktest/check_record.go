package sinktest

import (
	"errors"
	"time"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

func recordChecks() []check {
	return []check{
		{name: "record/versions", run: versions,
			why: "a record's version is the LSN of its last write: clients were told so at their ack"},
		{name: "record/not-found", run: notFound,
			why: "absent is one sentinel everywhere; anything else would be read as a failure, or as version 0"},
		{name: "record/batch-sees-itself", run: seesItself,
			why: "later records of a batch apply to what earlier ones made"},
		{name: "group/atomic", lanes: 2, run: groupAtomic, skip: needsGroups,
			why: "a group is one LSN and one transaction over all its lanes"},
		{name: "expiry/logged-time", run: expiryLogged, skip: needsExpiry,
			why: "whether a write found its record is decided by when the write was accepted, or a replay decides otherwise"},
		{name: "expiry/lagging-lane", lanes: 2, run: expiryLagging, skip: needsExpiry,
			why: "a sink that removes what expired must not take a record from writes that still wait in the log"},
		{name: "expiry/reads", run: expiryReads, skip: needsExpiry,
			why: "what has expired is absent for readers"},
		{name: "events/numbers", run: eventNumbers, skip: needsEvents,
			why: "events are numbered from 1 without gaps or doubles"},
		{name: "events/pages", run: eventPages, skip: needsEvents,
			why: "streams are read a page at a time"},
		{name: "events/end-with-record", run: eventsEnd, skip: needsEvents,
			why: "a deleted or expired record takes its events along; a new one starts at 1"},
	}
}

func versions(r *rig) {
	for range 3 {
		r.mustApply(r.batch(0, r.record(add("a")), r.record(add("b")), r.record(add("a"))))
		r.check()
	}
	r.mustApply(r.batch(0, r.record(remove("a"))))
	r.check()
	r.mustApply(r.batch(0, r.record(mutation.Touch(collection, key("b"))), r.record(add("a"))))
	r.mustApply(r.batch(0, r.record(mutation.Touch(collection, key("absent")))))
	r.mustStay()
}

func notFound(r *rig) {
	r.model.touch("never")
	r.check()
	ctx, cancel := r.ctx()
	defer cancel()
	absent := func(name string) {
		r.t.Helper()
		if d, err := r.reader().Read(ctx, collection, key(name)); !errors.Is(err, mutation.ErrNotFound) || d != nil {
			r.t.Fatalf("Read of an absent record: %v, %v; want nil and mutation.ErrNotFound", d, err)
		}
		if r.h.NoEvents {
			return
		}
		if e, err := r.reader().ReadEvents(ctx, collection, key(name), 1, 10); !errors.Is(err, mutation.ErrNotFound) {
			r.t.Fatalf("ReadEvents of an absent record: %v, %v; want mutation.ErrNotFound", e, err)
		}
	}
	absent("never")
	r.mustApply(r.batch(0, r.record(add("a"))))
	absent("never")
	r.mustApply(r.batch(0, r.record(remove("a")), r.record(remove("a")), r.record(remove("never"))))
	absent("a")
	r.mustStay()
}

func seesItself(r *rig) {
	r.mustApply(r.batch(0,
		r.record(set("a", map[string]any{"n": int64(5), "x": true})),
		r.record(add("a")),
		r.record(mutation.Unset(collection, key("a"), []string{"x"})),
		r.record(write("a", "t")),
		r.record(set("b", map[string]any{"n": int64(1)})),
		r.record(remove("b")),
		r.record(add("b")),
		r.record(add("c")),
		r.record(remove("c")),
	))
	r.mustStay()
}

func groupAtomic(r *rig) {
	r.mustApply(r.batch(0, r.record(add("a"))))
	b := r.batch(0, r.record(add("a"), write("b", "x"), add("a"), remove("a"), add("a")))
	b.Moves = append(b.Moves, sinks.Move{Lane: 1, From: r.cp.Lanes[1], To: b.Moves[0].To})
	r.mustApply(b)
	r.mustReport(b)
	r.check()
	r.crash()
	r.mustStay()
}

// expiryLogged: the wall clock is years behind everything here.
func expiryLogged(r *rig) {
	ends := r.clock.Add(time.Hour)
	far := mutation.ExpiresAt(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC))

	r.mustApply(r.batch(0, r.record(set("a", map[string]any{"n": int64(1)}, mutation.ExpiresAt(ends)))))
	r.mustApply(r.batch(0, r.at(ends.Add(-time.Second), add("a", far))))
	r.check() // 2: the record was there when the increment was accepted

	r.mustApply(r.batch(0, r.record(set("b", map[string]any{"n": int64(1)}, mutation.ExpiresAt(r.clock.Add(time.Minute))))))
	r.mustApply(r.batch(0, r.at(r.clock.Add(time.Hour), add("b", far))))
	r.check() // 1: it had ended

	r.mustApply(r.batch(0, // the same within one batch, and if_absent agrees
		r.record(set("c", map[string]any{"n": int64(7)}, mutation.ExpiresAt(r.clock.Add(time.Minute)))),
		r.at(r.clock.Add(time.Hour), add("c", far, mutation.IfAbsent())),
	))
	r.mustStay()
}

// expiryLagging lets one lane run far ahead, in logged time, of one whose next
// write was accepted while its record lived.
func expiryLagging(r *rig) {
	ends := r.clock.Add(time.Hour)
	r.mustApply(r.batch(1, r.record(set("b", map[string]any{"n": int64(1)}, mutation.ExpiresAt(ends)))))
	late := r.record(add("b", mutation.ExpiresAt(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC))))
	for i := range 50 {
		r.mustApply(r.batch(0, r.at(ends.Add(time.Duration(i)*time.Minute), add("a"))))
	}
	r.mustApply(r.batch(1, late))
	r.mustStay()
}

func expiryReads(r *rig) {
	r.mustApply(r.batch(0,
		r.record(set("past", map[string]any{"n": int64(1)}, mutation.ExpiresAt(r.clock.Add(time.Hour)))),
		r.record(set("future", map[string]any{"n": int64(1)}, mutation.ExpiresAt(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)))),
	))
	r.check()
	r.mustApply(r.batch(0, r.record(set("future", map[string]any{"n": int64(2)})))) // set clears it
	r.mustStay()
}

func eventNumbers(r *rig) {
	for i := range 3 {
		b := r.batch(0, r.record(event("a", i)), r.record(must(mutation.AppendEvents(collection, key("a"),
			[]map[string]any{{"n": int64(i)}, {"m": int64(i)}}))), r.record(event("b", i)))
		r.mustApply(b)
		r.mustReport(b)
		r.check()
	}
	r.crash()
	r.mustStay()
}

func eventPages(r *rig) {
	var records []sinks.Record
	for i := range 10 {
		records = append(records, r.record(event("a", i)))
	}
	// Neighbours in any order of keys: their events must not leak in.
	for _, name := range []string{"A", "a!", "aa", "aaa", "b", "Z a"} {
		records = append(records, r.record(event(name, 0)))
	}
	records = append(records, r.record(add("plain")))
	r.mustApply(r.batch(0, records...))
	page := func(name string, from uint64, limit, want int) {
		r.t.Helper()
		ctx, cancel := r.ctx()
		defer cancel()
		events, err := r.reader().ReadEvents(ctx, collection, key(name), from, limit)
		if err != nil || len(events) != want {
			r.t.Fatalf("ReadEvents(%q, from %d, limit %d): %d events, %v; want %d", name, from, limit, len(events), err, want)
		}
		if want > 0 && events[0].Number != max(from, 1) {
			r.t.Fatalf("ReadEvents(%q, from %d): the first has number %d", name, from, events[0].Number)
		}
	}
	page("a", 1, 4, 4)
	page("a", 5, 4, 4)
	page("a", 9, 4, 2)
	page("a", 11, 4, 0)
	page("plain", 1, 4, 0)
	r.mustStay()
}

func eventsEnd(r *rig) {
	r.mustApply(r.batch(0, r.record(event("a", 1)), r.record(event("a", 2)), r.record(event("b", 1))))
	r.mustApply(r.batch(0, r.record(remove("a"))))
	r.mustApply(r.batch(0, r.record(event("a", 3))))
	r.check()
	r.mustApply(r.batch(0, r.record(remove("a")), r.record(event("a", 4)), r.record(remove("a")), r.record(event("a", 5)), r.record(event("a", 6))))
	r.check()
	r.mustApply(r.batch(0, r.record(set("a", map[string]any{"x": true})))) // set keeps the stream
	r.check()
	if !r.h.NoExpiry {
		r.mustApply(r.batch(0, r.record(mutation.Touch(collection, key("a"), mutation.ExpiresAt(r.clock.Add(time.Minute))))))
		r.mustApply(r.batch(0, r.at(r.clock.Add(time.Hour), event("a", 7))))
		r.check()
	}
	r.crash()
	r.mustStay()
}
