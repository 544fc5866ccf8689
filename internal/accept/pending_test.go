package accept

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/walproxy/walproxy/wal"
)

func TestBucketsRaise(t *testing.T) {
	var b buckets
	b.fill(7)
	if got := b.get(1 << 40); got != 7 {
		t.Fatalf("after fill: %d", got)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for lsn := range wal.LSN(1000) {
				b.raise(1<<40, lsn*4+wal.LSN(i))
			}
		})
	}
	wg.Wait()
	if got := b.get(1 << 40); got != 3999 {
		t.Fatalf("highest %d, want 3999", got)
	}
}

// The map may forget, but never tells anything but the last put.
func TestExactMapModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 512).Draw(t, "size")
		x := newExactMap(size)
		model := map[string]exactEntry{}
		applied := wal.LSN(0)
		for i := range rapid.IntRange(1, 200).Draw(t, "steps") {
			key := fmt.Sprint(rapid.IntRange(0, 30).Draw(t, "key"))
			hash := uint64(len(key)) * 7
			lsn := wal.LSN(i + 1)
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				applied = max(applied, wal.LSN(rapid.IntRange(0, int(lsn)).Draw(t, "applied")))
			case 1:
				e, ok := x.get(hash, key, applied)
				if ok && (e != model[key] || e.lsn <= applied) {
					t.Fatalf("%s is %+v, want %+v; applied %d", key, e, model[key], applied)
				}
			default:
				e := exactEntry{known{exists: existence(rapid.IntRange(0, 2).Draw(t, "exists")), version: lsn}, lsn}
				x.put(hash, key, e)
				model[key] = e
				got, ok := x.get(hash, key, 0)
				if (e.known.exists == unsure) == ok || ok && got != e {
					t.Fatalf("%s was put as %+v and is %+v, %v", key, e, got, ok)
				}
			}
		}
	})
}

func TestExactMapBounds(t *testing.T) {
	x := newExactMap(64) // one per shard
	e := exactEntry{known{exists: exists, version: 1}, 1}
	for i := range 1000 {
		x.put(0, fmt.Sprint(i), e)
	}
	if n := len(x.shards[0].entries); n != 1 {
		t.Errorf("%d entries in a shard of 1", n)
	}
	if _, ok := x.get(0, "999", 0); !ok {
		t.Error("the last one was not kept")
	}
	x = newExactMap(64 * 100)
	for i := range 1000 {
		x.put(0, fmt.Sprint(i)+strings.Repeat("x", 1000), e)
	}
	if n := len(x.shards[0].entries); n < 2 || n > 100*keyBytesPerEntry/1000 {
		t.Errorf("%d entries with keys of 1 kB", n)
	}
	if x.put(0, strings.Repeat("x", 100*keyBytesPerEntry+1), e); x.shards[0].keyBytes > 100*keyBytesPerEntry {
		t.Error("one huge key is over the bound")
	}
}
