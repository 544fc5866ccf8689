package accept

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// plusOne is read, compute, write: with anything between, one is lost.
func plusOne(doc *mutation.Document, _ time.Time) (*walproxyv1.Mutation, error) {
	n := int64(0)
	if doc != nil {
		n = doc.Fields["n"].GetInt64()
	}
	fields := map[string]*walproxyv1.Value{"n": mutation.Int64Value(n + 1)}
	return mutation.New("", nil, []*walproxyv1.Op{mutation.MergeOp(fields)}), nil
}

// Many modify a few keys while others increment them blindly and the store lags:
// nothing is lost, with images kept and with none.
func TestModifyIsOneStep(t *testing.T) {
	for _, bytes := range []int{0, 1} {
		t.Run(fmt.Sprintf("PendingBytes=%d", bytes), func(t *testing.T) {
			r := newRig(t, t.TempDir(), func(r *rig) {
				r.opts.PendingBytes = bytes
				r.opts.LookupTimeout = time.Minute
			})
			stop := make(chan struct{})
			var lag, writers sync.WaitGroup
			lag.Go(func() { lagging(r, rand.New(rand.NewPCG(1, 2)), stop) })
			const goroutines, writes, keys = 8, 60, 3
			for g := range goroutines {
				writers.Go(func() {
					for i := range writes {
						key := fmt.Sprint((g + i) % keys)
						var p *Pending
						var err error
						if i%5 == 0 {
							p, err = r.Submit(t.Context(), record(increment(key)))
						} else {
							p, err = r.Modify(t.Context(), "c", mutation.String(key), plusOne)
						}
						if err == nil {
							_, err = p.Wait(t.Context())
						}
						if err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			writers.Wait()
			close(stop)
			lag.Wait()
			total := int64(0)
			for key := range keys {
				doc, err := r.Read(t.Context(), "c", mutation.String(fmt.Sprint(key)))
				if err != nil {
					t.Fatal(err)
				}
				total += doc.Fields["n"].GetInt64()
			}
			if total != goroutines*writes {
				t.Errorf("%d of %d writes are there", total, goroutines*writes)
			}
		})
	}
}

// A chain of Modify on one key does not wait for the store; a blind write between
// makes it.
func TestModifyWithoutTheStore(t *testing.T) {
	r := newRig(t, t.TempDir(), func(r *rig) { r.opts.LookupTimeout = 50 * time.Millisecond })
	key := mutation.String("k")
	first, err := r.Modify(t.Context(), "c", key, plusOne)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.Wait(t.Context(), first.LSN()); err != nil {
		t.Fatal(err)
	}
	r.store.holdAt(first.LSN())
	defer r.store.holdAt(0)
	var saw *mutation.Document
	for range 10 {
		_, err := r.Modify(t.Context(), "c", key, func(doc *mutation.Document, now time.Time) (*walproxyv1.Mutation, error) {
			saw = doc
			return plusOne(doc, now)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := saw.Fields["n"].GetInt64(); n != 10 || saw.Version != r.log.Appended()-1 {
		t.Errorf("the last saw n=%d, version %d; appended %d", n, saw.Version, r.log.Appended())
	}
	r.must(increment("k"))
	if _, err := r.Modify(t.Context(), "c", key, plusOne); !errors.Is(err, ErrVersionUnknown) {
		t.Errorf("behind a blind write: %v; want %v", err, ErrVersionUnknown)
	}
}

// What f saw is durable when its refusal is told.
func TestModifyRefusalIsDurable(t *testing.T) {
	refusal := errors.New("no")
	r := newRig(t, t.TempDir(), nil)
	r.store.holdAt(1) // keep the image
	for range 50 {
		if _, err := r.Modify(t.Context(), "c", mutation.String("k"), plusOne); err != nil {
			t.Fatal(err)
		}
		var version wal.LSN
		p, err := r.Modify(t.Context(), "c", mutation.String("k"), func(doc *mutation.Document, _ time.Time) (*walproxyv1.Mutation, error) {
			version = doc.Version
			return nil, refusal
		})
		if p != nil || !errors.Is(err, refusal) {
			t.Fatalf("%v, %v", p, err)
		}
		if version == 0 || r.log.Durable() < version {
			t.Fatalf("refused because of LSN %d, durable is %d", version, r.log.Durable())
		}
	}
	r.store.holdAt(0)
	p, err := r.Modify(t.Context(), "c", mutation.String("k"), func(*mutation.Document, time.Time) (*walproxyv1.Mutation, error) { return nil, nil })
	if p != nil || err != nil {
		t.Errorf("nothing to write: %v, %v", p, err)
	}
}

func TestModifyErrors(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	key := mutation.String("k")
	text := func(*mutation.Document, time.Time) (*walproxyv1.Mutation, error) {
		return mutation.New("", nil, []*walproxyv1.Op{mutation.SetOp(map[string]*walproxyv1.Value{"n": mutation.StringValue("x")})}), nil
	}
	add := func(*mutation.Document, time.Time) (*walproxyv1.Mutation, error) {
		return mutation.New("", nil, []*walproxyv1.Op{mutation.IncrementOp(one)}), nil
	}
	if _, err := r.Modify(t.Context(), "c", key, text); err != nil {
		t.Fatal(err)
	}
	appended := r.log.Appended()
	_, err := r.Modify(t.Context(), "c", key, add)
	var rejected *mutation.RejectedError
	if !errors.As(err, &rejected) {
		t.Errorf("a write that the record refuses: %v", err)
	}
	_, err = r.Modify(t.Context(), "c", key, func(*mutation.Document, time.Time) (*walproxyv1.Mutation, error) {
		return mutation.New("", nil, nil), nil
	})
	var invalid *mutation.InvalidError
	if !errors.As(err, &invalid) {
		t.Errorf("a write without ops: %v", err)
	}
	r.store.set(func() { r.store.mu.readErr = errors.New("away") })
	if _, err := r.Modify(t.Context(), "c", mutation.String("other"), add); !errors.Is(err, ErrVersionUnknown) || !strings.Contains(err.Error(), "away") {
		t.Errorf("the store is away: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("gone home"))
	if _, err := r.Modify(ctx, "c", mutation.String("other"), add); err == nil {
		t.Error("the context had ended")
	}
	if r.log.Appended() != appended {
		t.Errorf("%d records were logged", r.log.Appended()-appended)
	}
	if err := r.Acceptor.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Modify(t.Context(), "c", key, text); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A record that ends while f computes is absent when the write is accepted.
func TestModifyExpires(t *testing.T) {
	var mu sync.Mutex
	now := time.Unix(1000, 0)
	r := newRig(t, t.TempDir(), func(r *rig) {
		r.opts.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return now
		}
	})
	r.must(set("k", mutation.ExpiresAt(time.Unix(1001, 0))))
	r.must(set("last")) // applied as well below
	calls := 0
	p, err := r.Modify(t.Context(), "c", mutation.String("k"), func(doc *mutation.Document, at time.Time) (*walproxyv1.Mutation, error) {
		calls++
		mu.Lock()
		now = time.Unix(2000, 0)
		mu.Unlock()
		return plusOne(doc, at)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	doc, err := r.Read(t.Context(), "c", mutation.String("k"))
	if err != nil || doc.Fields["n"].GetInt64() != 1 || calls != 2 {
		t.Errorf("%v, %v after %d calls; want n=1 of a new record after 2", doc, err, calls)
	}
}

func TestImagesAreBounded(t *testing.T) {
	x := newImages(16 * 4000)
	doc := &mutation.Document{Fields: map[string]*walproxyv1.Value{"b": mutation.BytesValue(make([]byte, 500))}}
	for i := range 100_000 {
		key := fmt.Sprint(i % 1000)
		x.put(uint64(i%1000), key, doc, wal.LSN(i+1))
		if i%3 == 0 {
			x.forget(uint64(i%1000), key)
		}
		if got, lsn, ok := x.get(uint64(i%1000), key, 0); ok == (i%3 == 0) || ok && (got != doc || lsn != wal.LSN(i+1)) {
			t.Fatalf("write %d: %v, %d, %v", i, got, lsn, ok)
		}
	}
	for i := range x.shards {
		s := &x.shards[i]
		if s.bytes > s.bytesMax || len(s.queue) != len(s.entries) || len(s.entries) > 20 {
			t.Errorf("shard %d: %d bytes of %d, %d entries, queue of %d", i, s.bytes, s.bytesMax, len(s.entries), len(s.queue))
		}
	}
	if _, _, ok := x.get(999, "999", 1<<40); ok {
		t.Error("applied long since, and still from memory")
	}
}
