package wal

import "testing"

// TestExtents: they cover the records kept without a hole, and their bytes are
// the log's.
func TestExtents(t *testing.T) {
	o := testOptions()
	o.SegmentBytes = 4096
	l := mustOpen(t, memoryDir(t), o)
	appendN(t, l, 100, 200)
	check := func() []Extent {
		t.Helper()
		extents := l.Extents()
		next, bytes := l.First(), int64(0)
		for i, e := range extents {
			if e.First != next || e.Last+1 < e.First || e.Sealed != (i+1 < len(extents)) {
				t.Fatalf("extent %d is %+v, want it to begin at %d: %+v", i, e, next, extents)
			}
			next = e.Last + 1
			bytes += e.Bytes
		}
		if next != l.Durable()+1 {
			t.Fatalf("extents end at %d, durable is %d", next-1, l.Durable())
		}
		if len(extents) > 1 && bytes > l.Stats().Bytes {
			t.Fatalf("extents take %d bytes, the log %d", bytes, l.Stats().Bytes)
		}
		return extents
	}
	extents := check()
	if len(extents) < 4 {
		t.Fatalf("%d segments", len(extents))
	}
	l.Release(extents[2].First)
	if after := check(); len(after) != len(extents)-2 || after[0] != extents[2] {
		t.Fatalf("after a release: %+v, before %+v", after, extents)
	}
	if l.MaxBytes() != 64<<30 && l.MaxBytes() != o.MaxBytes {
		t.Fatalf("MaxBytes() = %d", l.MaxBytes())
	}
}

// TestHistory: every point between low and high is placed by the history as it
// is by the log itself.
func TestHistory(t *testing.T) {
	dir := t.TempDir()
	for range 5 {
		l := mustOpen(t, dir, testOptions())
		appendN(t, l, 4, 50)
		mustClose(t, l)
	}
	l := mustOpen(t, dir, testOptions())
	for low := LSN(0); low <= 20; low++ {
		for high := low; high <= 20; high++ {
			history := l.History(low, high)
			for lsn := max(low, 1); lsn <= high; lsn++ {
				want, err := l.PointOf(lsn)
				if err != nil {
					t.Fatal(err)
				}
				var got Point
				for _, p := range history {
					if p.LSN <= lsn {
						got = Point{Incarnation: p.Incarnation, LSN: lsn}
					}
				}
				if got != want {
					t.Fatalf("History(%d, %d) = %v places LSN %d at %v, want %v", low, high, history, lsn, got, want)
				}
			}
			if need := int(high+3)/4 - int(max(low, 1)-1)/4; high > 0 && len(history) != need {
				t.Fatalf("History(%d, %d) = %v, want %d", low, high, history, need)
			}
		}
	}
}
