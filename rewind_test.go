package walproxy_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// A store that restarts under load, and loses what it had acknowledged, gets it
// again: every write once, in order. A read sees what was acknowledged before it
// began, or fails.
func TestStoreForgets(t *testing.T) {
	store := sinktest.NewForgetful()
	p := open(t, options(t.TempDir(), store))
	const keys, rounds, size = 4, 24, 50
	var acked [keys]atomic.Int64
	read := func(k int) (complete bool) {
		before := acked[k].Load()
		record, err := p.Read(t.Context(), "things", mutation.String(fmt.Sprint("k", k)))
		switch {
		case errors.Is(err, walproxy.ErrHalted), before == 0:
			return false
		case err != nil:
			t.Errorf("Read: %v; want the record, or ErrHalted while the store goes back", err)
		case record.Fields["n"].GetInt64() < before:
			t.Errorf("k%d is %d after %d acknowledged increments", k, record.Fields["n"].GetInt64(), before)
		}
		return err == nil
	}
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for k := range keys {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					read(k)
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(7, 7))
	for i := range rounds {
		for range size {
			k := random.IntN(keys)
			appendOne(t, p, increment(fmt.Sprint("k", k)))
			acked[k].Add(1)
		}
		if i%4 == 3 {
			store.Restart(random)
		}
	}
	close(stop)
	readers.Wait()
	for k := range keys {
		until(t, "a read of each", func() bool { return read(k) || t.Failed() })
		record, err := p.Read(t.Context(), "things", mutation.String(fmt.Sprint("k", k)))
		if err != nil || record.Fields["n"].GetInt64() != acked[k].Load() {
			t.Errorf("k%d is %v, %v after %d acknowledged increments", k, record, err, acked[k].Load())
		}
	}
	until(t, "the sink runs, and has everything", func() bool {
		s := sinkStatus(t, p, "main")
		return s.State == replay.Running && s.Lag == 0
	})
	until(t, "all is settled", func() bool {
		store.Settle()
		return sinkStatus(t, p, "main").Checkpoint == rounds*size
	})
}
