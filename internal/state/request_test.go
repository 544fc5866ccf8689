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

func TestExpire(t *testing.T) {
	s := mustOpen(t, "state", vfs.NewMem())
	const n = 3*expireBatch + 7
	if err := s.PutRequests(requests(1, n), n); err != nil {
		t.Fatal(err)
	}
	left := func() (lowest, count int) {
		t.Helper()
		for i, r := range requests(1, n) {
			if _, ok, err := s.LookupRequest(t.Context(), r.Principal, r.ID); err != nil {
				t.Fatal(err)
			} else if ok {
				if count++; lowest == 0 {
					lowest = i + 1
				}
			}
		}
		return lowest, count
	}
	if err := s.ExpireRequests(time0.Add(100*time.Second), n); err != nil {
		t.Fatal(err)
	}
	if lowest, count := left(); lowest != 100 || count != n-99 {
		t.Fatalf("by age: lowest %d, %d left", lowest, count)
	}
	if err := s.ExpireRequests(time0, 50); err != nil { // crosses batches
		t.Fatal(err)
	}
	if lowest, count := left(); lowest != n-49 || count != 50 {
		t.Fatalf("by count: lowest %d, %d left", lowest, count)
	}
	if mark, err := s.SyncRequests(); mark != n || err != nil {
		t.Fatalf("expiry moved the mark: %d, %v", mark, err)
	}
}

// An id that is put as New over one that is out of the window, but not dropped yet, outlives it.
func TestExpireBelowNew(t *testing.T) {
	s := mustOpen(t, "state", vfs.NewMem())
	again := requests(1, 1)[0]
	again.LSN, again.New, again.Accepted = 11, true, time0.Add(time.Hour)
	if err := errors.Join(s.PutRequests(requests(1, 10), 10), s.PutRequests([]RequestID{again}, 11)); err != nil {
		t.Fatal(err)
	}
	for _, keep := range []int{5, 1, 1} {
		if err := s.ExpireRequests(time0, keep); err != nil {
			t.Fatal(err)
		}
		got, ok, err := s.LookupRequest(t.Context(), again.Principal, again.ID)
		if !ok || err != nil || got.LSN != 11 {
			t.Fatalf("with %d kept: LookupRequest = %+v, %t, %v", keep, got, ok, err)
		}
	}
	if err := s.ExpireRequests(time0, 0); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.LookupRequest(t.Context(), again.Principal, again.ID); ok || err != nil {
		t.Errorf("after it was dropped: %t, %v", ok, err)
	}
	if s.mu.count != 0 {
		t.Errorf("%d are counted", s.mu.count)
	}
}

// TestRequestsModel compares puts, repeats, reuse of ids, expiry and restarts
// with a map.
func TestRequestsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewMem()
		s, err := open("state", Options{}, fs)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		model := map[string]RequestID{}
		next, mark := uint64(1), position.LSN(0)
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				batch := requests(next, next+rapid.Uint64Range(0, 5).Draw(t, "more"))
				for i := range batch {
					batch[i].ID = fmt.Sprint(rapid.IntRange(0, 8).Draw(t, "id"))
					model[batch[i].Principal+batch[i].ID] = batch[i]
				}
				next += uint64(len(batch))
				mark = position.LSN(next - 1)
				if rapid.Bool().Draw(t, "repeat") {
					batch = append(batch, batch...)
				}
				if err := s.PutRequests(batch, mark); err != nil {
					t.Fatal(err)
				}
			case 2:
				before := time0.Add(time.Duration(rapid.Uint64Range(0, next).Draw(t, "before")) * time.Second)
				keep := rapid.IntRange(0, 20).Draw(t, "keep")
				if err := s.ExpireRequests(before, keep); err != nil {
					t.Fatal(err)
				}
				expireModel(model, before, keep)
			case 3:
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if s, err = open("state", Options{}, fs); err != nil {
					t.Fatal(err)
				}
			}
			if s.mu.count != uint64(len(model)) {
				t.Fatalf("count %d, model has %d", s.mu.count, len(model))
			}
			for p := range 3 {
				for id := range 9 {
					principal, id := fmt.Sprint("p", p), fmt.Sprint(id)
					want, wantOK := model[principal+id]
					got, ok, err := s.LookupRequest(context.Background(), principal, id)
					if err != nil || ok != wantOK || got.LSN != want.LSN {
						t.Fatalf("LookupRequest(%s, %s) = %+v, %t, %v; want %+v, %t", principal, id, got, ok, err, want, wantOK)
					}
				}
			}
		}
		if got, err := s.SyncRequests(); got != mark || err != nil {
			t.Fatalf("SyncRequests = %d, %v; want %d", got, err, mark)
		}
	})
}

func expireModel(model map[string]RequestID, before time.Time, keep int) {
	for len(model) > 0 {
		oldest := ""
		for k, r := range model {
			if oldest == "" || r.LSN < model[oldest].LSN {
				oldest = k
			}
		}
		if len(model) <= keep && !model[oldest].Accepted.Before(before) {
			return
		}
		delete(model, oldest)
	}
}

func FuzzDecode(f *testing.F) {
	r := requests(7, 7)[0]
	f.Add(encodeRequest(r))
	f.Add(requestKey(r.Principal, r.ID)[1:])
	f.Add(encodeClaim(Claim{Identity: "pg-7", Settled: true}))
	f.Add(encodeClaim(Claim{Identity: "pg-7", Paused: true, From: 1000, Applied: 1007}))
	f.Add(indexKey(7, requestKey(r.Principal, r.ID)[1:]))
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
			p2, id2, err := splitRequestKey(requestKey(p, id)[1:])
			if err != nil || p2 != p || id2 != id {
				t.Errorf("request key %x does not come back", data)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("splitRequestKey: %v", err)
		}
		if lsn, request, err := splitIndexKey(data); err == nil {
			if got := indexKey(lsn, request[1:]); !bytes.Equal(got[1:], data[1:]) {
				t.Errorf("index key %x does not come back", data)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("splitIndexKey: %v", err)
		}
	})
}
