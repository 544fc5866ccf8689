package pebble

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pebblekit"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// FuzzMeta: no stored bytes make a decoder panic, and what decodes encodes to
// the same bytes again.
func FuzzMeta(f *testing.F) {
	f.Add(encodeFormat())
	id := uuid.New()
	f.Add(id[:])
	f.Add(claim{stream: uuid.New(), epoch: 7, lanes: 4}.encode())
	f.Add(encodePoint(sinks.Point{Incarnation: uuid.New(), LSN: 42}))
	f.Add([]byte{})
	f.Add(make([]byte, 28))
	f.Fuzz(func(t *testing.T, enc []byte) {
		if err := decodeFormat(enc); err == nil && !bytes.Equal(encodeFormat(), enc) {
			t.Errorf("format %x accepted", enc)
		}
		if id, err := decodeIdentity(enc); err == nil && !bytes.Equal(id[:], enc) {
			t.Errorf("identity %x became %v", enc, id)
		}
		if c, err := decodeClaim(enc); err == nil {
			if !bytes.Equal(c.encode(), enc) || c.lanes < 1 || c.lanes > maxLanes || c.epoch == 0 {
				t.Errorf("claim %x became %+v", enc, c)
			}
		}
		if p, err := decodePoint(enc); err == nil && !bytes.Equal(encodePoint(p), enc) {
			t.Errorf("point %x became %v", enc, p)
		}
		if key, err := expiredDocument(enc); err == nil && !bytes.HasSuffix(enc, key[1:]) {
			t.Errorf("index entry %x became %x", enc, key)
		}
	})
}

func FuzzEvent(f *testing.F) {
	enc, err := encodeEvent(9, &walproxyv1.Event{Fields: map[string]*walproxyv1.Value{"a": mutation.Int64Value(1)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(enc)
	f.Add(enc[:8])
	f.Add(enc[:7])
	f.Add(append(slices.Clone(enc), 0xFF))
	f.Fuzz(func(t *testing.T, enc []byte) {
		e, err := decodeEvent(3, enc)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%x: %v, want ErrCorrupt", enc, err)
			}
			return
		}
		again, err := encodeEvent(e.LSN, e.Event)
		if err != nil {
			t.Fatalf("%x decodes but does not encode: %v", enc, err)
		}
		back, err := decodeEvent(3, again)
		if err != nil || back.LSN != e.LSN || !proto.Equal(back.Event, e.Event) {
			t.Errorf("%x: %v became %v (%v)", enc, e, back, err)
		}
	})
}

func TestExpiryKeysSort(t *testing.T) {
	times := []time.Time{
		time.Unix(-62135596800, 0), time.Unix(-1, 999), time.Unix(0, 0), time.Unix(0, 1),
		time.Unix(1, 0), time.Unix(1<<32, 5), time.Unix(253402300799, 999999999),
	}
	for i := range times[1:] {
		if a, b := appendExpiry(nil, times[i]), appendExpiry(nil, times[i+1]); bytes.Compare(a, b) >= 0 {
			t.Errorf("%v sorts behind %v", times[i], times[i+1])
		}
	}
}

func TestSuccessor(t *testing.T) {
	for prefix, want := range map[string]string{"a": "b", "a\xff": "b", "\x03\x01\xff\xff": "\x03\x02", "\xff\xff": ""} {
		if got := string(successor([]byte(prefix))); got != want {
			t.Errorf("successor(%q) = %q, want %q", prefix, got, want)
		}
	}
}

// tamper changes a store behind its back.
func tamper(t *testing.T, fs vfs.FS, change func(db *pebble.DB) error) {
	t.Helper()
	db := must[*pebble.DB](t)(pebble.Open("store", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: pebblekit.NewLogger(nil)}))
	if err := errors.Join(change(db), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	put := func(key, value []byte) func(*pebble.DB) error {
		return func(db *pebble.DB) error { return db.Set(key, value, pebble.Sync) }
	}
	cut := func(key []byte) func(*pebble.DB) error {
		return func(db *pebble.DB) error { return db.Delete(key, pebble.Sync) }
	}
	for _, c := range []struct {
		name   string
		change func(*pebble.DB) error
		want   error
		says   string
	}{
		{"a later format", put(metaKey("format"), []byte{0, 0, 0, 2}), ErrFormat, "format 2"},
		{"a damaged format", put(metaKey("format"), []byte{1}), ErrFormat, "1 bytes"},
		{"another database", func(db *pebble.DB) error {
			return errors.Join(db.DeleteRange([]byte{0}, []byte{0xff}, pebble.Sync), db.Set([]byte("x"), nil, pebble.Sync))
		}, ErrFormat, "another Pebble database"},
		{"no identity", cut(metaKey("identity")), ErrCorrupt, "identity"},
		{"a damaged identity", put(metaKey("identity"), []byte{1}), ErrCorrupt, "identity"},
		{"a damaged claim", put(metaKey("claim"), []byte{1}), ErrCorrupt, "claim"},
		{"a lane missing", cut(laneKey(1)), ErrCorrupt, "lane 1 of 2"},
		{"a lane damaged", put(laneKey(0), []byte{1}), ErrCorrupt, "lane"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := vfs.NewMem()
			s := must[*Sink](t)(Open("store", Options{fs: fs}))
			newCounters(t, s, 2)
			closeSink(t, s)
			tamper(t, fs, c.change)
			s, err := Open("store", Options{fs: fs})
			if err == nil {
				closeSink(t, s)
			}
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Open: %v; want %v that says %q", err, c.want, c.says)
			}
			// The refusal has released the directory.
			tamper(t, fs, func(*pebble.DB) error { return nil })
		})
	}
}

func TestOpenTwice(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Options{})
	if s, err := Open(dir, Options{}); err == nil {
		closeSink(t, s)
		t.Fatal("a second Open of the directory worked")
	}
}

func TestDamagedDocument(t *testing.T) {
	fs := vfs.NewMem()
	s := must[*Sink](t)(Open("store", Options{fs: fs}))
	c := newCounters(t, s, 1)
	if err := c.next(t.Context(), 0, 0); err != nil {
		t.Fatal(err)
	}
	closeSink(t, s)
	tamper(t, fs, func(db *pebble.DB) error {
		return db.Set(documentKey("c", counterKey(0)), []byte{0xff, 1, 2}, pebble.Sync)
	})
	c.sink = must[*Sink](t)(Open("store", Options{fs: fs}))
	defer closeSink(t, c.sink)
	if _, err := c.sink.Read(t.Context(), "c", counterKey(0)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Read: %v, want ErrCorrupt", err)
	}
	if _, err := c.sink.Scan(t.Context(), "c", "", nil, 10); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Scan: %v, want ErrCorrupt", err)
	}
	if err := c.next(context.Background(), 0, 0); !errors.Is(err, ErrCorrupt) || sinks.OutcomeOf(err) != sinks.Halt {
		t.Errorf("Apply: %v, outcome %v; want ErrCorrupt, halt", err, sinks.OutcomeOf(err))
	}
}

func TestScan(t *testing.T) {
	e := newExpiring(t)
	put := func(collection string, keys ...*walproxyv1.Key) {
		for _, k := range keys {
			e.apply(0, start, must[*walproxyv1.Mutation](t)(mutation.Set(collection, k, map[string]any{"n": int64(1)})))
		}
	}
	str := mutation.String
	put("c", str("b"), str("a"), str("ab"), str("a\x00b"), str("ac"), str("b2"), mutation.Int64(-5), mutation.Int64(7), mutation.Bytes([]byte("a")))
	put("b", str("z"))
	put("c2", str("a"))
	e.apply(0, start, setUntil(t, "abx", start.Add(-time.Second)), setUntil(t, "aby", start))
	for _, c := range []struct {
		name, prefix string
		after        *walproxyv1.Key
		limit        int
		want         string
	}{
		{"all", "", nil, 100, "-5 7 a a\x00b ab ac b b2 0x61"},
		{"prefix", "a", nil, 100, "a a\x00b ab ac"},
		{"longer prefix", "ab", nil, 100, "ab"},
		{"limit", "", nil, 3, "-5 7 a"},
		{"after", "", str("a"), 3, "a\x00b ab ac"},
		{"after in prefix", "a", str("ab"), 100, "ac"},
		{"after a key that is not there", "", str("aa"), 2, "ab ac"},
		{"after, before the prefix", "b", str("a"), 100, "b b2"},
		{"after the end", "a", str("b"), 100, ""},
		{"nothing", "zz", nil, 100, ""},
		{"limit 0", "", nil, 0, ""},
	} {
		entries := must[[]Entry](t)(e.s.Scan(t.Context(), "c", c.prefix, c.after, c.limit))
		var got []string
		for _, entry := range entries {
			got = append(got, mutation.KeyText(entry.Key))
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s: %q, want %q", c.name, g, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.s.Scan(ctx, "c", "", nil, 10); !errors.Is(err, context.Canceled) {
		t.Errorf("Scan with a cancelled context: %v", err)
	}
}

// TestPointReads: a read costs the same however often its key was written (F13).
func TestPointReads(t *testing.T) {
	e := newExpiring(t)
	for range 50 {
		var ms []*walproxyv1.Mutation
		for range 40 {
			ms = append(ms, must[*walproxyv1.Mutation](t)(mutation.Increment("c", mutation.String("hot"), map[string]any{"n": int64(1)})))
		}
		e.apply(0, start, ms...)
	}
	d := must[*mutation.Document](t)(e.s.Read(t.Context(), "c", mutation.String("hot")))
	if n := d.Fields["n"].GetInt64(); n != 2000 || d.Version != 2000 {
		t.Errorf("n %d, version %v; want 2000", n, d.Version)
	}
	if got := e.keys(prefixDocument); got != 1 {
		t.Errorf("%d documents for one key", got)
	}
}

func TestTooLargeDocument(t *testing.T) {
	e := newExpiring(t)
	key := mutation.String("big")
	half := strings.Repeat("x", mutation.MaxDocumentBytes/2)
	grow := func() *walproxyv1.Mutation {
		return must[*walproxyv1.Mutation](t)(mutation.Append("c", key, map[string]any{"v": half}))
	}
	e.apply(0, start, grow())
	// In one batch with a record that would make room again: still this one.
	b := &sinks.Batch{Epoch: e.cp.Epoch, Records: []sinks.Record{
		record(e.n+1, start, grow()), record(e.n+2, start, mutation.Delete("c", key)),
	}, Moves: []sinks.Move{{From: e.cp.Lanes[0], To: point(e.n + 2)}}}
	results := must[[]sinks.Result](t)(e.s.Apply(t.Context(), b))
	if results[0].Outcome != sinks.Rejected || results[1].Outcome != sinks.Retry {
		t.Errorf("results %v, %v; want rejected, retry", results[0].Outcome, results[1].Outcome)
	}
}

// TestDocumentsBound: small writes to large documents are not all done in one batch; one
// alone is, unless its own are too many.
func TestDocumentsBound(t *testing.T) {
	many, one := documentsMax, recordMax
	defer func() { documentsMax, recordMax = many, one }()
	e := newExpiring(t)
	const size = 10_000
	touch := func(i int) *walproxyv1.Mutation {
		return must[*walproxyv1.Mutation](t)(mutation.Increment("c", mutation.Int64(int64(i)), map[string]any{"n": int64(1)}))
	}
	for i := range 6 {
		e.apply(0, start, must[*walproxyv1.Mutation](t)(mutation.Set("c", mutation.Int64(int64(i)), map[string]any{"v": strings.Repeat("x", size), "n": int64(0)})))
	}
	apply := func(list ...sinks.Record) []sinks.Result {
		t.Helper()
		for i := range list {
			list[i].LSN = e.n + sinks.LSN(i+1)
		}
		to := point(e.n + sinks.LSN(len(list)))
		results := must[[]sinks.Result](t)(e.s.Apply(t.Context(), &sinks.Batch{Epoch: e.cp.Epoch, Records: list, Moves: []sinks.Move{{From: e.cp.Lanes[0], To: to}}}))
		if results[0].Outcome == sinks.Applied {
			e.n, e.cp.Lanes[0] = to.LSN, to
		}
		return results
	}
	var list []sinks.Record
	for i := range 4 {
		list = append(list, record(0, start, touch(i)))
	}
	documentsMax = 2*2*size + size // each is read and written
	results := apply(list...)
	for i, want := range []sinks.Outcome{sinks.Retry, sinks.Retry, sinks.Rejected, sinks.Retry} {
		if results[i].Outcome != want {
			t.Fatalf("record %d: %v, want %v", i, results[i].Outcome, want)
		}
	}
	if !errors.Is(results[2].Err, errDocuments) {
		t.Error(results[2].Err)
	}
	for _, part := range [][]sinks.Record{list[:2], list[2:3], list[3:]} { // as the loop does
		if results := apply(part...); results[0].Outcome != sinks.Applied {
			t.Fatal(results)
		}
	}
	documentsMax = size // one alone is done all the same
	if results := apply(record(0, start, touch(0))); results[0].Outcome != sinks.Applied {
		t.Error(results)
	}
	for i, want := range []int64{2, 1, 1, 1} {
		if d := must[*mutation.Document](t)(e.s.Read(t.Context(), "c", mutation.Int64(int64(i)))); d.Fields["n"].GetInt64() != want {
			t.Errorf("document %d: %v, want %d", i, d.Fields["n"], want)
		}
	}
	documentsMax, recordMax = many, 2*2*size+size
	group := record(0, start, touch(0))
	members := &walproxyv1.Group{}
	for i := range 3 {
		members.Members = append(members.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{Mutation: touch(i)}})
	}
	group.Body = &walproxyv1.Record{Body: &walproxyv1.Record_Group{Group: members}}
	if results := apply(group); results[0].Outcome != sinks.Rejected || !errors.As(results[0].Err, new(*mutation.RejectedError)) {
		t.Errorf("a group of too many large documents: %v", results)
	}
}
