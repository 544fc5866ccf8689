package aerospike

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// TestCloseDuringApply closes a sink while it applies, 200 times: Close waits for what
// runs, no connection is closed under it, nothing is sent behind it, and the store has
// what was applied and no more (F2).
func TestCloseDuringApply(t *testing.T) {
	t.Parallel()
	o := options(t)
	var rounds atomic.Int64
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for rounds.Add(1) <= 200 && !t.Failed() {
				closeDuringApply(t, o, time.Duration(worker)*time.Millisecond)
			}
		})
	}
	wg.Wait()
}

func closeDuringApply(t *testing.T, o Options, after time.Duration) {
	stream, key := uuid.New(), uuid.NewString()
	o.State.Set, o.Collections = "state-"+key[:13], []Collection{{Pattern: collection, Set: "set-" + key[:13]}}
	s, err := Open(o)
	if err != nil {
		t.Error(err)
		return
	}
	own, err := owns(t, s, stream, "closes", true)
	if err != nil {
		t.Error(err)
		return
	}
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		err := own.apply(bump(key))
		close(begun)
		for err == nil {
			err = own.apply(bump(key))
		}
		ended <- err
	}()
	<-begun
	time.Sleep(after) // any instant, not a condition
	if err := errors.Join(closeSink(s), closeSink(s)); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, sinks.ErrClosed) {
			t.Errorf("the last Apply: %v, want ErrClosed", err)
		}
	case <-time.After(time.Minute):
		t.Error("Apply goes on after Close")
		return
	}
	again, err := Open(o)
	if err != nil {
		t.Error(err)
		return
	}
	defer closeSink(again)
	d, err := again.Read(context.Background(), collection, mutation.String(key))
	if err != nil {
		t.Error(err)
		return
	}
	if n, applied := d.Fields["n"].GetInt64(), int64(own.cp.Lanes[0].LSN); n != applied {
		t.Errorf("%d records were applied, the store has %d", applied, n)
	}
}

// TestAppendsRaceClose: 64 goroutines append while the proxy closes: every call is
// acknowledged, and then the record is there when the log is drained, or refused (F3).
func TestAppendsRaceClose(t *testing.T) {
	t.Parallel()
	o, dir := options(t), t.TempDir()
	acked := make([]atomic.Int64, 64)
	for range 3 {
		sink, p := openProxy(t, o, dir)
		var wg sync.WaitGroup
		var total atomic.Int64
		for i := range acked {
			wg.Go(func() {
				m, err := mutation.Increment(collection, mutation.String(fmt.Sprint("k", i)), map[string]any{"n": int64(1)})
				if err != nil {
					t.Error(err)
					return
				}
				for {
					_, err := p.Append(context.Background(), m)
					if errors.Is(err, walproxy.ErrClosed) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					acked[i].Add(1)
					total.Add(1)
				}
			})
		}
		soon(t, "some are acknowledged", func() bool { return total.Load() > 200 })
		closeProxy(t, p, sink)
		wg.Wait()
	}
	sink, p := openProxy(t, o, dir)
	defer closeProxy(t, p, sink)
	for i := range acked {
		d, err := p.Read(t.Context(), collection, mutation.String(fmt.Sprint("k", i)))
		if errors.Is(err, mutation.ErrNotFound) && acked[i].Load() == 0 {
			continue
		}
		if err != nil || d.Fields["n"].GetInt64() != acked[i].Load() {
			t.Errorf("k%d: %d were acknowledged, the store has %v, %v", i, acked[i].Load(), d, err)
		}
	}
}

func openProxy(t *testing.T, o Options, dir string) (*Sink, *walproxy.Proxy) {
	t.Helper()
	sink, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	po := walproxy.Options{Dir: dir, Sinks: []walproxy.SinkOptions{{Name: "main", Sink: sink}}, DrainTimeout: time.Minute}
	po.Log.MinFree = -1
	po.Sinks[0].Loop.RetryMax = 100 * time.Millisecond
	p, err := walproxy.Open(t.Context(), po)
	if err != nil {
		t.Fatal(err)
	}
	return sink, p
}

// closeProxy closes producers before consumers; all that was acknowledged is applied.
func closeProxy(t *testing.T, p *walproxy.Proxy, sink *Sink) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := errors.Join(p.Close(ctx), sink.Close(ctx)); err != nil {
		t.Error(err)
	}
}
