package aerospike

import (
	"context"
	"errors"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/google/uuid"

	"github.com/walproxy/walproxy/mutation"
)

// TestBuriedOnceSettled: a tombstone stays as long as its deletion can come back: a
// deletion under a condition that comes back to nothing would be rejected.
func TestBuriedOnceSettled(t *testing.T) {
	t.Parallel()
	own := mustOwn(t, open(t, quick(t)), uuid.New(), true)
	own.must(add("k", 1))
	m := remove("k")
	mutation.IfVersion(1)(m)
	own.must(m)
	deleted := own.cp.Lanes[0].LSN
	soon(t, "the tombstone is gone", func() bool {
		gone := own.raw("k") == nil
		if settled := own.s.Settled(); gone && settled < deleted {
			t.Fatalf("the tombstone of LSN %v is gone, and only LSN %v is settled", deleted, settled)
		}
		return gone
	})
}

// TestReadOfBuried: a tombstone settles and goes while a read is on its way: the
// record is absent, and nothing was lost.
func TestReadOfBuried(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Settle = time.Hour // what settles is decided here
	direct := open(t, o)
	l, err := newLinks(common.at(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.cut()
	o.Hosts = l.addrs()
	s := open(t, o)
	own := mustOwn(t, s, uuid.New(), true)
	own.must(add("k", 1))
	own.must(remove("k"))
	release := l.hold()
	defer release()
	read := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		_, err := s.Read(ctx, collection, mutation.String("k"))
		read <- err
	}()
	soon(t, "the read is on its way", func() bool { return l.waiting() > 0 })
	client := works(t, direct)
	key, _, err := o.keyOf(collection, mutation.String("k"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Delete(as.NewWritePolicy(0, 0), key); err != nil {
		t.Fatal(err)
	}
	s.owner.mu.Lock()
	recent := s.owner.mu.recent
	s.owner.mu.Unlock()
	recent.turn()
	recent.mu.Lock()
	n := len(recent.ages) - 1
	recent.mu.Unlock()
	recent.settle(n)
	release()
	if err := <-read; !errors.Is(err, mutation.ErrNotFound) {
		t.Errorf("%v, want that it is absent", err)
	}
}
