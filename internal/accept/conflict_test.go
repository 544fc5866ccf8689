package accept

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// F11: of 50 writers with one expected version exactly one wins; the others
// learn the winner's version, which is durable by then.
func TestOneWinnerPerVersion(t *testing.T) {
	for _, held := range []bool{true, false} { // from the pending table, from the store
		r := newRig(t, t.TempDir(), nil)
		for round := range 20 {
			base := r.must(set("k"))
			if held {
				r.store.holdAt(base.LSN - 1)
			} else if err := r.store.Wait(t.Context(), base.LSN); err != nil {
				t.Fatal(err)
			}
			var wins atomic.Int64
			var winner atomic.Uint64
			var mu sync.Mutex
			var conflicts []wal.LSN
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					res, err := r.do(t.Context(), record(increment("k", mutation.IfVersion(base.LSN))))
					var conflict *ConflictError
					switch {
					case err == nil:
						wins.Add(1)
						winner.Store(uint64(res.LSN))
					case errors.As(err, &conflict):
						if !errors.Is(err, ErrConflict) {
							t.Error("no ErrConflict")
						}
						if conflict.Version > r.log.Durable() {
							t.Errorf("version %d is told but not durable", conflict.Version)
						}
						mu.Lock()
						conflicts = append(conflicts, conflict.Version)
						mu.Unlock()
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if wins.Load() != 1 || len(conflicts) != 49 {
				t.Fatalf("round %d: %d winners, %d conflicts", round, wins.Load(), len(conflicts))
			}
			for _, v := range conflicts {
				if uint64(v) != winner.Load() {
					t.Fatalf("a conflict names version %d, the winner has %d", v, winner.Load())
				}
			}
			r.store.holdAt(0)
		}
	}
}
