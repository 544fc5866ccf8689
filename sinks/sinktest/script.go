package sinktest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// The random checks: any mutations in any batches do what mutation.Apply over a
// map does, and with the store crashing, losing answers and changing owners
// between any two steps they still do. Rerun a failure with the flags rapid
// prints; -rapid.checks sets how many scripts are tried.

func modelCheck(t *testing.T, h Harness) {
	rapid.Check(t, func(rt *rapid.T) { runScript(rt, h, []string{"apply"}) })
}

func scriptCheck(t *testing.T, h Harness) {
	rapid.Check(t, func(rt *rapid.T) {
		runScript(rt, h, []string{
			"apply", "apply", "repeat", "lost answer", "never arrived", "crash before",
			"crash after", "crash before retry", "new owner", "relane", "idle lane", "cancelled",
		})
	})
}

// scriptKeys are few, so that writes meet.
var scriptKeys = []string{"a", "b", "c", "d", "e"}

type script struct {
	*rig
	rt *rapid.T
}

func runScript(rt *rapid.T, h Harness, actions []string) {
	s := &script{rig: newRig(rt, h), rt: rt}
	defer s.remove()
	s.claim.Lanes = rapid.IntRange(1, 3).Draw(rt, "lanes")
	s.fresh()
	s.model.touch(scriptKeys...)
	for range rapid.IntRange(1, 12).Draw(rt, "steps") {
		action := rapid.SampledFrom(actions).Draw(rt, "action")
		switch action {
		case "relane":
			b := s.relaned(rapid.IntRange(1, 4).Draw(rt, "to lanes"))
			if s.last > 0 {
				s.mustApply(b)
			}
		case "idle lane":
			s.idle()
		case "new owner":
			old := s.batch(0, s.record(add("a")))
			s.resume()
			s.mustFence(old, "of the owner before")
		default:
			s.submit(s.draw(), action)
		}
		s.check()
	}
	s.revive()
	s.crash()
	s.mustStay()
}

// idle moves a lane without records.
func (s *script) idle() {
	lane := rapid.IntRange(0, len(s.cp.Lanes)-1).Draw(s.rt, "idle lane")
	if s.cp.Lanes[lane].LSN < s.last {
		s.mustApply(s.batch(lane))
	}
}

// revive gives what has expired by the store's clock, but not by the log's, an
// end far ahead, so that the last check sees it.
func (s *script) revive() {
	if s.h.NoExpiry {
		return
	}
	far := mutation.ExpiresAt(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC))
	for i, name := range scriptKeys {
		s.mustApply(s.batch(i%len(s.cp.Lanes), s.record(mutation.Touch(collection, key(name), far))))
	}
	s.check()
}

// draw makes a batch of random records for one lane, or of one group for all.
func (s *script) draw() *sinks.Batch {
	lanes := len(s.cp.Lanes)
	if !s.h.NoGroups && rapid.IntRange(0, 5).Draw(s.rt, "group") == 0 {
		b := s.batch(0, s.draws(scriptKeys, rapid.IntRange(2, 4).Draw(s.rt, "members")))
		for lane := 1; lane < lanes; lane++ {
			b.Moves = append(b.Moves, sinks.Move{Lane: lane, From: s.cp.Lanes[lane], To: b.Moves[0].To})
		}
		return b
	}
	lane := rapid.IntRange(0, lanes-1).Draw(s.rt, "lane")
	var keys []string
	for i, name := range scriptKeys {
		if i%lanes == lane {
			keys = append(keys, name)
		}
	}
	var records []sinks.Record
	for range rapid.IntRange(1, 6).Draw(s.rt, "records") {
		records = append(records, s.draws(keys, 1))
	}
	return s.batch(lane, records...)
}

// draws makes one record of n mutations.
func (s *script) draws(keys []string, n int) sinks.Record {
	step := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, time.Minute, time.Hour}).Draw(s.rt, "time passes")
	at := s.clock.Add(step)
	ms := make([]*walproxyv1.Mutation, n)
	written := map[string]bool{}
	for i := range ms {
		ms[i] = s.mutation(keys, at)
		if name := ms[i].GetKey().GetString_(); written[name] {
			ms[i].Precondition = nil // only a group's first write of a key may have one
		} else {
			written[name] = true
		}
	}
	return s.at(at, ms...)
}

// mutation draws a valid mutation; about one in ten does not apply.
func (s *script) mutation(keys []string, at time.Time) *walproxyv1.Mutation {
	m := &walproxyv1.Mutation{Collection: collection, Key: key(rapid.SampledFrom(keys).Draw(s.rt, "key"))}
	m.Ops = rapid.Custom(s.ops).Draw(s.rt, "ops")
	switch rapid.IntRange(0, 7).Draw(s.rt, "expiry") {
	case 0:
		ends := rapid.SampledFrom([]time.Duration{time.Second, time.Minute, 2 * time.Hour}).Draw(s.rt, "ends in")
		mutation.ExpiresAt(at.Add(ends))(m)
	case 1:
		mutation.ExpiresAt(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC))(m)
	}
	if s.h.NoExpiry {
		m.ExpiresAt = nil
	}
	stored := s.model[string(mutation.AppendKey(nil, collection, m.Key))].document
	switch rapid.IntRange(0, 9).Draw(s.rt, "precondition") {
	case 0:
		mutation.IfAbsent()(m)
	case 1:
		if stored != nil {
			mutation.IfVersion(stored.Version)(m)
		}
	case 2:
		if stored != nil && !s.h.NoEvents {
			mutation.IfEventCount(stored.EventCount)(m)
		}
	}
	if mutation.Validate(m) != nil { // a combination that no client can send
		m.ExpiresAt, m.Ops = nil, []*walproxyv1.Op{mutation.DeleteOp()}
	}
	return m
}

func (s *script) ops(rt *rapid.T) []*walproxyv1.Op {
	name := rapid.SampledFrom([]string{"n", "m", "text", "list"})
	fields := func(v *rapid.Generator[*walproxyv1.Value]) map[string]*walproxyv1.Value {
		return rapid.MapOfN(name, v, 1, 3).Draw(rt, "fields")
	}
	one := func(field string, v *walproxyv1.Value) map[string]*walproxyv1.Value {
		return map[string]*walproxyv1.Value{field: v}
	}
	draw := func() *walproxyv1.Op {
		switch rapid.SampledFrom([]string{"merge", "unset", "increment", "any increment", "append", "prepend", "list", "event"}).Draw(rt, "op") {
		case "merge":
			return mutation.MergeOp(fields(values()))
		case "unset":
			return mutation.UnsetOp(name.Draw(rt, "field"))
		case "increment":
			return mutation.IncrementOp(one("n", numbers().Draw(rt, "by")))
		case "any increment":
			return mutation.IncrementOp(fields(numbers()))
		case "append":
			return mutation.AppendOp(one("text", mutation.StringValue(rapid.StringN(0, 3, -1).Draw(rt, "text"))))
		case "prepend":
			return mutation.PrependOp(one("text", mutation.StringValue("<")))
		case "list":
			return mutation.AppendOp(one("list", mutation.ListValue(values().Draw(rt, "item"))))
		}
		if s.h.NoEvents {
			return mutation.MergeOp(fields(values()))
		}
		return mutation.AppendEventOp(&walproxyv1.Event{Fields: fields(values())})
	}
	first := rapid.SampledFrom([]string{"ops", "ops", "ops", "set", "delete", "delete and set", "touch"}).Draw(rt, "first")
	var ops []*walproxyv1.Op
	switch first {
	case "touch":
		return []*walproxyv1.Op{mutation.TouchOp()}
	case "delete":
		return []*walproxyv1.Op{mutation.DeleteOp()}
	case "delete and set":
		ops = append(ops, mutation.DeleteOp(), mutation.SetOp(fields(values())))
	case "set":
		ops = append(ops, mutation.SetOp(fields(values())))
	}
	for range rapid.IntRange(1, 3).Draw(rt, "more ops") {
		ops = append(ops, draw())
	}
	return ops
}

func numbers() *rapid.Generator[*walproxyv1.Value] {
	return rapid.OneOf(
		rapid.Map(rapid.Int64Range(-9, 9), mutation.Int64Value),
		rapid.Map(rapid.Int64Range(-9, 9), mutation.Int64Value),
		rapid.Map(rapid.IntRange(-8, 8), func(n int) *walproxyv1.Value { return mutation.DoubleValue(float64(n) / 4) }),
		rapid.Map(rapid.IntRange(0, 99), func(n int) *walproxyv1.Value { return mutation.DecimalValue(fmt.Sprintf("%d.%02d", n, n)) }),
	)
}

func values() *rapid.Generator[*walproxyv1.Value] {
	return rapid.OneOf(
		numbers(),
		rapid.Just(mutation.NullValue()),
		rapid.Map(rapid.Bool(), mutation.BoolValue),
		rapid.Map(rapid.StringN(0, 4, -1), mutation.StringValue),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 4), mutation.BytesValue),
		rapid.Just(mutation.TimestampValue(time.Unix(1_600_000_000, 123_456_000).UTC())),
		rapid.Just(mutation.MapValue(map[string]*walproxyv1.Value{"x": mutation.Int64Value(1)})),
	)
}

// submit brings b into the store, whatever happens on the way. A batch with a
// record that the model rejects is taken apart as the loop does.
func (s *script) submit(b *sinks.Batch, action string) {
	bad := s.rejected(b)
	if bad < 0 {
		s.deliver(b, action)
		return
	}
	if !s.h.NotTransactional || len(b.Records) == 1 {
		s.mustReject(b, bad, fmt.Sprintf("record %d of %s, by the model", bad, describe(b)))
		s.check()
	}
	if bad > 0 {
		s.deliver(s.part(b, 0, bad), action)
	}
	if s.h.NotTransactional && len(b.Records) > 1 {
		s.mustReject(s.part(b, bad, bad+1), 0, "the rejected record alone")
	}
	s.mustApply(s.skip(b, bad)) // passes the rejected one
	if bad+1 < len(b.Records) {
		s.submit(s.part(b, bad+1, len(b.Records)), action)
	}
}

// rejected is the first record of b that the model cannot apply, or -1.
func (s *script) rejected(b *sinks.Batch) int {
	m := model{}
	for k, e := range s.model {
		m[k] = e
	}
	for i := range b.Records {
		if err := m.apply(&b.Records[i]); err != nil {
			return i
		}
	}
	return -1
}

// part is the batch of some of b's records, from where the lanes are.
func (s *script) part(b *sinks.Batch, from, to int) *sinks.Batch {
	p := &sinks.Batch{Epoch: s.cp.Epoch, Records: b.Records[from:to]}
	for _, m := range b.Moves {
		p.Moves = append(p.Moves, sinks.Move{Lane: m.Lane, From: s.cp.Lanes[m.Lane], To: s.point(b.Records[to-1].LSN)})
	}
	return p
}

// skip moves b's lanes past its i-th record.
func (s *script) skip(b *sinks.Batch, i int) *sinks.Batch {
	p := s.part(b, i, i+1)
	p.Records = nil
	return p
}

// deliver applies b, which can apply, through the fault.
func (s *script) deliver(b *sinks.Batch, fault string) {
	again := func() *sinks.Batch { return s.renewed(b) }
	switch fault {
	case "repeat":
		s.mustReport(b)
	case "lost answer":
		s.fault(b, LoseAnswer(ErrAway))
	case "never arrived":
		s.fault(b, FailBefore(sinks.Unknown, ErrAway))
	case "cancelled":
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, _ = s.callCtx(ctx, b) // whatever it says, the retry decides
	case "crash before":
		s.crash()
		s.resume()
	case "crash after":
		s.fault(b, LoseAnswer(ErrAway))
		s.applied(b)
		s.crash()
		s.mustStay()
		return
	case "crash before retry":
		s.fault(b, LoseAnswer(ErrAway))
		s.crash()
		if s.settles() {
			s.resume()
		} else {
			s.claims() // at the batch's end, which mustApply's answer confirms
		}
	}
	s.mustApply(again())
}

// fault applies b through a fault that must show.
func (s *script) fault(b *sinks.Batch, f Fault) {
	faulty := NewFaulty(s.sink)
	faulty.Add(Rule{Do: f})
	ctx, cancel := s.ctx()
	defer cancel()
	if _, err := faulty.Apply(ctx, b); !errors.Is(err, ErrAway) {
		s.t.Fatalf("Apply of %s through %q: %v", describe(b), f, err)
	}
}
