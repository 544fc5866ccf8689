package state

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/walproxy/walproxy/internal/position"
	"github.com/walproxy/walproxy/mutation"
)

func letterKey(name string) []byte { return mutation.AppendKey(nil, "c", mutation.String(name)) }

func newLetter(lsn, place position.LSN, parks bool, names ...string) DeadLetter {
	l := DeadLetter{
		Sink: "main", LSN: lsn, Position: place, Kind: Parked, Parks: parks,
		Reason: fmt.Sprint("because of ", lsn), When: time.Unix(0, int64(lsn)), Payload: []byte(fmt.Sprint("payload ", lsn)),
	}
	if lsn == place {
		l.Kind = Rejected
	}
	for _, name := range names {
		l.Keys = append(l.Keys, letterKey(name))
	}
	if lsn%3 == 0 { // else as version 1 has it
		l.Attempts, l.Details = uint64(lsn), map[string]string{"sqlstate": "23505", "hint": fmt.Sprint(lsn)}
	}
	return l
}

func lsns(letters []DeadLetter) (list []position.LSN) {
	for _, l := range letters {
		list = append(list, l.LSN)
	}
	return list
}

// must returns what a call returned, which may not fail.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func put(t *testing.T, d *DeadLetters, letters ...DeadLetter) {
	t.Helper()
	if err := d.Put(letters, nil, Bounds{}); err != nil {
		t.Fatal(err)
	}
}

func TestDeadLetters(t *testing.T) {
	s := mustOpen(t, "state", vfs.NewMem())
	d, other := s.DeadLetters("main"), s.DeadLetters("mai")
	if s.DeadLetters("main") != d {
		t.Error("two of one sink")
	}
	put(t, d, newLetter(5, 5, true, "a", "b"), newLetter(7, 7, false, "a"))
	put(t, d, newLetter(12, 6, true, "a"), newLetter(9, 9, true))
	put(t, other, newLetter(6, 6, true, "z"))
	if got := lsns(list(t, d, 6, 2)); !slices.Equal(got, []position.LSN{7, 9}) {
		t.Errorf("two from 6: %v", got)
	}
	if got := lsns(queue(t, d, "a")); !slices.Equal(got, []position.LSN{5, 12, 7}) {
		t.Errorf("queue of a: %v, want the order of positions", got)
	}
	got, ok, err := d.Get(12)
	if want := newLetter(12, 6, true, "a"); err != nil || !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("Get(12) = %+v, %v, %v; want %+v", got, ok, err, want)
	}
	if c, k, err := got.Key(); c != "c" || k.GetString_() != "a" || err != nil {
		t.Errorf("Key() = %s, %v, %v", c, k, err)
	}
	for _, c := range []struct {
		key    string
		before position.LSN
		want   position.LSN
	}{{"a", 100, 5}, {"a", 6, 5}, {"a", 5, 0}, {"b", 6, 5}, {"c", 100, 0}, {"z", 100, 0}} {
		lsn, ok, err := d.ParkedBy(letterKey(c.key), c.before)
		if err != nil || lsn != c.want || ok != (c.want != 0) {
			t.Errorf("ParkedBy(%s, %d) = %d, %v, %v; want %d", c.key, c.before, lsn, ok, err, c.want)
		}
	}
	if d.MayPark(mutation.HashEncoded(letterKey("c"))) || !d.MayPark(mutation.HashEncoded(letterKey("b"))) {
		t.Error("MayPark: want b, not c")
	}
	if totals, err := d.Totals(); err != nil || totals.Count != 4 || totals.ParkedKeys != 2 {
		t.Errorf("%+v, %v; want 4 that park 2 keys", totals, err)
	}
	if ok, err := d.Delete(6); ok || err != nil {
		t.Errorf("Delete of another sink's: %v, %v", ok, err)
	}
	if ok, err := d.Delete(5); !ok || err != nil {
		t.Errorf("Delete: %v, %v", ok, err)
	}
	if by, ok, err := d.Trace(5); by != 0 || !ok || err != nil {
		t.Errorf("Trace of what was given up: %d, %v, %v", by, ok, err)
	}
	if err := d.Put(nil, []Retry{{LSN: 12, By: 20}, {LSN: 13, By: 20}}, Bounds{}); err != nil {
		t.Fatal(err)
	}
	if by, ok, err := d.Trace(12); by != 20 || !ok || err != nil {
		t.Errorf("Trace of what was retried: %d, %v, %v", by, ok, err)
	}
	if _, ok, err := d.Trace(13); ok || err != nil {
		t.Errorf("Trace of what never was: %v, %v", ok, err)
	}
	if totals, err := d.Totals(); err != nil || totals.Count != 2 || totals.ParkedKeys != 0 {
		t.Errorf("%+v, %v; want 2 that park nothing", totals, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.List(0, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("List after Close: %v", err)
	}
}

func list(t *testing.T, d *DeadLetters, from position.LSN, limit int) []DeadLetter {
	t.Helper()
	letters, err := d.List(from, limit)
	if err != nil {
		t.Fatal(err)
	}
	return letters
}

func queue(t *testing.T, d *DeadLetters, key string) []DeadLetter {
	t.Helper()
	letters, err := d.Of(letterKey(key), 100)
	if err != nil {
		t.Fatal(err)
	}
	return letters
}

// TestDeadLettersFull: nothing is stored and nothing dropped at a bound.
func TestDeadLettersFull(t *testing.T) {
	d := mustOpen(t, "state", vfs.NewMem()).DeadLetters("main")
	put(t, d, newLetter(1, 1, true, "a"))
	before := must(d.Totals())
	bound := Bounds{Bytes: int64(before.Bytes)}
	for name, b := range map[string]Bounds{"bytes": bound, "age": {Age: time.Hour}} {
		err := d.Put([]DeadLetter{newLetter(2, 2, true, "a")}, []Retry{{LSN: 7, By: 9}}, b)
		if !errors.Is(err, ErrDeadLettersFull) {
			t.Errorf("%s: %v, want ErrDeadLettersFull", name, err)
		}
	}
	if err := d.CheckAge(time.Hour); !errors.Is(err, ErrDeadLettersFull) {
		t.Errorf("CheckAge: %v", err)
	}
	if got := must(d.Totals()); got != before {
		t.Errorf("%+v, want %+v as before", got, before)
	}
	// One that takes the place of the one it retries fits.
	if err := d.Put([]DeadLetter{newLetter(2, 1, true, "a")}, []Retry{{LSN: 1, By: 2}}, bound); err != nil {
		t.Error(err)
	}
	if err := errors.Join(d.CheckAge(0), d.CheckAge(time.Since(time.Unix(0, 0))+time.Hour)); err != nil {
		t.Error(err)
	}
}

// TestDeadLetterIsDurable: what Put, Delete and Resume returned for survives a
// power cut.
// TestQueueWhileItShrinks: a queue is read while its letters are retried and given
// up: what has gone meanwhile is left out, and nothing is taken for damage.
func TestQueueWhileItShrinks(t *testing.T) {
	d := mustOpen(t, "state", vfs.NewMem()).DeadLetters("main")
	const n = 400
	var letters []DeadLetter
	for lsn := position.LSN(1); lsn <= n; lsn++ {
		letters = append(letters, newLetter(lsn, lsn, true, "a"))
	}
	put(t, d, letters...)
	var writer sync.WaitGroup
	writer.Go(func() {
		for lsn := position.LSN(1); lsn <= n; lsn++ {
			if lsn%2 == 0 {
				if _, err := d.Delete(lsn); err != nil {
					t.Error(err)
				}
			} else if err := d.Put(nil, []Retry{{LSN: lsn, By: n + lsn}}, Bounds{}); err != nil {
				t.Error(err)
			}
		}
	})
	defer writer.Wait()
	for left := n; left > 0; {
		queue, err := d.Of(letterKey("a"), n)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.IsSorted(lsns(queue)) {
			t.Fatalf("out of order: %v", lsns(queue))
		}
		left = len(queue)
	}
}

// TestDeleteAll: all that are there go as one step, and free their keys.
func TestDeleteAll(t *testing.T) {
	fs := vfs.NewCrashableMem()
	d := mustOpen(t, "state", fs).DeadLetters("main")
	put(t, d, newLetter(1, 1, true, "a"), newLetter(2, 2, true, "a"), newLetter(3, 3, true, "b"), newLetter(4, 4, true, "b"), newLetter(5, 5, false, "a", "b"))
	gone, err := d.DeleteAll([]position.LSN{4, 2, 9, 1, 2, 5})
	if got := lsns(gone); err != nil || !slices.Equal(got, []position.LSN{1, 2, 4, 5}) || gone[0].Payload != nil {
		t.Fatalf("%v, %v", got, err)
	}
	d = mustOpen(t, "state", crash(fs)).DeadLetters("main")
	if totals := must(d.Totals()); totals.Count != 1 || totals.ParkedKeys != 1 {
		t.Errorf("%+v", totals)
	}
	for lsn := position.LSN(1); lsn <= 5; lsn++ {
		if given := must(d.GivenUp(lsn)); given != (lsn != 3) {
			t.Errorf("LSN %d given up: %v", lsn, given)
		}
	}
	if gone, err := d.DeleteAll([]position.LSN{1, 2}); err != nil || len(gone) != 0 {
		t.Errorf("again: %v, %v", lsns(gone), err)
	}
}

func TestDeadLetterIsDurable(t *testing.T) {
	fs := vfs.NewCrashableMem()
	d := mustOpen(t, "state", fs).DeadLetters("main")
	reopen := func() {
		t.Helper()
		fs = crash(fs)
		d = mustOpen(t, "state", fs).DeadLetters("main")
	}
	want := func(when string, want ...position.LSN) {
		t.Helper()
		reopen()
		letters, err := d.List(0, 100)
		if got := lsns(letters); err != nil || !slices.Equal(got, want) {
			t.Fatalf("after %s: %v, %v; want %v", when, got, err, want)
		}
		if totals, err := d.Totals(); err != nil || totals.Count != uint64(len(want)) {
			t.Fatalf("after %s: %+v, %v", when, totals, err)
		}
	}
	put(t, d, newLetter(1, 1, true, "a"), newLetter(2, 2, true, "a"), newLetter(3, 3, true, "a"))
	want("Put", 1, 2, 3)
	if err := d.Put([]DeadLetter{newLetter(4, 1, true, "a")}, []Retry{{LSN: 1, By: 4}}, Bounds{}); err != nil {
		t.Fatal(err)
	}
	want("Put with a retry", 2, 3, 4)
	if _, err := d.Delete(2); err != nil {
		t.Fatal(err)
	}
	want("Delete", 3, 4)
	if err := d.Resume(3, 1, func(*DeadLetter) bool { return true }); err != nil {
		t.Fatal(err)
	}
	want("Resume", 1, 3)
}

// TestResumeKeepsWhatCannotComeAgain: a sink that starts over from nothing does
// not drop what the log has no more.
func TestResumeKeepsWhatCannotComeAgain(t *testing.T) {
	d := mustOpen(t, "state", vfs.NewMem()).DeadLetters("main")
	put(t, d, newLetter(5, 5, true, "a"), newLetter(15, 15, true, "b"))
	if err := d.Resume(0, 10, func(*DeadLetter) bool { return true }); err != nil {
		t.Fatal(err)
	}
	if got := lsns(must(d.List(0, 9))); !slices.Equal(got, []position.LSN{5}) {
		t.Errorf("%v, want LSN 5, which the log does not have", got)
	}
}

// TestParkedKeysAreCounted: what was stored before the parked keys were counted.
func TestParkedKeysAreCounted(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, "state", fs)
	d := s.DeadLetters("main")
	put(t, d, newLetter(1, 1, true, "a", "b"), newLetter(2, 2, true, "a"), newLetter(4, 4, false, "c"))
	before := must(d.Totals())
	old := stored(t, s, d.prefix('t'))[:16]
	err := errors.Join(s.db.Set(d.prefix('t'), old, pebble.Sync),
		s.db.DeleteRange(d.prefix('p'), prefixEnd(d.prefix('p')), pebble.Sync), s.Close())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // counted, and counted before
		s = mustOpen(t, "state", fs)
		d = s.DeadLetters("main")
		if got := must(d.Totals()); got != before || got.ParkedKeys != 2 {
			t.Errorf("%+v, want %+v with 2 parked keys", got, before)
		}
		for name, want := range map[string]position.LSN{"a": 1, "b": 1, "c": 0} {
			if lsn, ok, err := d.ParkedBy(letterKey(name), 9); lsn != want || ok != (want > 0) || err != nil {
				t.Errorf("ParkedBy(%s): %d, %v, %v; want %d", name, lsn, ok, err, want)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func stored(t *testing.T, s *Store, key []byte) []byte {
	t.Helper()
	value, found, err := s.get(key)
	if err != nil || !found {
		t.Fatal(found, err)
	}
	return value
}

// TestTraces: what became of a dead letter is known after the log was freed, for
// one that was given up or is a dead letter again; not for one applied in the end.
func TestTraces(t *testing.T) {
	d := mustOpen(t, "state", vfs.NewMem()).DeadLetters("main")
	trace := func(lsn, want position.LSN, known bool) {
		t.Helper()
		if by, ok, err := d.Trace(lsn); by != want || ok != known || err != nil {
			t.Errorf("Trace(%d): %d, %v, %v; want %d, %v", lsn, by, ok, err, want, known)
		}
	}
	put(t, d, newLetter(1, 1, true, "a"), newLetter(2, 2, true, "b"), newLetter(3, 3, true, "c"))
	for _, r := range []Retry{{1, 11}, {2, 12}, {3, 13}} {
		if err := d.Put([]DeadLetter{newLetter(r.By, r.LSN, true, fmt.Sprint(r.LSN))}, []Retry{r}, Bounds{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Put(nil, []Retry{{13, 23}}, Bounds{}); err != nil { // 3 is applied in the end
		t.Fatal(err)
	}
	if ok, err := d.Delete(12); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for _, first := range []position.LSN{5, 12, 20, 20, 40} {
		if err := d.Settle(first); err != nil {
			t.Fatal(err)
		}
		trace(1, 11, true)
		trace(2, 0, true)
		trace(12, 0, true)
	}
	trace(13, 0, false)
	if letter, ok, err := d.Get(11); !ok || err != nil || letter.Position != 1 {
		t.Errorf("%+v, %v, %v; want LSN 11 as it was", letter, ok, err)
	}
}

// TestHeadOfAQueue: what a key is parked by is known although the one in front
// goes and comes back under another LSN.
func TestHeadOfAQueue(t *testing.T) {
	d := mustOpen(t, "state", vfs.NewMem()).DeadLetters("main")
	parkedBy := func(before, want position.LSN) {
		t.Helper()
		if lsn, ok, err := d.ParkedBy(letterKey("a"), before); lsn != want || ok != (want > 0) || err != nil {
			t.Errorf("before %d: %d, %v, %v; want %d", before, lsn, ok, err, want)
		}
	}
	put(t, d, newLetter(5, 5, true, "a"), newLetter(7, 7, true, "a"))
	parkedBy(100, 5)
	if err := d.Put(nil, []Retry{{LSN: 5, By: 20}}, Bounds{}); err != nil {
		t.Fatal(err)
	}
	parkedBy(100, 7)
	parkedBy(7, 0)
	put(t, d, newLetter(20, 5, true, "a")) // rejected again
	parkedBy(100, 20)
	parkedBy(7, 20)
	parkedBy(5, 0)
}

// TestListIsBounded in bytes, whatever the limit.
func TestListIsBounded(t *testing.T) {
	d := mustOpen(t, "state", vfs.NewMem()).DeadLetters("main")
	for i := position.LSN(1); i <= 5; i++ {
		l := newLetter(i, i, true, "a")
		l.Payload = make([]byte, 3<<20)
		put(t, d, l)
	}
	if got := lsns(list(t, d, 2, 100)); !slices.Equal(got, []position.LSN{2, 3, 4}) {
		t.Errorf("List: %v, want about 8 MiB", got)
	}
	if got := lsns(queue(t, d, "a")); !slices.Equal(got, []position.LSN{1, 2, 3}) {
		t.Errorf("Of: %v, want about 8 MiB", got)
	}
}

// TestResumeInChunks: more is undone than one change takes.
func TestResumeInChunks(t *testing.T) {
	d := mustOpen(t, "state", vfs.NewMem()).DeadLetters("main")
	const n = 2*chunk + 10
	var letters []DeadLetter
	var retries []Retry
	for i := position.LSN(1); i <= n; i++ {
		letters = append(letters, newLetter(i, i, true, fmt.Sprint("k", i%7)))
		retries = append(retries, Retry{LSN: i, By: i + n})
	}
	put(t, d, letters...)
	if err := d.Put(nil, retries, Bounds{}); err != nil {
		t.Fatal(err)
	}
	all := func(*DeadLetter) bool { return true }
	for _, low := range []position.LSN{n, n / 2, 0} {
		if err := d.Resume(low, 1, all); err != nil {
			t.Fatal(err)
		}
		if totals := must(d.Totals()); totals.Count != uint64(low) || totals.ParkedKeys != min(int(low), 7) {
			t.Errorf("resumed at %d: %+v", low, totals)
		}
	}
	put(t, d, letters...)
	if err := errors.Join(d.Put(nil, retries, Bounds{}), d.Settle(2*n+1)); err != nil {
		t.Fatal(err)
	}
	if err := d.Resume(0, 1, all); err != nil {
		t.Fatal(err)
	}
	if totals := must(d.Totals()); totals.Count != 0 {
		t.Errorf("%+v came back after they were forgotten", totals)
	}
}

// historyModel remembers the dead letters after every LSN.
type historyModel map[position.LSN]map[position.LSN]DeadLetter

// TestDeadLettersModel: records put, retry and give up; the checkpoint falls back
// to any point that the log still has; what is stored is then what it was there.
func TestDeadLettersModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewCrashableMem()
		s := must(openFor(fs))
		defer func() { _ = s.Close() }()
		d := s.DeadLetters("main")
		history := historyModel{0: {}}
		var now, first position.LSN = 0, 1
		var given []position.LSN
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 2: // one is given up, for good
				if len(history[now]) == 0 {
					continue
				}
				lsn := rapid.SampledFrom(slices.Sorted(maps.Keys(history[now]))).Draw(t, "given up")
				if ok, err := d.Delete(lsn); !ok || err != nil {
					t.Fatalf("Delete(%d): %v, %v", lsn, ok, err)
				}
				for _, letters := range history {
					delete(letters, lsn)
				}
				given = append(given, lsn)
			case 0: // the store crashes and the checkpoint falls back
				if rapid.Bool().Draw(t, "crash") {
					fs = fs.CrashClone(vfs.CrashCloneCfg{})
					_ = s.Close()
					s = must(openFor(fs))
					d = s.DeadLetters("main")
					d.tallyMax = uint64(rapid.IntRange(0, 3).Draw(t, "keys in the table"))
				}
				now = position.LSN(rapid.Uint64Range(uint64(first-1), uint64(now)).Draw(t, "checkpoint"))
				if err := d.Resume(now, first, func(*DeadLetter) bool { return true }); err != nil {
					t.Fatal(err)
				}
			case 1: // the log is freed
				first = position.LSN(rapid.Uint64Range(uint64(first), uint64(now)+1).Draw(t, "first"))
				if err := d.Settle(first); err != nil {
					t.Fatal(err)
				}
			default:
				now++
				history[now] = stepRecord(t, d, now, maps.Clone(history[now-1]))
			}
			compareLetters(t, d, history[now])
			for _, lsn := range given {
				if is, err := d.GivenUp(lsn); !is || err != nil {
					t.Fatalf("GivenUp(%d): %v, %v", lsn, is, err)
				}
				if last, err := d.LastTrace(); last < lsn || err != nil {
					t.Fatalf("LastTrace: %d, %v; %d was given up", last, err, lsn)
				}
			}
		}
	})
}

func openFor(fs vfs.FS) (*Store, error) { return open("state", Options{}, fs) }

// stepRecord is a record that puts, retries, both, or does nothing.
func stepRecord(t *rapid.T, d *DeadLetters, lsn position.LSN, letters map[position.LSN]DeadLetter) map[position.LSN]DeadLetter {
	var retries []Retry
	place := lsn
	if len(letters) > 0 && rapid.Bool().Draw(t, "retry") {
		named := rapid.SampledFrom(slices.Sorted(maps.Keys(letters))).Draw(t, "named")
		place = letters[named].Position
		retries = []Retry{{LSN: named, By: lsn}}
		delete(letters, named)
	}
	var added []DeadLetter
	if rapid.Bool().Draw(t, "put") {
		names := rapid.SliceOfNDistinct(rapid.StringMatching("[abc]"), 0, 2, rapid.ID[string]).Draw(t, "keys")
		added = append(added, newLetter(lsn, place, rapid.Bool().Draw(t, "parks"), names...))
		letters[lsn] = added[0]
	}
	if err := d.Put(added, retries, Bounds{}); err != nil {
		t.Fatal(err)
	}
	return letters
}

func compareLetters(t *rapid.T, d *DeadLetters, want map[position.LSN]DeadLetter) {
	t.Helper()
	got := must(d.List(0, 1000))
	var sorted []DeadLetter
	for _, lsn := range slices.Sorted(maps.Keys(want)) {
		sorted = append(sorted, want[lsn])
	}
	if len(got)+len(sorted) > 0 && !reflect.DeepEqual(got, sorted) {
		t.Fatalf("dead letters %+v, want %+v", got, sorted)
	}
	parked := 0
	for _, name := range []string{"a", "b", "c"} {
		key := letterKey(name)
		queue := slices.DeleteFunc(slices.Clone(sorted), func(l DeadLetter) bool {
			return !slices.ContainsFunc(l.Keys, func(k []byte) bool { return bytes.Equal(k, key) })
		})
		slices.SortStableFunc(queue, func(a, b DeadLetter) int { return cmp.Compare(a.Position, b.Position) })
		if got := must(d.Of(key, 1000)); !slices.Equal(lsns(got), lsns(queue)) {
			t.Fatalf("queue of %s: %v, want %v", name, lsns(got), lsns(queue))
		}
		first := slices.IndexFunc(queue, func(l DeadLetter) bool { return l.Parks })
		lsn, ok, err := d.ParkedBy(key, 1<<63)
		if err != nil || ok != (first >= 0) || ok && lsn != queue[first].LSN {
			t.Fatalf("ParkedBy(%s) = %d, %v, %v; queue %v", name, lsn, ok, err, lsns(queue))
		}
		if ok {
			parked++
		}
		if ok && !d.MayPark(mutation.HashEncoded(key)) {
			t.Fatalf("MayPark(%s) is false", name)
		}
	}
	totals := must(d.Totals())
	if totals.Count != uint64(len(want)) || totals.ParkedKeys != parked || (totals.Bytes > 0) != (len(want) > 0) {
		t.Fatalf("%+v, want %d that park %d keys", totals, len(want), parked)
	}
}

// TestOldDeadLetter: what was stored before there were attempts and details.
func TestOldDeadLetter(t *testing.T) {
	old := []byte("\x01\x02\x01\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x07\x01\x01k\x02no\x03pay")
	want := DeadLetter{Position: 5, Kind: Parked, Parks: true, Keys: [][]byte{[]byte("k")}, Reason: "no", When: time.Unix(0, 7), Payload: []byte("pay")}
	got, err := decodeLetter(old)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if again := encodeLetter(&got); !bytes.Equal(again, old) {
		t.Errorf("written again it is %q, want %q: it would weigh something else", again, old)
	}
}

func FuzzDeadLetter(f *testing.F) {
	for _, l := range []DeadLetter{newLetter(3, 3, true, "a"), newLetter(4, 4, true), newLetter(9, 3, false, "a", "b")} {
		f.Add(encodeLetter(&l))
	}
	f.Add([]byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, value []byte) {
		letter, err := decodeLetter(value)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v is not ErrCorrupt", err)
			}
			return
		}
		again, err := decodeLetter(encodeLetter(&letter))
		if err != nil || !reflect.DeepEqual(again, letter) {
			t.Fatalf("%+v became %+v, %v", letter, again, err)
		}
	})
}

// BenchmarkParked stores b.N parked records, a thousand at a time, one for each
// of b.N keys, and reports what the parked keys take in memory after a start.
func BenchmarkParked(b *testing.B) {
	dir := b.TempDir()
	s := must(Open(dir, Options{}))
	d := s.DeadLetters("main")
	letters := make([]DeadLetter, 0, 1000)
	for i := range b.N {
		lsn := position.LSN(i + 1)
		letters = append(letters, newLetter(lsn, lsn, true, fmt.Sprint("key ", i)))
		if len(letters) < cap(letters) && i+1 < b.N {
			continue
		}
		if err := d.Put(letters, nil, Bounds{}); err != nil {
			b.Fatal(err)
		}
		letters = letters[:0]
	}
	b.StopTimer()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	s = must(Open(dir, Options{}))
	before := heap()
	began := time.Now()
	totals := must(s.DeadLetters("main").Totals())
	b.ReportMetric(float64(time.Since(began).Nanoseconds())/float64(b.N), "load-ns/key")
	b.ReportMetric(float64(heap()-before)/float64(b.N), "heap-B/key")
	if totals.ParkedKeys != b.N {
		b.Fatalf("%+v, want %d parked keys", totals, b.N)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
