package mutation

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

var noon = time.Unix(1_000_000, 0).UTC()

// doc is a document of version 7.
func doc(fields map[string]any) *Document {
	values, err := FieldsFromAny(fields)
	if err != nil {
		panic(err)
	}
	return &Document{Version: 7, Fields: values}
}

func ops(ops ...*walproxyv1.Op) *walproxyv1.Mutation { return New("c", String("k"), ops) }

func TestApplyOps(t *testing.T) {
	type rec = map[string]any
	f := func(kv ...any) fields {
		m := fields{}
		for i := 0; i < len(kv); i += 2 {
			v, err := FromAny(kv[i+1])
			if err != nil {
				t.Fatal(err)
			}
			m[kv[i].(string)] = v
		}
		return m
	}
	event := &walproxyv1.Event{Fields: f("e", 1)}
	for _, c := range []struct {
		name   string
		doc    rec // nil: absent
		m      *walproxyv1.Mutation
		want   rec    // nil: absent
		reject string // the field named
	}{
		{"set", rec{"a": 1, "b": 2}, ops(SetOp(f("a", 3))), rec{"a": int64(3)}, ""},
		{"set absent", nil, ops(SetOp(nil)), rec{}, ""},
		{"merge", rec{"a": 1, "b": 2}, ops(MergeOp(f("a", nil, "c", 3))), rec{"a": nil, "b": int64(2), "c": int64(3)}, ""},
		{"merge absent", nil, ops(MergeOp(f("a", 1))), rec{"a": int64(1)}, ""},
		{"unset", rec{"a": 1, "b": 2}, ops(UnsetOp("a", "x")), rec{"b": int64(2)}, ""},
		{"unset absent", nil, ops(UnsetOp("a")), nil, ""},
		{"delete", rec{"a": 1}, ops(DeleteOp()), nil, ""},
		{"delete and set", rec{"a": 1}, ops(DeleteOp(), SetOp(f("b", 1))), rec{"b": int64(1)}, ""},
		{"delete and merge", rec{"a": 1}, ops(DeleteOp(), MergeOp(f("b", 1))), rec{"b": int64(1)}, ""},
		{"touch", rec{"a": 1}, ops(TouchOp()), rec{"a": int64(1)}, ""},
		{"touch absent", nil, ops(TouchOp()), nil, ""},
		{"event", nil, ops(AppendEventOp(event)), rec{}, ""},
		{"in order", rec{"n": 1}, ops(IncrementOp(f("n", 1)), UnsetOp("n"), IncrementOp(f("n", 5))), rec{"n": int64(5)}, ""},

		{"int", rec{"n": 1}, ops(IncrementOp(f("n", -3))), rec{"n": int64(-2)}, ""},
		{"int absent", nil, ops(IncrementOp(f("n", 3))), rec{"n": int64(3)}, ""},
		{"int null", rec{"n": nil}, ops(IncrementOp(f("n", 3))), rec{"n": int64(3)}, ""},
		{"int max", rec{"n": int64(math.MaxInt64 - 1)}, ops(IncrementOp(f("n", 1))), rec{"n": int64(math.MaxInt64)}, ""},
		{"int overflow", rec{"n": int64(math.MaxInt64)}, ops(MergeOp(f("x", 1)), IncrementOp(f("n", 1))), nil, "ops[1].increment.n"},
		{"int underflow", rec{"n": int64(math.MinInt64)}, ops(IncrementOp(f("n", -1))), nil, "ops[0].increment.n"},
		{"int by double", rec{"n": 1}, ops(IncrementOp(f("n", 1.0))), nil, "ops[0].increment.n"},
		{"int by decimal", rec{"n": 1}, ops(IncrementOp(f("n", Decimal("1")))), nil, "ops[0].increment.n"},
		{"double", rec{"n": 1.5}, ops(IncrementOp(f("n", 0.25))), rec{"n": 1.75}, ""},
		{"double by int", rec{"n": 1.5}, ops(IncrementOp(f("n", 2))), rec{"n": 3.5}, ""},
		{"double by decimal", rec{"n": 1.5}, ops(IncrementOp(f("n", Decimal("1")))), nil, "ops[0].increment.n"},
		{"double overflow", rec{"n": math.MaxFloat64}, ops(IncrementOp(f("n", math.MaxFloat64))), nil, "ops[0].increment.n"},
		{"decimal", rec{"n": Decimal("0.1")}, ops(IncrementOp(f("n", Decimal("0.2")))), rec{"n": Decimal("0.3")}, ""},
		{"decimal by int", rec{"n": Decimal("12.50")}, ops(IncrementOp(f("n", -12))), rec{"n": Decimal("0.50")}, ""},
		{"decimal by double", rec{"n": Decimal("1")}, ops(IncrementOp(f("n", 1.0))), nil, "ops[0].increment.n"},
		{"text", rec{"n": "1"}, ops(IncrementOp(f("n", 1))), nil, "ops[0].increment.n"},

		{"append", rec{"s": "ab"}, ops(AppendOp(f("s", "c"))), rec{"s": "abc"}, ""},
		{"prepend", rec{"s": "ab"}, ops(PrependOp(f("s", "c"))), rec{"s": "cab"}, ""},
		{"append absent", nil, ops(AppendOp(f("s", "c"))), rec{"s": "c"}, ""},
		{"append null", rec{"s": nil}, ops(PrependOp(f("s", []byte("c")))), rec{"s": []byte("c")}, ""},
		{"append bytes", rec{"s": []byte{1}}, ops(AppendOp(f("s", []byte{2}))), rec{"s": []byte{1, 2}}, ""},
		{"append list", rec{"s": []any{1}}, ops(AppendOp(f("s", []any{2, "x"}))), rec{"s": []any{int64(1), int64(2), "x"}}, ""},
		{"prepend list", rec{"s": []any{1}}, ops(PrependOp(f("s", []any{2}))), rec{"s": []any{int64(2), int64(1)}}, ""},
		{"append text to bytes", rec{"s": []byte{1}}, ops(AppendOp(f("s", "x"))), nil, "ops[0].append.s"},
		{"prepend to number", rec{"s": 1}, ops(PrependOp(f("s", "x"))), nil, "ops[0].prepend.s"},
		{"unknown op", rec{"s": 1}, ops(&walproxyv1.Op{}), nil, "ops[0].op"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name != "unknown op" {
				checkInvalid(t, Validate(c.m), "")
			}
			var before *Document
			if c.doc != nil {
				before = doc(c.doc)
			}
			e, err := Apply(before, c.m, 9, noon)
			if c.doc != nil && !reflect.DeepEqual(before, doc(c.doc)) {
				t.Errorf("Apply changed its document: %v", before)
			}
			if c.reject != "" {
				var rejected *RejectedError
				if !errors.As(err, &rejected) || rejected.Field != c.reject || rejected.Reason == "" {
					t.Fatalf("Apply = %v, want a rejection of %s", err, c.reject)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.want == nil {
				if e.Document != nil || e.Unchanged != (c.doc == nil) || e.DropEvents != (c.doc != nil) {
					t.Fatalf("effect %+v, want absent", e)
				}
				return
			}
			if e.Document == nil || e.Unchanged || e.Document.Version != 9 {
				t.Fatalf("effect %+v, document %+v", e, e.Document)
			}
			if got := FieldsToAny(e.Document.Fields); !reflect.DeepEqual(got, c.want) {
				t.Fatalf("fields %v, want %v", got, c.want)
			}
		})
	}
}

func TestApplyPrecondition(t *testing.T) {
	existing := doc(nil)
	existing.EventCount = 3
	expired := doc(nil)
	expired.EventCount, expired.ExpiresAt = 3, noon
	for _, c := range []struct {
		name   string
		doc    *Document
		option Option
		ok     bool
	}{
		{"version", existing, IfVersion(7), true},
		{"other version", existing, IfVersion(8), false},
		{"version 0", existing, IfVersion(0), false},
		{"version of absent", nil, IfVersion(7), false},
		{"version 0 of absent", nil, IfVersion(0), true},
		{"version of expired", expired, IfVersion(7), false},
		{"absent", nil, IfAbsent(), true},
		{"expired is absent", expired, IfAbsent(), true},
		{"not absent", existing, IfAbsent(), false},
		{"events", existing, IfEventCount(3), true},
		{"other events", existing, IfEventCount(2), false},
		{"events of absent", nil, IfEventCount(0), true},
		{"events of expired", expired, IfEventCount(3), false},
		{"unknown kind", existing, func(m *walproxyv1.Mutation) { m.Precondition = &walproxyv1.Precondition{} }, false},
	} {
		_, err := Apply(c.doc, Touch("c", String("k"), c.option), 9, noon)
		var rejected *RejectedError
		if c.ok && err != nil || !c.ok && (!errors.As(err, &rejected) || rejected.Field != "precondition") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// It comes before the ops, which would fail as well.
	m := ops(IncrementOp(fields{"n": Int64Value(1)}))
	IfVersion(1)(m)
	_, err := Apply(doc(map[string]any{"n": "x"}), m, 9, noon)
	var rejected *RejectedError
	if !errors.As(err, &rejected) || rejected.Field != "precondition" {
		t.Errorf("got %v, want the precondition", err)
	}
}

func TestApplyExpiry(t *testing.T) {
	later := noon.Add(time.Second)
	with := func(at time.Time) *Document {
		d := doc(map[string]any{"a": 1})
		d.ExpiresAt, d.EventCount = at, 2
		return d
	}
	for _, c := range []struct {
		name string
		doc  *Document
		m    *walproxyv1.Mutation
		want time.Time
		gone bool // no document
		drop bool
	}{
		{"set clears", with(later), ops(SetOp(nil)), time.Time{}, false, false},
		{"set gives", with(time.Time{}), New("c", String("k"), []*walproxyv1.Op{SetOp(nil)}, ExpiresAt(later)), later, false, false},
		{"merge keeps", with(later), ops(MergeOp(fields{"b": NullValue()})), later, false, false},
		{"touch keeps", with(later), ops(TouchOp()), later, false, false},
		{"touch gives", with(time.Time{}), Touch("c", String("k"), ExpiresAt(later)), later, false, false},
		{"delete clears", with(later), ops(DeleteOp(), MergeOp(fields{"b": NullValue()})), time.Time{}, false, true},
		{"one nanosecond left", with(noon.Add(1)), ops(TouchOp()), noon.Add(1), false, false},
		{"expired now", with(noon), ops(MergeOp(fields{"b": NullValue()})), time.Time{}, false, true},
		{"touch of expired", with(noon), Touch("c", String("k"), ExpiresAt(later)), time.Time{}, true, true},
		{"born expired", nil, New("c", String("k"), []*walproxyv1.Op{SetOp(nil), AppendEventOp(&walproxyv1.Event{})}, ExpiresAt(noon)), time.Time{}, true, true},
		{"ended by write", with(later), Touch("c", String("k"), ExpiresAt(noon)), time.Time{}, true, true},
	} {
		e, err := Apply(c.doc, c.m, 9, noon)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if (e.Document == nil) != c.gone || e.DropEvents != c.drop || e.Unchanged || c.gone && e.Events != nil {
			t.Errorf("%s: effect %+v", c.name, e)
		}
		if e.Document != nil && !e.Document.ExpiresAt.Equal(c.want) {
			t.Errorf("%s: expires %v, want %v", c.name, e.Document.ExpiresAt, c.want)
		}
		if e.Document != nil && c.drop && e.Document.EventCount != 0 {
			t.Errorf("%s: %d events survive", c.name, e.Document.EventCount)
		}
	}
}

func TestApplyEvents(t *testing.T) {
	event := &walproxyv1.Event{}
	d := doc(nil)
	d.EventCount = 2
	e, err := Apply(d, ops(AppendEventOp(event), AppendEventOp(event, event)), 9, noon)
	if err != nil || e.FirstEvent != 3 || len(e.Events) != 3 || e.Document.EventCount != 5 || e.DropEvents {
		t.Fatalf("append: %+v, %v", e, err)
	}
	e, err = Apply(d, ops(DeleteOp(), AppendEventOp(event)), 9, noon)
	if err != nil || e.FirstEvent != 1 || len(e.Events) != 1 || e.Document.EventCount != 1 || !e.DropEvents {
		t.Fatalf("delete and append: %+v, %v", e, err)
	}
	if e, err = Apply(d, ops(SetOp(nil)), 9, noon); err != nil || e.Document.EventCount != 2 || e.DropEvents {
		t.Fatalf("set keeps events: %+v, %v", e, err)
	}
}

// genMutation draws valid mutations of a few fields, and times near noon.
func genMutation() *rapid.Generator[*walproxyv1.Mutation] {
	name := rapid.SampledFrom([]string{"a", "b", "c"})
	number := rapid.Map(rapid.Int64Range(-5, 5), Int64Value)
	text := rapid.Map(rapid.StringN(0, 3, -1), StringValue)
	value := rapid.OneOf(number, text, rapid.Just(NullValue()))
	some := func(g *rapid.Generator[*walproxyv1.Value]) *rapid.Generator[fields] {
		return rapid.MapOfN(name, g, 1, 2)
	}
	op := rapid.OneOf(
		rapid.Map(some(value), MergeOp),
		rapid.Map(some(number), IncrementOp),
		rapid.Map(some(text), AppendOp),
		rapid.Map(some(text), PrependOp),
		rapid.Map(name, func(n string) *walproxyv1.Op { return UnsetOp(n) }),
		rapid.Map(some(value), func(f fields) *walproxyv1.Op { return AppendEventOp(&walproxyv1.Event{Fields: f}) }),
	)
	return rapid.Custom(func(t *rapid.T) *walproxyv1.Mutation {
		var list []*walproxyv1.Op
		switch rapid.IntRange(0, 5).Draw(t, "start") {
		case 0:
			list = append(list, DeleteOp())
		case 1:
			list = append(list, SetOp(some(value).Draw(t, "set")))
		case 2:
			list = append(list, DeleteOp(), SetOp(nil))
		}
		if len(list) == 0 && rapid.IntRange(0, 5).Draw(t, "touch") == 0 {
			list = append(list, TouchOp())
		} else {
			list = append(list, rapid.SliceOfN(op, max(0, 1-len(list)), 3).Draw(t, "ops")...)
		}
		m := New("c", String("k"), list)
		onlyDelete := len(list) == 1 && list[0].GetDelete() != nil
		if !onlyDelete && rapid.IntRange(0, 3).Draw(t, "expires") == 0 {
			ExpiresAt(noon.Add(time.Duration(rapid.IntRange(0, 12).Draw(t, "in")) * time.Second))(m)
		}
		switch rapid.IntRange(0, 9).Draw(t, "precondition") {
		case 0:
			IfAbsent()(m)
		case 1:
			IfEventCount(uint64(rapid.IntRange(0, 3).Draw(t, "count")))(m)
		case 2:
			IfVersion(LSN(rapid.IntRange(0, 12).Draw(t, "version")))(m)
		}
		return m
	})
}

// model is a record in plain Go, written from the documentation alone.
type model struct {
	exists  bool
	version LSN
	fields  map[string]any
	expires time.Time
	events  int
}

// apply returns the record after m, or false if it is rejected.
func (r model) apply(m *walproxyv1.Mutation, lsn LSN, now time.Time) (model, bool) {
	if r.exists && !r.expires.IsZero() && !now.Before(r.expires) {
		r = model{}
	}
	switch p := m.GetPrecondition(); {
	case p.GetIfAbsent() && r.exists:
		return r, false
	case p != nil && !p.GetIfAbsent():
		if k, ok := p.Kind.(*walproxyv1.Precondition_IfVersion); ok && LSN(k.IfVersion) != r.version {
			return r, false
		}
		if k, ok := p.Kind.(*walproxyv1.Precondition_IfEventCount); ok && int(k.IfEventCount) != r.events {
			return r, false
		}
	}
	next := r
	next.fields = maps.Clone(r.fields)
	for _, op := range m.Ops {
		if !next.step(op) {
			return r, false
		}
	}
	if !next.exists {
		return model{}, true
	}
	if m.ExpiresAt != nil {
		next.expires = m.ExpiresAt.AsTime()
	}
	if !next.expires.IsZero() && !now.Before(next.expires) {
		return model{}, true
	}
	next.version = lsn
	return next, true
}

func (r *model) step(op *walproxyv1.Op) bool {
	if op.GetDelete() != nil {
		*r = model{}
		return true
	}
	if !r.exists && (op.GetTouch() != nil || op.GetUnset() != nil) {
		return true
	}
	r.exists = true
	if r.fields == nil {
		r.fields = map[string]any{}
	}
	if op.GetSet() != nil {
		r.fields, r.expires = FieldsToAny(op.GetSet().Fields), time.Time{}
	}
	maps.Copy(r.fields, FieldsToAny(op.GetMerge().GetFields()))
	for _, name := range op.GetUnset().GetFields() {
		delete(r.fields, name)
	}
	r.events += len(op.GetAppendEvent().GetEvents())
	for name, v := range op.GetIncrement().GetFields() {
		old, ok := r.fields[name].(int64)
		if r.fields[name] != nil && !ok {
			return false
		}
		r.fields[name] = old + v.GetInt64()
	}
	for name, v := range op.GetAppend().GetFields() {
		old, ok := r.fields[name].(string)
		if r.fields[name] != nil && !ok {
			return false
		}
		r.fields[name] = old + v.GetString_()
	}
	for name, v := range op.GetPrepend().GetFields() {
		old, ok := r.fields[name].(string)
		if r.fields[name] != nil && !ok {
			return false
		}
		r.fields[name] = v.GetString_() + old
	}
	return true
}

// A history of random mutations leaves what the model says, through the stored
// form and without changing the document before.
func TestApplyModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d *Document
		var want model
		var stored []*walproxyv1.Event
		now := noon
		for i, m := range rapid.SliceOfN(genMutation(), 1, 12).Draw(t, "history") {
			if err := Validate(m); err != nil {
				t.Fatalf("the generator is wrong: %v", err)
			}
			lsn := LSN(i + 1)
			now = now.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "seconds")) * time.Second)
			var before []byte
			if d != nil {
				before = encodeDocument(t, d)
			}
			e, err := Apply(d, m, lsn, now)
			if d != nil && !slices.Equal(before, encodeDocument(t, d)) {
				t.Fatalf("Apply changed its document")
			}
			next, ok := want.apply(m, lsn, now)
			if ok != (err == nil) {
				t.Fatalf("lsn %d: error %v, the model says ok=%v", lsn, err, ok)
			}
			if err != nil {
				continue
			}
			want = next
			if e.Unchanged && (d != nil || e.Document != nil || e.Events != nil || e.DropEvents) {
				t.Fatalf("unchanged, but %+v", e)
			}
			if e.DropEvents {
				stored = nil
			}
			if len(e.Events) > 0 && e.FirstEvent != uint64(len(stored))+1 {
				t.Fatalf("first event %d behind %d", e.FirstEvent, len(stored))
			}
			stored = append(stored, e.Events...)
			d = e.Document
			if (d != nil) != want.exists {
				t.Fatalf("lsn %d: document %v, the model says %+v", lsn, d, want)
			}
			if d == nil {
				if len(stored) > 0 {
					t.Fatalf("lsn %d: absent with %d events", lsn, len(stored))
				}
				continue
			}
			got := model{true, d.Version, FieldsToAny(d.Fields), d.ExpiresAt, int(d.EventCount)}
			if !got.expires.Equal(want.expires) {
				t.Fatalf("lsn %d: expires %v, want %v", lsn, got.expires, want.expires)
			}
			got.expires = want.expires
			if fmt.Sprint(got) != fmt.Sprint(want) || !reflect.DeepEqual(got.fields, want.fields) || len(stored) != want.events {
				t.Fatalf("lsn %d: %+v with %d events, want %+v", lsn, got, len(stored), want)
			}
			if d, err = DecodeDocument(encodeDocument(t, d)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func encodeDocument(t interface{ Fatal(...any) }, d *Document) []byte {
	enc, err := EncodeDocument(nil, d)
	if err != nil {
		t.Fatal(err)
	}
	return enc
}

func BenchmarkApplyIncrement(b *testing.B) {
	d := doc(map[string]any{"total": 1, "note": "hello"})
	m := ops(IncrementOp(fields{"total": Int64Value(1)}))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Apply(d, m, 9, noon); err != nil {
			b.Fatal(err)
		}
	}
}
