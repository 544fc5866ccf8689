package wal

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// TestFollow: a follower sees every record, once and in order, across rolls and
// restarts; what was freed before it came by it is told.
func TestFollow(t *testing.T) {
	dir := memoryDir(t)
	o := testOptions()
	o.SegmentBytes = 3000
	l := mustOpen(t, dir, o)
	appendN(t, l, 50, damageSize)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	const total = 600
	var following sync.WaitGroup
	var got []LSN
	following.Go(func() {
		for f, err := range Follow(ctx, dir, 1, InspectOptions{}) {
			if err != nil || !bytes.Equal(f.Payload, payloadOf(f.LSN, damageSize)) {
				t.Errorf("LSN %d: %v", f.LSN, err)
				return
			}
			got = append(got, f.LSN)
			if f.LSN == total {
				cancel()
			}
		}
	})
	for l.Durable() < total {
		appendN(t, l, 50, damageSize)
		if l.Durable()%200 == 0 {
			mustClose(t, l)
			l = mustOpen(t, dir, o)
		}
	}
	following.Wait()
	for i, lsn := range got {
		if lsn != LSN(i+1) {
			t.Fatalf("LSN %d after %d records", lsn, i)
		}
	}
	if len(got) != total {
		t.Fatalf("%d records, want %d", len(got), total)
	}
	l.Release(400)
	eventually(t, "segments to be freed", func() bool { return mustInspect(t, dir).First > 300 })
	for f, err := range Follow(testContext(t), dir, 1, InspectOptions{}) {
		freed, ok := errors.AsType[*FreedError](err)
		if !ok || freed.First != 1 || freed.Last < 300 || freed.Last >= 400 {
			t.Fatalf("LSN %d, %v", f.LSN, err)
		}
		break
	}
	mustClose(t, l)
}

// TestFollowDamage: damage is told once, and what comes after it is followed.
func TestFollowDamage(t *testing.T) {
	dir := memoryDir(t)
	l := mustOpen(t, dir, testOptions())
	appendN(t, l, 5, damageSize)
	awaitWatermark(t, l)
	file := filepath.Join(dir, mustInspect(t, dir).Segments[0].Path)
	b := mustRead(t, file)
	at := int64(bytes.Index(b, []byte("record 3")))
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{b[at] ^ 1}, at); err != nil {
		t.Fatal(err)
	}
	mustClose(t, f)
	var lsns []LSN
	told := 0
	for f, err := range Follow(testContext(t), dir, 1, InspectOptions{}) {
		if c, ok := errors.AsType[*CorruptError](err); ok && c.First == 3 && c.Last == 3 {
			told++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if lsns = append(lsns, f.LSN); f.LSN == 5 {
			appendN(t, l, 1, damageSize)
		}
		if f.LSN == 6 {
			break
		}
	}
	if told != 1 || len(lsns) != 5 {
		t.Fatalf("told %d times, read %v", told, lsns)
	}
	mustClose(t, l)
}

// TestFollowIdle: the last record before a pause is seen, too.
func TestFollowIdle(t *testing.T) {
	dir := memoryDir(t)
	l := mustOpen(t, dir, testOptions())
	next := LSN(1)
	appendN(t, l, 1, damageSize)
	for f, err := range Follow(testContext(t), dir, 1, InspectOptions{}) {
		if err != nil || f.LSN != next {
			t.Fatalf("LSN %d, want %d: %v", f.LSN, next, err)
		}
		if next++; next > 30 {
			break
		}
		appendN(t, l, 1, damageSize)
	}
	if next != 31 {
		t.Fatalf("followed up to LSN %d", next-1)
	}
	mustClose(t, l)
}
