package sinktest

import (
	"context"
	"errors"
	"strings"

	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/sinks"
)

func applyChecks() []check {
	return []check{
		{name: "apply/once", run: once,
			why: "after a lost answer the loop sends the same batch again; applied twice it counts twice"},
		{name: "apply/once-after-crash", run: onceAfterCrash,
			why: "the same, with the process gone in between: data and checkpoint must be one transaction"},
		{name: "apply/earlier-batch", run: earlierBatch,
			why: "a batch from before the last one comes from an owner that does not know where the store is"},
		{name: "apply/order", run: order,
			why: "writes to one key are applied in LSN order"},
		{name: "apply/empty", lanes: 2, run: emptyBatch,
			why: "idle lanes advance with batches that hold no records, or the log is never freed"},
		{name: "apply/wrong-place", lanes: 2, run: wrongPlace,
			why: "a batch that starts elsewhere than the checkpoint would skip or double what lies between"},
		{name: "apply/another-history", run: anotherHistory,
			why: "the same LSN in another incarnation is another record: an old copy of the log was put back"},
		{name: "apply/half-moved", lanes: 2, run: halfMoved,
			why: "a batch over several lanes is applied as a whole or not at all, so half of it done is foreign"},
		{name: "apply/fenced", run: fenced,
			why: "two owners that apply side by side double records"},
		{name: "apply/fenced-under-way", run: fencedUnderWay,
			why: "an Apply of the old owner that commits after Resume has returned the checkpoint is applied twice"},
		{name: "apply/cancelled", run: cancelled,
			why: "a call that ends early may have applied or not; either way the retry must lead to once"},
		{name: "apply/not-kept", run: notKept,
			why: "the loop reuses a batch once Apply has returned"},
		{name: "apply/big", run: big,
			why: "batches of thousands of records and records of a megabyte are ordinary"},
		{name: "apply/unknown-body", run: unknownBody,
			why: "what a sink does not understand must stop it; skipping it loses an acknowledged write"},
	}
}

func once(r *rig) {
	for i := range 3 {
		b := r.batch(0, r.record(add("a")), r.record(write("b", "xyz"[i:i+1])), r.record(add("a")))
		r.mustApply(b)
		for range 2 {
			r.mustReport(b)
		}
		r.check()
	}
	r.mustStay()
}

func onceAfterCrash(r *rig) {
	b := r.batch(0, r.record(add("a")), r.record(write("b", "x")))
	r.mustApply(b)
	r.crash()
	r.resume()
	again := *b
	again.Epoch = r.cp.Epoch
	r.mustReport(&again)
	r.check()
	r.mustApply(r.batch(0, r.record(add("a"))))
	r.mustStay()
}

func earlierBatch(r *rig) {
	first := r.batch(0, r.record(add("a")))
	r.mustApply(first)
	r.mustApply(r.batch(0, r.record(add("a"))))
	r.mustFence(first, "sent again after a later one")
	r.mustStay()
}

func order(r *rig) {
	for range 4 {
		var records []sinks.Record
		for _, c := range strings.Split("abcdefgh", "") {
			records = append(records, r.record(write("k", c)), r.record(set("last", map[string]any{"c": c})))
		}
		r.mustApply(r.batch(0, records...))
	}
	r.mustStay()
}

func emptyBatch(r *rig) {
	r.mustApply(r.batch(0, r.record(add("a"))))
	b := r.batch(1)
	results, err := r.call(b)
	if err != nil || len(results) != 0 {
		r.t.Fatalf("Apply of a batch without records: results %v, error %v; want none", results, err)
	}
	r.applied(b)
	r.mustReport(b) // again, as after a lost answer
	r.crash()
	r.mustStay()
}

func wrongPlace(r *rig) {
	r.mustApply(r.batch(0, r.record(add("a")), r.record(add("a"))))
	next := r.record(add("a"))
	for what, from := range map[string]sinks.LSN{"before the checkpoint": 1, "from zero": 0, "behind it": 0xFF} {
		b := r.batch(0, next)
		b.Moves[0].From = r.point(from)
		if from == 0 {
			b.Moves[0].From = sinks.Point{}
		}
		if from == 0xFF {
			b.Moves[0].From, b.Moves[0].To = r.point(from), r.point(from+1)
			b.Records[0].LSN = from + 1
		}
		r.mustFence(b, what)
	}
	b := r.batch(0, next)
	b.Moves[0].Lane = 2
	b.Moves[0].From = sinks.Point{}
	r.mustFence(b, "on a lane that does not exist")
	r.mustStay()
}

func anotherHistory(r *rig) {
	r.mustApply(r.batch(0, r.record(add("a"))))
	next := r.record(add("a"))
	b := r.batch(0, next)
	b.Moves[0].From.Incarnation = uuid.New()
	r.mustFence(b, "from the same LSN of another incarnation")

	// A batch that ends at the LSN the store holds, but in another history, is
	// no repeat of what the store applied.
	b = r.batch(0, next)
	r.mustApply(b)
	other := *b
	other.Moves = []sinks.Move{{Lane: 0, From: b.Moves[0].From, To: sinks.Point{Incarnation: uuid.New(), LSN: next.LSN}}}
	r.mustFence(&other, "to the stored LSN in another incarnation")
	r.mustStay()
}

func halfMoved(r *rig) {
	r.mustApply(r.batch(0, r.record(add("a"))))
	done := r.cp.Lanes[0]
	b := r.batch(1, r.record(add("b")))
	b.Moves = append(b.Moves, sinks.Move{Lane: 0, From: sinks.Point{}, To: done})
	r.mustFence(b, "one lane already where it goes, the other not")
	r.mustStay()
}

func fenced(r *rig) {
	applied := r.batch(0, r.record(add("a")))
	r.mustApply(applied)
	old := r.batch(0, r.record(add("a")))
	r.resume()
	r.mustFence(old, "from the epoch before")
	later := *old
	later.Epoch = r.cp.Epoch + 1
	r.mustFence(&later, "from an epoch that nobody was given")
	later.Epoch = 0
	r.mustFence(&later, "without an epoch")
	r.check()
	now := *old
	now.Epoch = r.cp.Epoch
	r.mustApply(&now) // the owner itself goes on
	r.mustStay()
}

// fencedUnderWay races one owner's batches with the claim of the next.
func fencedUnderWay(r *rig) {
	const owners = 8
	for range owners {
		stop, ended := make(chan struct{}), make(chan error, 1)
		started := make(chan struct{})
		epoch, from, last := r.cp.Epoch, r.cp.Lanes[0], r.last
		sink := r.sink
		go func() {
			ended <- func() error {
				for n := 0; ; n++ {
					if n == 1 {
						close(started)
					}
					select {
					case <-stop:
						return nil
					default:
					}
					last++
					b := counter(r, epoch, from, last)
					ctx, cancel := r.ctx()
					_, err := sink.Apply(ctx, b)
					cancel()
					if err != nil {
						return err
					}
					from = b.Moves[0].To
				}
			}()
		}()
		select {
		case <-started:
		case err := <-ended:
			r.t.Fatalf("the owner could not apply before it was fenced: %v", err)
		}
		cp := r.claims()
		atClaim := cp.Lanes[0].LSN
		if !r.settles() {
			r.mustCount("a", atClaim, "right after the new claim")
		}
		// The old owner tries at least once more: it ends by itself when fenced.
		select {
		case err := <-ended:
			if !errors.Is(err, sinks.ErrFenced) {
				r.t.Fatalf("the old owner's Apply failed with %v, want sinks.ErrFenced", err)
			}
		case <-afterTimeout():
			close(stop)
			<-ended
			r.t.Fatalf("the old owner still applies after the new claim; want sinks.ErrFenced")
		}
		if r.settles() {
			r.last = last
			r.countTo(last, "once all is applied again that the old owner has tried")
			continue
		}
		r.mustCount("a", atClaim, "after the old owner's last Apply")
		r.last = atClaim
	}
}

// mustCount wants n and the version of a counter that every record raised.
func (r *rig) mustCount(name string, want sinks.LSN, when string) {
	r.t.Helper()
	ctx, cancel := r.ctx()
	defer cancel()
	d, err := r.reader().Read(ctx, collection, key(name))
	if err != nil {
		r.t.Fatalf("Read(%q) %s: %v", name, when, err)
	}
	if n := d.Fields["n"].GetInt64(); sinks.LSN(n) != want || d.Version != want {
		r.t.Fatalf("%s the store holds %d increments, version %v; the checkpoint says %v", when, n, d.Version, want)
	}
}

func cancelled(r *rig) {
	for range 5 {
		b := r.batch(0, r.record(add("a")), r.record(write("b", "x")))
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errors.New("sinktest: cancelled"))
		results, err := r.callCtx(ctx, b)
		for i, o := range outcomes(b, results, err) {
			if o != sinks.Unknown && o != sinks.Retry && o != sinks.Applied {
				r.t.Fatalf("Apply with a cancelled context: LSN %v is %v (%v); want unknown, retry or, if it was quicker, applied", b.Records[i].LSN, o, err)
			}
		}
		r.mustApply(b)
		r.check()
	}
	r.mustStay()
}

func notKept(r *rig) {
	b := r.batch(0, r.record(add("a")), r.record(write("b", "x")))
	r.mustApply(b)
	// Ours again: a sink that still looks at it sees rubbish (or -race sees it).
	repeat := r.batch(0)
	*repeat = sinks.Batch{Epoch: b.Epoch, Records: []sinks.Record{b.Records[0], b.Records[1]}, Moves: []sinks.Move{b.Moves[0]}}
	clear(b.Records)
	b.Moves[0] = sinks.Move{Lane: 99, To: r.point(1 << 40)}
	r.mustReport(repeat)
	r.mustApply(r.batch(0, r.record(add("a"))))
	r.mustStay()
}

func big(r *rig) {
	var records []sinks.Record
	for i := range 3000 {
		records = append(records, r.record(write(string(rune('a'+i%20)), "0123456789abcdef")))
	}
	r.mustApply(r.batch(0, records...))
	megabyte := strings.Repeat("x", 1<<20)
	if r.h.RecordBytes > 0 { // it is written and doubled
		megabyte = megabyte[:min(len(megabyte), r.h.RecordBytes/3)]
	}
	r.mustApply(r.batch(0, r.record(set("big", map[string]any{"v": megabyte})), r.record(write("big", megabyte))))
	r.crash()
	r.mustStay()
}

func unknownBody(r *rig) {
	r.mustApply(r.batch(0, r.record(add("a"))))
	unknown := r.record(add("a"))
	unknown.Body = &walproxyv1.Record{Format: 1, Body: &walproxyv1.Record_Statement{
		Statement: &walproxyv1.Statement{Text: "DELETE", Collection: collection, Key: key("a")},
	}}
	if r.h.Statements {
		unknown.Body.Body = &walproxyv1.Record_Command{Command: &walproxyv1.Command{Message: []byte{1}, Collection: collection, Key: key("a")}}
	}
	b := r.batch(0, unknown, r.record(add("a")))
	results, err := r.call(b)
	if got := outcomes(b, results, err)[0]; got != sinks.Halt {
		r.t.Fatalf("Apply of what the sink does not know: outcome %v (%v); want halt: no record is to blame for what the sink does not know", got, err)
	}
	r.mustStay()
}
