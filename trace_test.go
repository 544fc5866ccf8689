package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// ended collects the spans that ended.
type ended struct {
	mu      sync.Mutex
	spans   []sdktrace.ReadOnlySpan
	changed chan struct{} // closed and replaced with each span
}

func (e *ended) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (e *ended) Shutdown(context.Context) error                  { return nil }
func (e *ended) ForceFlush(context.Context) error                { return nil }
func (e *ended) OnEnd(s sdktrace.ReadOnlySpan) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.spans = append(e.spans, s)
	close(e.changed)
	e.changed = make(chan struct{})
}

// named are the spans of that name, once there are n.
func (e *ended) named(t *testing.T, name string, n int) (of []sdktrace.ReadOnlySpan) {
	t.Helper()
	patience := time.After(time.Minute)
	for {
		of = nil
		e.mu.Lock()
		for _, s := range e.spans {
			if s.Name() == name {
				of = append(of, s)
			}
		}
		changed := e.changed
		e.mu.Unlock()
		if len(of) >= n {
			return of
		}
		select {
		case <-changed:
		case <-patience:
			t.Fatalf("%d spans %s ended, want %d", len(of), name, n)
		}
	}
}

// provider makes a provider and what ended of it. It follows the caller's decision, and
// records what nobody has decided about.
func provider() (*sdktrace.TracerProvider, *ended) {
	e := &ended{changed: make(chan struct{})}
	return sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(e)), e
}

// called is a context with a span of a caller elsewhere.
func called(ctx context.Context, trac byte, flags trace.TraceFlags) (context.Context, trace.SpanContext) {
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{trac, 1}, SpanID: trace.SpanID{2, trac}, TraceFlags: flags})
	return trace.ContextWithRemoteSpanContext(ctx, sc), sc.WithRemote(true)
}

// contexts is a sink that notes what the log said of each record's trace.
type contexts struct {
	sinks.Sink
	mu sync.Mutex
	of map[sinks.LSN]*walproxyv1.Trace
}

func (c *contexts) Apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	c.mu.Lock()
	for _, r := range b.Records {
		c.of[r.LSN] = r.Body.GetTrace()
	}
	c.mu.Unlock()
	return c.Sink.Apply(ctx, b)
}

func value(s sdktrace.ReadOnlySpan, key attribute.Key) attribute.Value {
	for _, a := range s.Attributes() {
		if a.Key == key {
			return a.Value
		}
	}
	return attribute.Value{}
}

func events(s sdktrace.ReadOnlySpan) (names []string) {
	for _, e := range s.Events() {
		names = append(names, e.Name)
	}
	return names
}

// TestTrace: a write has a span of its own behind the caller's, and one behind that when
// it is applied: also by the next process, for the context is in the log. Without a
// provider, and in a trace that is not recorded, nothing is in the log.
func TestTrace(t *testing.T) {
	for _, engine := range []string{"native", "tidwall"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			dir, store := t.TempDir(), &contexts{Sink: sinktest.NewMemory(), of: map[sinks.LSN]*walproxyv1.Trace{}}
			o := options(dir, store)
			o.Log.Engine = engine
			o.Sinks[0].Paused = true
			plain := open(t, o)
			untraced := appendOne(t, plain, set("a", 1))
			closeRemaining(t, plain)

			before, accepted := provider()
			o.TracerProvider = before
			p := open(t, o)
			ctx, caller := called(t.Context(), 1, trace.FlagsSampled)
			r, err := p.Append(ctx, set("b", 1))
			if err != nil {
				t.Fatal(err)
			}
			ctx, _ = called(t.Context(), 2, 0)
			unsampled, err := p.Append(ctx, set("c", 1))
			if err != nil {
				t.Fatal(err)
			}
			accept := accepted.named(t, "walproxy.accept", 1)[0]
			if !accept.Parent().Equal(caller) || accept.SpanContext().TraceID() != caller.TraceID() || accept.SpanKind() != trace.SpanKindServer {
				t.Errorf("the write's span is %v of kind %v, its parent %v", accept.SpanContext(), accept.SpanKind(), accept.Parent())
			}
			if got := events(accept); !slices.Equal(got, []string{"locked", "appended"}) {
				t.Errorf("events %v", got)
			}
			if lsn := value(accept, "walproxy.lsn").AsInt64(); lsn != int64(r.LSN) {
				t.Errorf("walproxy.lsn is %d, want %d", lsn, r.LSN)
			}
			closeRemaining(t, p)
			if n := len(accepted.named(t, "walproxy.accept", 0)); n != 1 {
				t.Errorf("%d writes have a span", n)
			}

			after, applied := provider()
			o.TracerProvider, o.Sinks[0].Paused = after, false
			p = open(t, o)
			if err := p.ResumeSink("main"); err != nil {
				t.Fatal(err)
			}
			if err := p.Wait(t.Context(), unsampled.LSN, walproxy.Applied); err != nil {
				t.Fatal(err)
			}
			apply := applied.named(t, "walproxy.apply", 1)[0]
			if !apply.Parent().Equal(accept.SpanContext().WithRemote(true)) || apply.SpanKind() != trace.SpanKindConsumer {
				t.Errorf("of the apply's span the parent is %v, want %v", apply.Parent(), accept.SpanContext())
			}
			if links := apply.Links(); len(links) != 1 || !links[0].SpanContext.Equal(apply.Parent()) {
				t.Errorf("links %v", links)
			}
			closeProxy(t, p)
			if n := len(applied.named(t, "walproxy.apply", 0)); n != 1 {
				t.Errorf("%d spans for one traced record", n)
			}
			if store.of[untraced] != nil || store.of[unsampled.LSN] != nil || store.of[r.LSN] == nil {
				t.Errorf("in the log: %v", store.of)
			}
		})
	}
}

// closeRemaining closes p, of which records stay.
func closeRemaining(t *testing.T, p *walproxy.Proxy) {
	t.Helper()
	remaining, ok := errors.AsType[*walproxy.RemainingError](p.Close(context.Background()))
	if !ok {
		t.Fatalf("Close: %v", remaining)
	}
}

// TestTraceOfBatch: a batch has a span in each of its records' traces, up to a bound; the
// first has links to all of them.
func TestTraceOfBatch(t *testing.T) {
	const records, bound = 140, 128
	o := options(t.TempDir(), sinktest.NewMemory())
	o.Sinks[0].Paused, o.Sinks[0].Loop.Lanes = true, 1
	tracing, seen := provider()
	o.TracerProvider = tracing
	p := open(t, o)
	var last walproxy.LSN
	for i := range records {
		ctx, _ := called(t.Context(), byte(i+1), trace.FlagsSampled)
		for range 1 + i/(records-1) { // two of the last trace
			r, err := p.Append(ctx, set(fmt.Sprint("k", i), 1))
			if err != nil {
				t.Fatal(err)
			}
			last = r.LSN
		}
	}
	if err := p.ResumeSink("main"); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context(), last, walproxy.Applied); err != nil {
		t.Fatal(err)
	}
	closeProxy(t, p)
	spans := seen.named(t, "walproxy.apply", bound)
	if len(spans) != bound {
		t.Fatalf("%d spans, want %d", len(spans), bound)
	}
	batch, traces := spans[0], map[trace.TraceID]bool{}
	for _, s := range spans {
		traces[s.SpanContext().TraceID()] = true
		if s == batch {
			continue
		}
		if links := s.Links(); len(links) != 1 || !links[0].SpanContext.Equal(batch.SpanContext()) {
			t.Fatalf("links of another trace's span: %v", links)
		}
	}
	if len(traces) != bound || len(batch.Links()) != bound {
		t.Errorf("%d traces, %d links; want %d of each", len(traces), len(batch.Links()), bound)
	}
	if n := value(batch, "walproxy.unlinked").AsInt64(); n != records+1-bound {
		t.Errorf("walproxy.unlinked is %d, want %d", n, records+1-bound)
	}
	if n := value(batch, "walproxy.records").AsInt64(); n != records+1 {
		t.Errorf("walproxy.records is %d", n)
	}
}

// telling is what a store says, with what must not get out.
type telling struct{ error }

func (telling) Details() map[string]string {
	return map[string]string{"sqlstate": "23505", "detail": "Key (id)=(secret) already exists"}
}

var errTelling = telling{errors.New(`duplicate "secret"`)}

// TestTraceEvents: retries, dead letters and what parks behind them are events, in the
// trace of the record they are about; what a store says is not. The retry of a dead letter
// has a link to where it came from.
func TestTraceEvents(t *testing.T) {
	store := sinktest.NewFaulty(sinktest.NewMemory())
	o := options(t.TempDir(), store)
	o.Sinks[0].Paused, o.Sinks[0].Loop.Lanes = true, 1
	tracing, seen := provider()
	o.TracerProvider = tracing
	p := open(t, o)
	write := func(trac byte, m *walproxyv1.Mutation) walproxy.LSN {
		ctx, _ := called(t.Context(), trac, trace.FlagsSampled)
		r, err := p.Append(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		return r.LSN
	}
	write(1, set("a", 1))
	dead := write(2, set("secret", 1))
	last := write(3, set("secret", 2))
	store.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.FailBefore(sinks.Retry, errTelling)},
		sinktest.Rule{When: sinktest.LSN(dead), Do: sinktest.Reject(errTelling, dead), Times: sinktest.Always})
	if err := p.ResumeSink("main"); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context(), last, walproxy.Logged); err != nil {
		t.Fatal(err)
	}
	spans := seen.named(t, "walproxy.apply", 3)
	for trac, want := range map[byte][]string{1: {"retry"}, 2: {"dead_letter"}, 3: {"parked"}} {
		for _, s := range spans {
			if s.SpanContext().TraceID()[0] == trac && !slices.Equal(events(s), want) {
				t.Errorf("events in trace %d: %v, want %v", trac, events(s), want)
			}
		}
	}
	store.Clear()
	ctx, _ := called(t.Context(), 4, trace.FlagsSampled)
	if _, err := p.RetryDeadLetter(ctx, "main", dead); err != nil {
		t.Fatal(err)
	}
	closeProxy(t, p)
	for _, s := range seen.named(t, "walproxy.accept", 4) {
		if s.SpanContext().TraceID()[0] != 4 {
			continue
		}
		if links := s.Links(); len(links) != 1 || links[0].SpanContext.TraceID()[0] < 2 {
			t.Errorf("links of the retry: %v", links)
		}
	}
	for _, s := range seen.spans {
		if text := fmt.Sprint(s.Attributes(), s.Events(), s.Status()); strings.Contains(text, "secret") {
			t.Errorf("%s tells: %s", s.Name(), text)
		} else if slices.Contains(events(s), "dead_letter") && !strings.Contains(text, "23505") {
			t.Errorf("the code of the error is missing: %s", text)
		}
	}
}

// TestTraceOfHalt: the batch at which a sink halts says so.
func TestTraceOfHalt(t *testing.T) {
	var store *sinktest.Faulty
	for name, prepare := range map[string]func(*walproxy.Options){
		"the store": func(*walproxy.Options) {
			store.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.Halt(errTelling)})
		},
		"the policy": func(o *walproxy.Options) {
			o.Sinks[0].Loop.OnReject = func(string) replay.Policy { return replay.Halt }
			store.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.Refuse(sinks.WithOutcome(sinks.Rejected, errTelling)), Times: sinktest.Always})
		},
	} {
		t.Run(name, func(t *testing.T) {
			store = sinktest.NewFaulty(sinktest.NewMemory())
			o := options(t.TempDir(), store)
			prepare(&o)
			o.Sinks[0].Loop.HaltRetry = -1
			tracing, seen := provider()
			o.TracerProvider = tracing
			p := open(t, o)
			appendOne(t, p, set("a", 1))
			s := seen.named(t, "walproxy.apply", 1)[0]
			if !slices.Equal(events(s), []string{"halt"}) || s.Status().Code != codes.Error || value(s, "walproxy.outcome").AsString() != "unfinished" {
				t.Errorf("events %v, status %v", events(s), s.Status())
			}
			closeRemaining(t, p)
		})
	}
}

// TestTraceOfRefusal: a write that is refused has a span that names the class of the
// error, and nothing of the write.
func TestTraceOfRefusal(t *testing.T) {
	o := options(t.TempDir(), sinktest.NewMemory())
	tracing, seen := provider()
	o.TracerProvider = tracing
	p := open(t, o)
	if _, err := p.Append(t.Context(), set("secret", 1, mutation.IfVersion(9))); !errors.Is(err, walproxy.ErrConflict) {
		t.Fatal(err)
	}
	if _, err := p.Modify(t.Context(), "things", mutation.String("secret"), func(*mutation.Document, time.Time) (*walproxyv1.Mutation, error) {
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	closeProxy(t, p)
	spans := seen.named(t, "walproxy.accept", 2)
	if s := spans[0]; value(s, "error.type").AsString() != "version_conflict" || s.Status().Code != codes.Error || value(s, "db.collection.name").AsString() != "things" {
		t.Errorf("attributes %v, status %v", s.Attributes(), s.Status())
	}
	if s := spans[1]; s.Status().Code != codes.Unset {
		t.Errorf("a change that wants no write has status %v", s.Status())
	}
}

// TestTraceAfterTune: loops that take the place of others are traced as well.
func TestTraceAfterTune(t *testing.T) {
	o := options(t.TempDir(), sinktest.NewMemory())
	tracing, seen := provider()
	o.TracerProvider = tracing
	p := open(t, o)
	tuned := o.Sinks[0].Loop
	tuned.Lanes = 2
	if err := p.Tune(walproxy.Tuning{Sinks: []walproxy.SinkTuning{{Name: "main", Loop: &tuned}}}); err != nil {
		t.Fatal(err)
	}
	lsn := appendOne(t, p, set("a", 1))
	if err := p.Wait(t.Context(), lsn, walproxy.Applied); err != nil {
		t.Fatal(err)
	}
	seen.named(t, "walproxy.apply", 1)
}
