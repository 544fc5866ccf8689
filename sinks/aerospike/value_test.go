package aerospike

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// anyValue draws values that a mutation may have, also such as Aerospike cannot
// keep.
func anyValue(depth int) *rapid.Generator[*walproxyv1.Value] {
	kinds := []*rapid.Generator[*walproxyv1.Value]{
		rapid.Just(mutation.NullValue()),
		rapid.Map(rapid.Bool(), mutation.BoolValue),
		rapid.Map(rapid.Int64(), mutation.Int64Value),
		rapid.Map(rapid.Float64(), mutation.DoubleValue),
		rapid.Map(rapid.String(), mutation.StringValue),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 300), mutation.BytesValue),
		rapid.Map(rapid.Int64Range(-1e9, 4e9), func(s int64) *walproxyv1.Value {
			return mutation.TimestampValue(time.Unix(s, s&0xFFFFF).UTC())
		}),
		rapid.Map(rapid.IntRange(-99, 99), func(n int) *walproxyv1.Value { return mutation.DecimalValue(fmt.Sprintf("%d.%02d", n, 7)) }),
		rapid.Just(wrapped(particleGeoJSON, append(make([]byte, geoHeader), `{"type":"Point","coordinates":[1.5,2.5]}`...))),
		rapid.Just(wrapped(particleString, []byte{0xFF, 'x'})),
	}
	if depth > 0 {
		kinds = append(kinds,
			rapid.Map(rapid.SliceOfN(anyValue(depth-1), 0, 4), func(l []*walproxyv1.Value) *walproxyv1.Value { return mutation.ListValue(l...) }),
			rapid.Map(rapid.MapOfN(rapid.OneOf(rapid.StringN(0, 6, -1), rapid.SampledFrom([]string{wrapDecimal, wrapTimestamp, wrapParticle, "$x"})),
				anyValue(depth-1), 0, 4), mutation.MapValue))
	}
	return rapid.OneOf(kinds...)
}

// TestValues: what is written comes back as it was, or was rejected, whatever it is
// and whichever way it was written.
func TestValues(t *testing.T) {
	d := newDirect(t, options(t))
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		name := fmt.Sprint("k", n)
		want := rapid.MapOfN(rapid.StringMatching(`[a-zA-Z$_.-]{1,15}`), anyValue(3), 0, 8).Draw(rt, "fields")
		maps.DeleteFunc(want, func(name string, v *walproxyv1.Value) bool { return isOwn(name) })
		m := &walproxyv1.Mutation{Collection: collection, Key: key(name), Ops: []*walproxyv1.Op{mutation.SetOp(want)}}
		if rapid.Bool().Draw(rt, "read first") {
			mutation.IfAbsent()(m)
		}
		if mutation.Validate(m) != nil {
			rt.Skip("no client can send it")
		}
		outcome := sinks.Applied
		if fieldsFault(m) != nil {
			outcome = sinks.Rejected
		}
		b := d.batch(m)
		if r := d.apply(b)[0]; r.Outcome != outcome {
			rt.Fatalf("outcome %v (%v), want %v", r.Outcome, r.Err, outcome)
		}
		doc := d.document(name)
		if outcome == sinks.Rejected {
			if doc != nil {
				rt.Fatalf("rejected, and there is %v", doc)
			}
			return
		}
		maps.DeleteFunc(want, func(_ string, v *walproxyv1.Value) bool {
			_, null := v.GetKind().(*walproxyv1.Value_Null)
			return null
		})
		if !maps.EqualFunc(doc.Fields, want, func(a, b *walproxyv1.Value) bool { return proto.Equal(a, b) }) {
			rt.Fatalf("read %v, written %v", mutation.FieldsToAny(doc.Fields), mutation.FieldsToAny(want))
		}
	})
}

// TestExpiry: a record lives as long as was said when it was accepted, counted from
// when it is written, and the server ends it.
func TestExpiry(t *testing.T) {
	t.Parallel()
	d := newDirect(t, options(t))
	in := func(after time.Duration) mutation.Option { return mutation.ExpiresAt(time.Now().Add(after)) }
	life := func(name string, want time.Duration) {
		t.Helper()
		got := d.record(name).Expiration
		if want == 0 && got != as.TTLDontExpire || want != 0 && (float64(got) < want.Seconds()-90 || float64(got) > want.Seconds()+2) {
			t.Fatalf("%s lives %d s, want %v", name, got, want)
		}
	}
	for _, read := range []bool{false, true} { // blindly, and read first
		name := fmt.Sprint("k", read)
		inc := func(o ...mutation.Option) *walproxyv1.Mutation {
			if read {
				return must(mutation.Increment(collection, key(name), fields{"f": 0.5}, o...))
			}
			return add(name, 1, o...)
		}
		for _, step := range []struct {
			m    *walproxyv1.Mutation
			want time.Duration
		}{
			{inc(), 0},
			{inc(in(time.Hour)), time.Hour},
			{inc(), time.Hour}, // kept
			{mutation.Touch(collection, key(name), in(2*time.Hour)), 2 * time.Hour},
			{set(name, fields{"n": int64(1)}), 0}, // a new record
			{set(name, fields{"n": int64(1)}, in(time.Hour)), time.Hour},
		} {
			d.want(d.batch(step.m), sinks.Applied)
			life(name, step.want)
		}
		// What has ended by the time it is written is gone at once.
		b := d.batch(inc(in(time.Hour)))
		b.Records[0].Accepted = time.Now().Add(-2 * time.Hour)
		b.Records[0].Body.GetMutation().ExpiresAt.Seconds -= 5400
		d.want(b, sinks.Applied)
		d.fields(name, nil)
		d.want(d.batch(inc()), sinks.Applied) // a new one, which does not end
		life(name, 0)
	}
	// The server's clock: one second, and it is not there.
	d.want(d.batch(set("short", fields{"a": true}, in(time.Second))), sinks.Applied)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for d.document("short") != nil {
		select {
		case <-ctx.Done():
			t.Fatal("it does not end")
		case <-time.After(50 * time.Millisecond):
		}
	}
}
