package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"pgregory.net/rapid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// workload draws mutations of mapped tables.
type workload struct {
	rt          *rapid.T
	collections []string
	keys        []*walproxyv1.Key
	values      map[string]*rapid.Generator[any] // by field
	numbers     []string                         // fields that can be incremented
	texts       []string                         // fields that can be appended to
	ends        bool
	events      bool
	conditions  bool
	sql         bool // some of the records are statements that write table plain
	last        sinks.LSN
	clock       time.Time
}

func (w *workload) fields(name string) fields {
	names := []string{}
	for f := range w.values {
		names = append(names, f)
	}
	slices.Sort(names)
	f := fields{}
	for range rapid.IntRange(1, 3).Draw(w.rt, name) {
		field := rapid.SampledFrom(names).Draw(w.rt, "field")
		f[field] = w.values[field].Draw(w.rt, field)
	}
	return f
}

func (w *workload) values1(f fields) map[string]*walproxyv1.Value {
	v, err := mutation.FieldsFromAny(f)
	if err != nil {
		w.rt.Fatal(err)
	}
	return v
}

func (w *workload) op() *walproxyv1.Op {
	kinds := []string{"merge", "merge", "unset", "increment", "append"}
	if w.events {
		kinds = append(kinds, "event")
	}
	switch rapid.SampledFrom(kinds).Draw(w.rt, "op") {
	case "merge":
		return mutation.MergeOp(w.values1(w.fields("merge")))
	case "unset":
		names := []string{}
		for f := range w.fields("unset") {
			names = append(names, f)
		}
		slices.Sort(names)
		return mutation.UnsetOp(names...)
	case "increment":
		field := rapid.SampledFrom(w.numbers).Draw(w.rt, "number")
		return mutation.IncrementOp(w.values1(fields{field: int64(rapid.IntRange(-3, 3).Draw(w.rt, "by"))}))
	case "append":
		field := rapid.SampledFrom(w.texts).Draw(w.rt, "text")
		return mutation.AppendOp(w.values1(fields{field: rapid.SampledFrom([]string{"a", "b", ""}).Draw(w.rt, "more")}))
	}
	return mutation.AppendEventOp(&walproxyv1.Event{Fields: w.values1(fields{"n": int64(w.last)})})
}

func (w *workload) mutation(at time.Time) *walproxyv1.Mutation {
	m := &walproxyv1.Mutation{
		Collection: rapid.SampledFrom(w.collections).Draw(w.rt, "collection"),
		Key:        rapid.SampledFrom(w.keys).Draw(w.rt, "key"),
	}
	switch rapid.SampledFrom([]string{"set", "set", "delete", "touch", "ops", "ops", "ops", "replace", "one"}).Draw(w.rt, "kind") {
	case "set":
		m.Ops = []*walproxyv1.Op{mutation.SetOp(w.values1(w.fields("set")))}
	case "delete":
		m.Ops = []*walproxyv1.Op{mutation.DeleteOp()}
	case "touch":
		m.Ops = []*walproxyv1.Op{mutation.TouchOp()}
	case "replace":
		m.Ops = []*walproxyv1.Op{mutation.DeleteOp(), mutation.SetOp(w.values1(w.fields("set"))), w.op()}
	case "one":
		m.Ops = []*walproxyv1.Op{mutation.MergeOp(w.values1(w.fields("merge")))}
	default:
		for range rapid.IntRange(1, 3).Draw(w.rt, "ops") {
			m.Ops = append(m.Ops, w.op())
		}
	}
	if w.ends && rapid.IntRange(0, 3).Draw(w.rt, "ends") == 0 && m.Ops[0].GetDelete() == nil {
		in := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Minute, 100 * 365 * 24 * time.Hour}).Draw(w.rt, "in")
		mutation.ExpiresAt(at.Add(in))(m)
	}
	if w.conditions {
		switch rapid.IntRange(0, 7).Draw(w.rt, "condition") {
		case 0:
			mutation.IfAbsent()(m)
		case 1:
			mutation.IfVersion(w.last - min(w.last, sinks.LSN(rapid.IntRange(0, 3).Draw(w.rt, "version"))))(m)
		}
	}
	if err := mutation.Validate(m); err != nil {
		w.rt.Fatalf("%v: %v", err, m)
	}
	return m
}

// few keeps n fields, so that writes meet, and a number and a text among them.
func (w *workload) few(n int) {
	names := slices.Sorted(maps.Keys(w.values))
	number := rapid.SampledFrom(w.numbers).Draw(w.rt, "the number")
	text := rapid.SampledFrom(w.texts).Draw(w.rt, "the text")
	w.numbers, w.texts = []string{number}, []string{text}
	keep := map[string]*rapid.Generator[any]{number: w.values[number], text: w.values[text]}
	for len(keep) < n {
		name := rapid.SampledFrom(names).Draw(w.rt, "keep")
		keep[name] = w.values[name]
	}
	w.values, w.keys = keep, w.keys[:min(len(w.keys), 3)]
}

// records draws n records.
func (w *workload) records(n int) []sinks.Record {
	var list []sinks.Record
	for range n {
		w.clock = w.clock.Add(rapid.SampledFrom([]time.Duration{time.Microsecond, time.Second, time.Hour}).Draw(w.rt, "passes"))
		w.last++
		body := &walproxyv1.Record{Format: 1}
		if w.sql && rapid.Bool().Draw(w.rt, "sql") {
			w.drawStatement(body)
		} else {
			body.Body = &walproxyv1.Record_Mutation{Mutation: w.mutation(w.clock)}
		}
		list = append(list, sinks.Record{LSN: w.last, Accepted: w.clock, Bytes: 1, Body: body})
	}
	return list
}

// target is one sink that a workload is applied to.
type target struct {
	rt    *rapid.T
	store *suiteStore
	sink  *Sink
	cp    sinks.Checkpoint
	inc   [16]byte

	fault  func(context.Context, context.CancelFunc) context.Context
	faults sync.WaitGroup

	mu   sync.Mutex
	dead map[sinks.LSN]string // rejected, with the SQLSTATE or why
}

func newTarget(rt *rapid.T, db *suiteDB, o Options, lanes int, ddl ...string) *target {
	if o.Expiry == (Expiry{}) {
		o.Expiry.Disabled = true // comparisons see the rows themselves
	}
	store, err := newSuiteStore(db, o, ddl...)
	if err != nil {
		rt.Fatal(err)
	}
	sink, err := store.Open()
	if err != nil {
		rt.Fatal(err)
	}
	t := &target{rt: rt, store: store, sink: sink.(*Sink), inc: [16]byte{1}, dead: map[sinks.LSN]string{}}
	if t.cp, err = t.sink.Resume(soon(rt), claimOf(lanes)); err != nil {
		rt.Fatal(err)
	}
	return t
}

// soon is a context that ends with the check, at the latest in a minute.
func soon(rt *rapid.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	rt.Cleanup(cancel)
	return ctx
}

// apply brings records into the store as the loop does with the policy skip:
// what is rejected is tried alone, behind everything before it, and passed.
func (t *target) apply(lane int, records []sinks.Record) error {
	if len(records) == 0 {
		return nil
	}
	to := records[len(records)-1].LSN
	results, err := t.send(lane, to, records)
	bad := -1
	switch {
	case results != nil:
		for i, r := range results {
			if r.Outcome == sinks.Rejected {
				bad, err = i, r.Err
			} else if r.Outcome != sinks.Applied && bad < 0 && err == nil {
				err = r.Err
			}
		}
		if err == nil {
			return nil
		}
	case err == nil:
		return errors.New("neither results nor an error")
	case sinks.OutcomeOf(err) == sinks.Rejected:
		bad = 0
		if len(records) > 1 {
			half := len(records) / 2
			if err := t.apply(lane, records[:half]); err != nil {
				return err
			}
			return t.apply(lane, records[half:])
		}
	}
	if bad < 0 {
		return fmt.Errorf("LSN %v to %v: %v: %w", records[0].LSN, to, sinks.OutcomeOf(err), err)
	}
	if len(records) == 1 {
		t.mu.Lock()
		if t.dead[to] = reasonOf(err); records[0].Body.GetGroup() != nil {
			t.dead[to] = "a group" // of several faults the batch decides which is met first
		}
		t.mu.Unlock()
		_, err := t.send(lane, to, nil)
		return err
	}
	for _, part := range [][]sinks.Record{records[:bad], records[bad : bad+1], records[bad+1:]} {
		if err := t.apply(lane, part); err != nil {
			return err
		}
	}
	return nil
}

// reasonOf is what must not depend on how records were batched.
func reasonOf(err error) string {
	if code := codeOf(err); code != "" {
		return code
	}
	return "the sink"
}

// send is one batch, again while its outcome is unknown or says so.
func (t *target) send(lane int, to sinks.LSN, records []sinks.Record) ([]sinks.Result, error) {
	for try := 0; ; try++ {
		results, err := t.once(lane, to, records, try)
		o := sinks.OutcomeOf(err)
		if results != nil || err == nil || o != sinks.Unknown && o != sinks.Retry || try == 200 {
			return results, err
		}
		if try > 3 {
			<-time.After(20 * time.Millisecond) // the sink takes its lock again
		}
	}
}

func (t *target) once(lane int, to sinks.LSN, records []sinks.Record, try int) ([]sinks.Result, error) {
	t.mu.Lock()
	from := t.cp.Lanes[lane]
	t.mu.Unlock()
	b := &sinks.Batch{Epoch: t.cp.Epoch, Records: inSchema(records, t.store.name), Moves: []sinks.Move{{
		Lane: lane, From: from, To: sinks.Point{Incarnation: t.inc, LSN: to},
	}}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	if t.fault != nil && try < 3 {
		ctx = t.fault(ctx, cancel)
	}
	defer cancel()
	results, err := t.sink.Apply(ctx, b)
	done := err == nil
	for _, r := range results {
		done = done && r.Outcome == sinks.Applied
	}
	if done {
		t.mu.Lock()
		t.cp.Lanes[lane] = b.Moves[0].To
		t.mu.Unlock()
	}
	return results, err
}

// dump is everything that a client can see: rows, and versions, ends and events.
func (t *target) dump(tables ...string) string {
	var b strings.Builder
	for _, table := range tables {
		var text string
		name := table
		if !strings.Contains(name, ".") {
			name = t.store.name + "." + name
		}
		if err := t.store.query(fmt.Sprintf("SELECT coalesce(string_agg(x, E'\\n' ORDER BY x), '') FROM (SELECT (to_jsonb(whole) - 'serial' - 'updated_at')::text AS x FROM %s whole) y", name), &text); err != nil {
			t.rt.Fatal(err)
		}
		fmt.Fprintf(&b, "%s:\n%s\n", table, text)
	}
	return b.String()
}

func (t *target) end() {
	t.faults.Wait()
	if err := t.store.Crash(t.sink); err != nil {
		t.rt.Error(err)
	}
	if err := t.store.Remove(); err != nil {
		t.rt.Error(err)
	}
}
