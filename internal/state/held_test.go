package state

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/walproxy/walproxy/internal/position"
)

func heldRecords(lsns ...position.LSN) (records []HeldRecord) {
	for _, lsn := range lsns {
		records = append(records, HeldRecord{LSN: lsn, Payload: fmt.Append(nil, "record ", lsn)})
	}
	return records
}

// readHeld reads everything above after, a page of limit bytes at a time.
func readHeld(h *Held, after position.LSN, limit int) (records []HeldRecord, upTo position.LSN, err error) {
	for {
		page, next, err := h.Read(after, limit)
		if err != nil || next == after {
			return records, after, err
		}
		if size := 0; len(page) > 1 {
			for _, r := range page {
				size += len(r.Payload)
			}
			if size > limit {
				return nil, 0, fmt.Errorf("a page of %d bytes, want up to %d", size, limit)
			}
		}
		records, after = append(records, page...), next
	}
}

func TestHeld(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := must(Open(dir, Options{}))
	h, other := s.Held("main"), s.Held("mai")
	first, second := position.Point{Incarnation: uuid.New(), LSN: 1}, position.Point{Incarnation: uuid.New(), LSN: 40}
	if r, err := h.Range(); err != nil || !r.IsZero() {
		t.Fatalf("new: %+v, %v", r, err)
	}
	if err := h.Put(heldRecords(12, 15, 30), 10, 35, []position.Point{first}); err != nil {
		t.Fatal(err)
	}
	if err := other.Put(heldRecords(13), 0, 20, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.Put(heldRecords(41), 35, 60, []position.Point{first, second}); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []struct {
		records      []HeldRecord
		low, through position.LSN
	}{{nil, 59, 70}, {nil, 60, 60}, {heldRecords(60), 60, 70}, {heldRecords(71), 60, 70}, {heldRecords(62, 61), 60, 70}} {
		if err := h.Put(wrong.records, wrong.low, wrong.through, nil); !errors.Is(err, errHeldGap) {
			t.Errorf("Put(%+v): %v, want errHeldGap", wrong, err)
		}
	}
	want := HeldRange{Low: 10, Through: 60, History: []position.Point{first, second}, Records: 4, Bytes: 36}
	for range 2 { // as it is, and after a restart
		if r, err := h.Range(); err != nil || !reflect.DeepEqual(r, want) {
			t.Fatalf("%+v, %v; want %+v", r, err, want)
		}
		if got, upTo, err := readHeld(h, 12, 18); err != nil || upTo != 60 || !reflect.DeepEqual(got, heldRecords(15, 30, 41)) {
			t.Fatalf("above 12: %v up to %d, %v", got, upTo, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = must(Open(dir, Options{}))
		h, other = s.Held("main"), s.Held("mai")
	}
	for lsn, begin := range map[position.LSN]position.Point{10: first, 39: first, 40: second, 60: second} {
		if p, ok := want.Point(lsn); !ok || p.LSN != lsn || p.Incarnation != begin.Incarnation {
			t.Errorf("Point(%d) = %v, %v; want %v's", lsn, p, ok, begin)
		}
	}
	if _, ok := want.Point(9); ok || want.Continues(9) || want.Continues(60) || !want.Continues(10) {
		t.Error("the ends of the range")
	}
	if records, upTo, err := h.Read(9, 100); len(records) != 0 || upTo != 9 || err != nil {
		t.Errorf("below the range: %v up to %d, %v", records, upTo, err)
	}
	if err := h.Trim(40); err != nil {
		t.Fatal(err)
	}
	want = HeldRange{Low: 40, Through: 60, History: []position.Point{second}, Records: 1, Bytes: 9}
	if r, err := h.Range(); err != nil || !reflect.DeepEqual(r, want) {
		t.Errorf("trimmed: %+v, %v; want %+v", r, err, want)
	}
	// The sink has passed the range: another one begins.
	if err := h.Put(heldRecords(101), 100, 110, []position.Point{second}); err != nil {
		t.Fatal(err)
	}
	if got, upTo, err := readHeld(h, 100, 100); err != nil || upTo != 110 || !reflect.DeepEqual(got, heldRecords(101)) {
		t.Errorf("%v up to %d, %v", got, upTo, err)
	}
	if r, err := h.Range(); err != nil || r.Records != 1 || r.Low != 100 {
		t.Errorf("another: %+v, %v", r, err)
	}
	if err := s.DropHeld("main"); err != nil {
		t.Fatal(err)
	}
	if r, err := h.Range(); err != nil || !r.IsZero() {
		t.Errorf("dropped: %+v, %v", r, err)
	}
	if got, upTo, err := readHeld(other, 0, 100); err != nil || upTo != 20 || len(got) != 1 {
		t.Errorf("another sink's: %v up to %d, %v", got, upTo, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Range(); err != nil {
		t.Errorf("what is known needs no disk: %v", err)
	}
	if err := h.Put(nil, 110, 120, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Put after Close: %v", err)
	}
}

// heldModel is what a sink wrote and has.
type heldModel struct {
	records    map[position.LSN]HeldRecord // held
	checkpoint position.LSN
	through    position.LSN
	trimmed    position.LSN
	begins     []position.Point
}

// check: whatever the sink has not got up to through is there, once and in order.
func (m *heldModel) check(t *rapid.T, h *Held, limit int) {
	r := must(h.Range())
	if m.through <= m.checkpoint {
		return // nothing is owed; what is left may be anything older
	}
	if r.Through != m.through || r.Low > m.checkpoint || !r.Continues(m.checkpoint) {
		t.Fatalf("%+v, want up to %d from %d or below", r, m.through, m.checkpoint)
	}
	var want []HeldRecord
	for _, lsn := range slices.Sorted(maps.Keys(m.records)) {
		if lsn > m.checkpoint {
			want = append(want, m.records[lsn])
		}
	}
	got, upTo, err := readHeld(h, m.checkpoint, limit)
	if err != nil || upTo != m.through || !reflect.DeepEqual(got, want) {
		t.Fatalf("above %d: %v up to %d, %v; want %v up to %d", m.checkpoint, got, upTo, err, want, m.through)
	}
	if m.trimmed == m.checkpoint && r.Low == m.checkpoint {
		bytes := 0
		for _, r := range want {
			bytes += len(r.Payload)
		}
		if r.Records != uint64(len(want)) || r.Bytes != uint64(bytes) {
			t.Fatalf("%+v, want %d records, %d bytes", r, len(want), bytes)
		}
	}
	for lsn := m.checkpoint; lsn <= m.through; lsn++ {
		var want position.Point
		for _, b := range m.begins {
			if b.LSN <= lsn {
				want = position.Point{Incarnation: b.Incarnation, LSN: lsn}
			}
		}
		if p, ok := r.Point(lsn); !ok || p != want {
			t.Fatalf("Point(%d) = %v, %v; want %v of %+v", lsn, p, ok, want, r)
		}
	}
}

// TestHeldModel: puts, trims and crashes in any order lose nothing that the
// sink's checkpoint does not cover.
// TestManyTrims: trims do not gather in a memtable, where each makes the next read dearer:
// a long drain has one in each second.
func TestManyTrims(t *testing.T) {
	s := must(Open(filepath.Join(t.TempDir(), "state"), Options{}))
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	h := s.Held("main")
	const n = 1500
	var lsns []position.LSN
	for lsn := range position.LSN(n) {
		lsns = append(lsns, lsn+1)
	}
	if err := h.Put(heldRecords(lsns...), 0, n, []position.Point{{Incarnation: uuid.New(), LSN: 1}}); err != nil {
		t.Fatal(err)
	}
	for lsn := range position.LSN(n - 10) {
		if err := h.Trim(lsn + 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	if flushes := s.db.Metrics().Flush.Count; flushes < 5 {
		t.Errorf("%d flushes behind %d trims: so many deletions of ranges are in a memtable", flushes, n)
	}
	left := 0 // also where no read looks any more
	err := h.scan(h.prefix(), prefixEnd(h.prefix()), func(position.LSN, heldPlace, []byte) bool { left++; return true })
	if err != nil || left != 10 {
		t.Errorf("%d records are left, want 10: %v", left, err)
	}
}

func TestHeldModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewCrashableMem()
		s := must(open("state", Options{}, fs))
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
		m := &heldModel{records: map[position.LSN]HeldRecord{}, begins: []position.Point{{Incarnation: uuid.New(), LSN: 1}}}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			h := s.Held("main")
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1, 2:
				low := max(m.through, m.checkpoint)
				through := low + position.LSN(rapid.IntRange(1, 20).Draw(t, "more"))
				if low > 0 && rapid.Bool().Draw(t, "restarted") {
					m.begins = append(m.begins, position.Point{Incarnation: uuid.New(), LSN: low + 1})
				}
				var records []HeldRecord
				for lsn := low + 1; lsn <= through; lsn++ {
					if rapid.IntRange(0, 3).Draw(t, "mine") == 0 {
						records = append(records, heldRecords(lsn)...)
						m.records[lsn] = records[len(records)-1]
					}
				}
				history := slices.DeleteFunc(slices.Clone(m.begins), func(p position.Point) bool { return p.LSN > through })
				if err := h.Put(records, low, through, history[max(0, len(history)-2):]); err != nil {
					t.Fatal(err)
				}
				m.through = through
			case 3:
				m.checkpoint += position.LSN(rapid.IntRange(0, 15).Draw(t, "progress"))
			case 4:
				if err := h.Trim(m.checkpoint); err != nil {
					t.Fatal(err)
				}
				m.trimmed = m.checkpoint
			case 5:
				fs = crash(fs)
				old := s
				s = must(open("state", Options{}, fs))
				if err := old.Close(); err != nil {
					t.Fatal(err)
				}
			}
			m.check(t, s.Held("main"), rapid.IntRange(1, 60).Draw(t, "limit"))
		}
	})
}

// FuzzHeld: no bytes make a decoder panic, and what it takes comes back.
func FuzzHeld(f *testing.F) {
	f.Add(encodeHeld(heldPlace{3, 700}, []byte("payload")))
	f.Add(encodeHeldMark(heldMark{HeldRange: HeldRange{Low: 3, Through: 9, History: []position.Point{{Incarnation: uuid.New(), LSN: 2}}}, putRecords: 4, putBytes: 90, goneRecords: 1, goneBytes: 7}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, value []byte) {
		if place, payload, err := decodeHeld(value); err == nil {
			again, same, err := decodeHeld(encodeHeld(place, payload))
			if err != nil || again != place || !bytes.Equal(same, payload) {
				t.Errorf("held record %x does not come back", value)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("decodeHeld: %v", err)
		}
		if mark, err := decodeHeldMark(value); err == nil {
			if !bytes.Equal(encodeHeldMark(mark), value) {
				t.Errorf("mark %x does not come back", value)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("decodeHeldMark: %v", err)
		}
	})
}
