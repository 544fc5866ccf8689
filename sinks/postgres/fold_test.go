package postgres

import (
	"maps"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// TestBlind: what blind writes fold into does to every record what
// mutation.Apply does, write by write.
func TestBlind(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorkload(rt)
		w.events, w.conditions = false, false
		w.keys = w.keys[:1]
		base := rapid.SampledFrom([]*mutation.Document{nil, {Version: 1, Fields: w.values1(fields{"n": int64(1), "t": "x", "d": nil})}}).Draw(rt, "record")
		if base != nil {
			base.Fields["old"] = mutation.BoolValue(true)
		}
		want, b := base, blind{}
		records := w.records(rapid.IntRange(1, 12).Draw(rt, "records"))
		ends := false
		for i := range records {
			ends = ends || records[i].Body.GetMutation().GetExpiresAt() != nil
		}
		for i := range records {
			m := records[i].Body.GetMutation()
			if !blindly(m, ends) {
				continue
			}
			before := proto.Clone(m)
			effect, err := mutation.Apply(want, m, records[i].LSN+1, records[i].Accepted)
			if err != nil {
				rt.Fatalf("a blind write was rejected: %v", err)
			}
			if !effect.Unchanged {
				if want = effect.Document; want != nil {
					want.ExpiresAt = ending(want.ExpiresAt)
				}
			}
			b.apply(m, records[i].LSN+1, records[i].Accepted)
			if !proto.Equal(before, m) {
				rt.Fatalf("folding changed the mutation: %v, was %v", m, before)
			}
			compareFolded(rt, b.onto(base), want)
		}
	})
}

// onto is what the statements of a change do to a record.
func (b *blind) onto(d *mutation.Document) *mutation.Document {
	switch b.change {
	case unchanged:
		return d
	case remove:
		return nil
	case alter:
		if d == nil {
			return nil
		}
	}
	out := &mutation.Document{Version: b.version, ExpiresAt: b.expires, Fields: fieldMap{}}
	if d != nil && b.change != put {
		maps.Copy(out.Fields, d.Fields)
	}
	for name := range b.removed {
		delete(out.Fields, name)
	}
	maps.Copy(out.Fields, b.fields)
	return out
}

func compareFolded(rt *rapid.T, got, want *mutation.Document) {
	if (got == nil) != (want == nil) {
		rt.Fatalf("folded: %v, want %v", got, want)
	}
	if got == nil {
		return
	}
	same := maps.EqualFunc(got.Fields, want.Fields, func(a, b *walproxyv1.Value) bool { return proto.Equal(a, b) })
	if !same || got.Version != want.Version || !got.ExpiresAt.Equal(want.ExpiresAt) {
		rt.Fatalf("folded: version %v, ends %v, %v\nwant version %v, ends %v, %v", got.Version, got.ExpiresAt, mutation.FieldsToAny(got.Fields),
			want.Version, want.ExpiresAt, mutation.FieldsToAny(want.Fields))
	}
}

func TestEnding(t *testing.T) {
	whole := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	for in, want := range map[time.Time]time.Time{
		{}: {}, whole: whole, whole.Add(1): whole.Add(time.Microsecond), whole.Add(999): whole.Add(time.Microsecond),
	} {
		if got := ending(in); !got.Equal(want) {
			t.Errorf("ending(%v) = %v, want %v", in, got, want)
		}
		if !in.IsZero() && !fromMicroseconds(microseconds(want)).Equal(want) {
			t.Errorf("%v does not survive", want)
		}
	}
}

// FuzzJSON: nothing that jsonb can hold makes the decoder fail or panic, and what
// it reads is written so that it is read again as the same.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`null`, `1`, `1.0`, `-0.0`, `1e300`, `123456789012345678901234567890`, `"a"`, `[]`, `{"$bytes":"AA=="}`, `{"$bytes":"?"}`,
		`{"$map":{"$x":1}}`, `{"$double":"-0"}`, `{"$string":"AA=="}`, `{"$timestamp":"2026-01-01T00:00:00Z"}`, `{"$timestamp":1}`, `{"$what":1,"b":[{}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := decodeJSON(data)
		if err != nil {
			return
		}
		again, err := decodeJSON(appendJSON(nil, v))
		if err != nil || !proto.Equal(again, v) {
			t.Fatalf("%q is read as %v, written as %q and read as %v (%v)", data, v, appendJSON(nil, v), again, err)
		}
	})
}

// FuzzArray: the decoder of array literals.
func FuzzArray(f *testing.F) {
	for _, s := range []string{`{}`, `{1,2}`, `{{1},{2}}`, `[0:1]={1,2}`, `{"a\"b",NULL,"NULL"}`, `{`, `{"`, `{1`, `{{{{{{{1}}}}}}}`, `{,}`} {
		f.Add(s)
	}
	text := arrayCodec(builtin[oidText])
	f.Fuzz(func(t *testing.T, literal string) {
		v, err := text.parse(literal)
		if err != nil {
			return
		}
		out, err := text.text(v)
		if err != nil {
			return // a NUL
		}
		if again, err := text.parse(out); err != nil || !proto.Equal(again, v) {
			t.Fatalf("%q is read as %v, written as %q and read as %v (%v)", literal, v, out, again, err)
		}
	})
}

// FuzzDecode: no answer of a server makes a codec panic.
func FuzzDecode(f *testing.F) {
	f.Add(uint32(oidInt8), []byte{0, 0, 0, 0, 0, 0, 0, 1})
	f.Add(uint32(oidTimestamptz), []byte{0x7f, 255, 255, 255, 255, 255, 255, 255})
	f.Add(uint32(oidTimestamptz), []byte{0x80, 0, 0, 0, 0, 0, 0, 1})
	f.Add(uint32(oidJSONB), []byte("\x01{}"))
	f.Add(uint32(oidUUID), []byte{})
	f.Add(uint32(oidBool), []byte{})
	f.Add(uint32(oidFloat4), []byte{0x7f, 0xc0, 0, 0})
	f.Fuzz(func(t *testing.T, oid uint32, raw []byte) {
		c := builtin[oid]
		if c == nil {
			c = otherCodec
		}
		if v, err := c.decode(raw); err == nil && v.GetKind() == nil {
			t.Fatalf("type %d, %x: no value and no error", oid, raw)
		}
	})
}
