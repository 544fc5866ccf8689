package walproxy_test

import (
	"context"
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
		if s := sinkStatus(t, p, "main"); s.State == replay.Halted {
			t.Errorf("the sink is shown as halted, which it is not while it goes back: %v", s.Err)
		}
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

// A replay that is to wait until all is settled does, and goes on when the store has
// lost something before that; cut short it says so.
func TestReplaySettles(t *testing.T) {
	store := sinktest.NewForgetful().SettleEvery(0)
	const keys, records = 3, 30
	o := options(t.TempDir(), store)
	backlog(t, o, increments(records, keys)...)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	cut := replayed(t, ctx, o, walproxy.ReplayOptions{Settled: true})["main"]
	if cut.Outcome != walproxy.ReplayStopped {
		t.Errorf("cut short it is %s", cut.Outcome)
	}
	store = store.Reopen()
	rp, err := walproxy.OpenReplay(t.Context(), options(o.Dir, store), walproxy.ReplayOptions{Settled: true})
	if err != nil {
		t.Fatal(err)
	}
	defer rp.Close(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		rp.Run(t.Context())
	}()
	unsettled := func() bool {
		select {
		case <-ended:
			t.Fatalf("it has not waited: %+v", rp.Status()[0])
		default:
		}
		st := rp.Status()[0]
		return st.Outcome == walproxy.ReplayRunning && st.Unsettled == records && st.State == replay.Stopped
	}
	until(t, "everything is applied", unsettled)
	for range 3 {
		passed := rp.Status()[0].Records
		store.Restart(rand.New(rand.NewPCG(3, 3)))
		until(t, "everything is applied again", func() bool { return unsettled() && rp.Status()[0].Records > passed })
	}
	until(t, "it ends when all is settled", func() bool {
		store.Settle()
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	if st := rp.Status()[0]; st.Outcome != walproxy.ReplayDone || st.Unsettled != 0 || st.Err != nil {
		t.Errorf("%+v", st)
	}
	for k := range keys {
		d, err := store.Read(t.Context(), "things", mutation.String(fmt.Sprint("k", k)))
		if err != nil || d.Fields["n"].GetInt64() != records/keys {
			t.Errorf("k%d is %v, %v", k, d, err)
		}
	}
}
