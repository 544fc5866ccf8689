package state

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/walproxy/walproxy/internal/position"
)

var time0 = time.Unix(1_700_000_000, 0)

// requests makes the entries of LSN from to to, accepted a second apart.
func requests(from, to uint64) (list []RequestID) {
	for n := from; n <= to; n++ {
		r := RequestID{Principal: fmt.Sprint("p", n%3), ID: fmt.Sprint("id", n), LSN: position.LSN(n)}
		r.Accepted = time0.Add(time.Duration(n) * time.Second)
		binary.BigEndian.PutUint64(r.PayloadHash[:], n)
		list = append(list, r)
	}
	return list
}

// checkRequests: the entries up to the mark, which is 0 or want, are all there.
func checkRequests(t *testing.T, s *Store, want position.LSN) {
	t.Helper()
	mark, err := s.RequestMark()
	if err != nil || mark != 0 && mark != want {
		t.Fatalf("RequestMark = %d, %v", mark, err)
	}
	for _, r := range requests(1, uint64(mark)) {
		got, ok, err := s.LookupRequest(t.Context(), r.Principal, r.ID)
		if !ok || err != nil || !got.Accepted.Equal(r.Accepted) || got.LSN != r.LSN || got.PayloadHash != r.PayloadHash {
			t.Errorf("LookupRequest(%s, %s) = %+v, %t, %v", r.Principal, r.ID, got, ok, err)
		}
	}
}

func TestRequestScope(t *testing.T) {
	s := mustOpen(t, "state", vfs.NewMem())
	// Pairs that run together as plain strings.
	list := []RequestID{
		{Principal: "a", ID: "bc", LSN: 1}, {Principal: "ab", ID: "c", LSN: 2},
		{Principal: "", ID: "abc", LSN: 3}, {Principal: "abc", ID: "", LSN: 4},
	}
	if err := s.PutRequests(list, 4); err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		got, ok, err := s.LookupRequest(t.Context(), r.Principal, r.ID)
		if got.LSN != r.LSN || got.Principal != r.Principal || got.ID != r.ID || !ok || err != nil {
			t.Errorf("LookupRequest(%q, %q) = %+v, %t, %v", r.Principal, r.ID, got, ok, err)
		}
	}
	if _, ok, err := s.LookupRequest(t.Context(), "b", "c"); ok || err != nil {
		t.Errorf("an id that was never put: %t, %v", ok, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("cause")
	cancel(cause)
	if _, _, err := s.LookupRequest(ctx, "a", "bc"); !errors.Is(err, cause) {
		t.Errorf("LookupRequest with a cancelled ctx: %v", err)
	}
}

// found returns how many of the entries are found, and the lowest LSN of them.
func found(t *testing.T, s *Store, entries []RequestID) (lowest position.LSN, count int) {
	t.Helper()
	for _, r := range entries {
		if got, ok, err := s.LookupRequest(t.Context(), r.Principal, r.ID); err != nil {
			t.Fatal(err)
		} else if ok && got.LSN == r.LSN {
			if count++; lowest == 0 {
				lowest = r.LSN
			}
		}
	}
	return lowest, count
}

// TestExpire puts 10 ids at a time and expires after each: what is dropped are whole
// generations.
func TestExpire(t *testing.T) {
	s := mustOpen(t, "state", vfs.NewMem())
	const n, keep = 1000, 160
	entries := requests(1, n)
	for i := 0; i < n; i += 10 {
		if err := s.PutRequests(entries[i:i+10], entries[i+9].LSN); err != nil {
			t.Fatal(err)
		}
		if err := s.ExpireRequests(entries[i+9].Accepted, time.Hour, keep); err != nil {
			t.Fatal(err)
		}
	}
	lowest, count := found(t, s, entries)
	if count < keep || count > keep+keep/generations+10 || lowest != position.LSN(n-count+1) {
		t.Fatalf("by count: lowest %d, %d left of %d that were to be kept", lowest, count, keep)
	}
	// Nothing was accepted since.
	if err := s.ExpireRequests(entries[n-1].Accepted.Add(50*time.Second), 100*time.Second, n); err != nil {
		t.Fatal(err)
	}
	lowest, count = found(t, s, entries)
	if count < 50 || count > 50+keep/generations+10 || lowest != position.LSN(n-count+1) {
		t.Fatalf("by age: lowest %d, %d left", lowest, count)
	}
	if mark, err := s.SyncRequests(); mark != n || err != nil {
		t.Fatalf("expiry moved the mark: %d, %v", mark, err)
	}
	if err := s.ExpireRequests(entries[n-1].Accepted, time.Hour, 0); err != nil {
		t.Fatal(err)
	}
	if _, count = found(t, s, entries); count != 0 || len(*s.requests.Load()) != 0 {
		t.Errorf("%d ids in %d generations are kept, want none", count, len(*s.requests.Load()))
	}
}

// A generation ends after an eighth of the age, however few ids come.
func TestExpireFew(t *testing.T) {
	s := mustOpen(t, "state", vfs.NewMem())
	const age = 80 * time.Second
	entries := requests(1, 400) // one a second
	for i, r := range entries {
		if err := errors.Join(s.PutRequests(entries[i:i+1], r.LSN), s.ExpireRequests(r.Accepted, age, 1_000_000)); err != nil {
			t.Fatal(err)
		}
		if n := len(*s.requests.Load()); n > generations+3 {
			t.Fatalf("%d generations after %d ids", n, i+1)
		}
	}
	if _, count := found(t, s, entries); count < 80 || count > 80+10+2 {
		t.Errorf("%d ids are kept, want those of 80 seconds and of a generation", count)
	}
}

// An id that is put as New over one that is out of the window, but not dropped yet, outlives it.
func TestExpireBelowNew(t *testing.T) {
	s := mustOpen(t, "state", vfs.NewMem())
	again := requests(1, 1)[0]
	again.LSN, again.New = 11, true
	err := errors.Join(s.PutRequests(requests(1, 10), 10), s.ExpireRequests(time0, time.Hour, 10), s.PutRequests([]RequestID{again}, 11))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(*s.requests.Load()); n != 2 {
		t.Fatalf("%d generations, want 2", n)
	}
	for _, keep := range []int{5, 1, 1} {
		if err := s.ExpireRequests(time0, time.Hour, keep); err != nil {
			t.Fatal(err)
		}
		if _, count := found(t, s, []RequestID{again}); count != 1 {
			t.Fatalf("with %d kept it is gone", keep)
		}
	}
	if err := s.ExpireRequests(time0, time.Hour, 0); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.LookupRequest(t.Context(), again.Principal, again.ID); ok || err != nil {
		t.Errorf("after it was dropped: %t, %v", ok, err)
	}
}

// TestRequestsModel compares puts, repeats, reuse of ids, expiry and restarts with a list
// of all puts: what is in the window is found, what is found was put last, and no more is
// kept than was said.
func TestRequestsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewMem()
		s, err := open("state", Options{}, fs)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		keep, age := rapid.IntRange(0, 20).Draw(t, "keep"), time.Duration(rapid.IntRange(1, 60).Draw(t, "age"))*time.Second
		latest, window := map[string]RequestID{}, position.LSN(0)               // what came after that LSN must be there
		next, mark, now, since, most := uint64(1), position.LSN(0), time0, 0, 0 // puts since the last expiry, and ever between two
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			step := rapid.IntRange(0, 4).Draw(t, "step")
			switch step {
			case 0, 1:
				batch := requests(next, next+rapid.Uint64Range(0, 5).Draw(t, "more"))
				for i := range batch {
					batch[i].ID = fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "id"))
					latest[batch[i].Principal+batch[i].ID] = batch[i]
				}
				next += uint64(len(batch))
				since += len(batch)
				most = max(most, since)
				mark = position.LSN(next - 1)
				now = batch[len(batch)-1].Accepted
				if rapid.Bool().Draw(t, "repeat") { // not counted again
					batch = append(batch, batch...)
				}
				if err := s.PutRequests(batch, mark); err != nil {
					t.Fatal(err)
				}
			case 2, 3:
				if err := s.ExpireRequests(now, age, keep); err != nil {
					t.Fatal(err)
				}
				if before := now.Add(-age); mark > 0 { // accepted a second apart
					window = max(window, position.LSN(max(int64(mark)-int64(keep), int64(before.Sub(time0)/time.Second)-1, 0)))
				}
				kept := uint64(0)
				for _, g := range *s.requests.Load() {
					kept += g.count
				}
				if kept > uint64(keep+keep/generations+most) {
					t.Fatalf("%d are kept, want at most %d", kept, keep+keep/generations+most)
				}
				since = 0
			case 4:
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if s, err = open("state", Options{}, fs); err != nil {
					t.Fatal(err)
				}
			}
			if step < 2 {
				continue
			}
			for p := range 3 {
				for id := range 10 {
					principal, id := fmt.Sprint("p", p), fmt.Sprint(id)
					want, put := latest[principal+id]
					got, ok, err := s.LookupRequest(context.Background(), principal, id)
					if err != nil || ok && (!put || got.LSN != want.LSN) || !ok && put && want.LSN > window {
						t.Fatalf("LookupRequest(%s, %s) = %+v, %t, %v; want %+v, %t, window after %d", principal, id, got, ok, err, want, put, window)
					}
				}
			}
		}
		if got, err := s.SyncRequests(); got != mark || err != nil {
			t.Fatalf("SyncRequests = %d, %v; want %d", got, err, mark)
		}
	})
}

// TestFormat1 opens a store whose request ids are as format 1 had them.
func TestFormat1(t *testing.T) {
	const n = 20
	make1 := func(t *testing.T) (fs vfs.FS, entries []RequestID) {
		fs, entries = vfs.NewMem(), requests(1, n)
		s := mustOpen(t, "state", fs)
		b := s.db.NewBatch()
		err := errors.Join(setNumber(b, keyFormat, 1), setNumber(b, keyOldCount, n), setNumber(b, keyMark, n))
		for _, r := range entries {
			key := appendRequest([]byte{kindOldRequest}, r.Principal, r.ID)
			index := append(binary.BigEndian.AppendUint64([]byte{kindOldIndex}, uint64(r.LSN)), key[1:]...)
			err = errors.Join(err, b.Set(key, encodeRequest(r), nil), b.Set(index, nil, nil))
		}
		if err := errors.Join(err, s.commit(b), s.Close()); err != nil {
			t.Fatal(err)
		}
		return fs, entries
	}
	old := func(s *Store) (keys int) {
		it, err := s.db.NewIter(nil)
		if err != nil {
			t.Fatal(err)
		}
		for it.First(); it.Valid(); it.Next() {
			if kind := it.Key()[0]; kind == kindOldRequest || kind == kindOldIndex || bytes.Equal(it.Key(), keyOldCount) {
				keys++
			}
		}
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			t.Fatal(err)
		}
		return keys
	}
	t.Run("looked at", func(t *testing.T) {
		fs, entries := make1(t)
		s, err := open("state", Options{ReadOnly: true}, fs)
		if err != nil {
			t.Fatal(err)
		}
		if _, count := found(t, s, entries); count != n || old(s) != 2*n+1 {
			t.Errorf("%d of %d are found; %d old keys", count, n, old(s))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("raised", func(t *testing.T) {
		fs, entries := make1(t)
		for range 2 {
			s := mustOpen(t, "state", fs)
			seen := 0
			_, more, err := s.Requests("", 1000, func(_, _ string) { seen++ })
			if _, count := found(t, s, entries); count != n || seen != n || more || err != nil || old(s) != 2*n {
				t.Fatalf("%d of %d are found, %d seen, %t, %v; %d old keys", count, n, seen, more, err, old(s))
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		s := mustOpen(t, "state", fs)
		if version, _, err := s.number(keyFormat); version != format || err != nil {
			t.Fatalf("format %d, %v", version, err)
		}
		more := requests(n+1, n+8)
		again := entries[0]
		again.LSN = n + 9
		err := errors.Join(s.ExpireRequests(time.Now(), time.Hour, n), s.PutRequests(append(more, again), n+9))
		if err != nil {
			t.Fatal(err)
		}
		if _, count := found(t, s, append(more, again)); count != len(more)+1 {
			t.Fatalf("%d of the new ones are found", count)
		}
		if err := s.ExpireRequests(time0, time.Hour, 9); err != nil {
			t.Fatal(err)
		}
		if _, count := found(t, s, append(more, again)); count != len(more)+1 || old(s) != 0 {
			t.Errorf("%d of the new ones are found, %d old keys", count, old(s))
		}
		if _, count := found(t, s, entries); count != 0 {
			t.Errorf("%d of the old ones are found", count)
		}
	})
	t.Run("refused", func(t *testing.T) {
		fs := vfs.NewMem()
		s := mustOpen(t, "state", fs)
		b := s.db.NewBatch()
		if err := errors.Join(setNumber(b, keyFormat, format+1), s.commit(b), s.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := open("state", Options{}, fs); !errors.Is(err, ErrFormat) {
			t.Errorf("a newer format: %v", err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	r := requests(7, 7)[0]
	f.Add(encodeRequest(r))
	f.Add((&generation{number: 7}).key(r.Principal, r.ID))
	f.Add((&generation{number: oldNumber}).key(r.Principal, r.ID))
	f.Add(encodeGeneration(generation{count: 3, first: time0, last: time0.Add(1)}))
	f.Add(encodeClaim(Claim{Identity: "pg-7", Settled: true}))
	f.Add(encodeClaim(Claim{Identity: "pg-7", Paused: true, From: 1000, Applied: 1007}))
	f.Add(encodeLaneMap(LaneMap{Classes: []LaneClass{{"", 4}, {"hot", 2}}, Places: map[string]LanePlace{"orders": {"shop", ""}, "lines": {"shop", "hot"}}}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := decodeRequest(data); err == nil {
			if !bytes.Equal(encodeRequest(r), data) {
				t.Errorf("request %x does not come back", data)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("decodeRequest: %v", err)
		}
		if c, err := decodeClaim(data); err == nil {
			if !bytes.Equal(encodeClaim(c), data) {
				t.Errorf("claim %x does not come back", data)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("decodeClaim: %v", err)
		}
		if m, err := decodeLaneMap(data); err == nil {
			if again, err := decodeLaneMap(encodeLaneMap(m)); err != nil || !reflect.DeepEqual(again, m) {
				t.Errorf("lane map %x does not come back", data)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("decodeLaneMap: %v", err)
		}
		if p, id, err := splitRequestKey(data); err == nil {
			var g generation
			if data[0] == kindRequest {
				g.number = binary.BigEndian.Uint64(data[1:])
			}
			if p2, id2, err := splitRequestKey(g.key(p, id)); err != nil || p2 != p || id2 != id {
				t.Errorf("request key %x does not come back", data)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("splitRequestKey: %v", err)
		}
		if g, err := decodeGeneration(generationKey(7), data); err == nil {
			if g.number != 7 || !bytes.Equal(encodeGeneration(g), data) {
				t.Errorf("generation %x does not come back", data)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("decodeGeneration: %v", err)
		}
	})
}
