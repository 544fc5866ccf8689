package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// A sink that is down for long holds only its own share: one of a hundred records
// is its, and the other sink takes many times log.max_bytes meanwhile, with a
// restart in between. No write is refused and the log stays within its bound.
// When the sink is back it gets exactly its records, in order. (WALPROXY_LONG=1:
// a hundred times log.max_bytes.)
func TestDownSinkHoldsItsShare(t *testing.T) {
	const maxBytes, share = 48 << 20, 100
	times := 3
	if os.Getenv("WALPROXY_LONG") != "" {
		times = 100
	}
	busy, inner := sinktest.NewMemory(), sinktest.NewMemory()
	down := sinktest.NewFaulty(inner)
	o := options(t.TempDir(), busy)
	registry := prometheus.NewPedanticRegistry()
	o.Registerer = registry
	o.Log.MaxBytes, o.Log.SegmentBytes = maxBytes, 1<<20
	addSink(&o, "down", down, "things main", "rare down")
	p := open(t, o)
	appendOne(t, p, to("rare", "k")) // reached once, then it goes away mid-run
	applied(t, p, "down", 1)
	down.Add(sinktest.Rule{Do: sinktest.FailBefore(0, sinktest.ErrAway), Times: sinktest.Always})

	payload := strings.Repeat("x", 32<<10)
	rare, written := int64(1), 0
	for half := range 2 {
		for written < (half+1)*times*maxBytes/2 {
			batch := make([]*walproxyv1.Mutation, share)
			for i := range batch {
				batch[i] = must(mutation.Set("things", mutation.String(fmt.Sprint(i)), map[string]any{"p": payload}))
			}
			batch[0] = to("rare", "k")
			rare++
			for _, r := range p.AppendBatch(t.Context(), batch) {
				if r.Err != nil {
					t.Fatalf("refused after %d bytes: %v; %+v", written, r.Err, p.Status())
				}
			}
			written += len(batch) * len(payload)
			until(t, "the log is freed", func() bool {
				st := p.Status()
				return st.Log.Bytes+st.StateBytes < maxBytes*3/4 // room for the next batch
			})
		}
		if half == 0 {
			until(t, "records wait for the lane", func() bool { return metric(t, registry, "walproxy_sink_queue_bytes", "down") > 0 })
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			down.FailResume(sinktest.Always, sinktest.ErrAway)
			if err := p.Close(ctx); !errors.As(err, new(*walproxy.RemainingError)) {
				t.Fatalf("Close = %v, want what remains", err)
			}
			without := o
			without.Sinks, without.Routes = o.Sinks[:1], nil
			var orphaned *walproxy.OrphanedSinkError
			if _, err := walproxy.Open(t.Context(), without); !errors.As(err, &orphaned) {
				t.Fatalf("Open without the sink = %v", err)
			}
			refused := orphaned.Sinks[0]
			survey, err := walproxy.SurveyReplay(t.Context(), without, walproxy.SurveyOptions{})
			if err != nil || !errors.As(survey.Orphans, &orphaned) {
				t.Fatalf("SurveyReplay without the sink = %+v, %v", survey, err)
			}
			surveyed := orphaned.Sinks[0]
			known, err := walproxy.KnownSinks(o.Dir)
			if err != nil || known[0].HeldRecords == 0 || refused.Held != known[0].HeldRecords || surveyed.Held != refused.Held ||
				refused.Records >= uint64(written/len(payload)) || surveyed.Records != refused.Records {
				t.Errorf("to be lost: %+v, surveyed %+v; known %+v, %v", refused, surveyed, known, err)
			}
			p = open(t, o)
		}
	}
	st := sinkStatus(t, p, "down")
	if st.HeldRecords == 0 || st.HeldRecords > uint64(rare) || st.Lag < uint64(rare-1) || st.Lag > uint64(rare) {
		t.Errorf("%+v, want up to %d records held, and all but the first of its own behind", st, rare)
	}
	until(t, "the metrics say so", func() bool { // the rest may be being held now
		st := sinkStatus(t, p, "down")
		return st.HeldBytes > 0 && metric(t, registry, "walproxy_sink_held_records", "down") == float64(st.HeldRecords) &&
			metric(t, registry, "walproxy_sink_held_bytes", "down") == float64(st.HeldBytes)
	})
	if first := p.Status().Log.First; first < walproxy.LSN(written/len(payload)/2) {
		t.Errorf("the log begins at %d of about %d", first, written/len(payload))
	}
	down.Clear()
	applied(t, p, "down", p.Status().Log.Durable)
	if got := countIn(t, inner, "rare", "k"); got != rare {
		t.Errorf("n = %d, want %d: each write once", got, rare)
	}
	until(t, "what was held is dropped", func() bool { return sinkStatus(t, p, "down").HeldRecords == 0 })
	closeProxy(t, p)
}
