package replay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// doomed is a sink of a process that dies: after a number of calls nothing
// reaches the store any more, the last call with or without effect.
type doomed struct {
	sinks.Sink
	left   atomic.Int64
	effect bool
}

var errDead = errors.New("the process is dead")

func (d *doomed) Apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	left := d.left.Add(-1)
	if left < 0 || left == 0 && !d.effect {
		return nil, sinks.WithOutcome(sinks.Halt, errDead)
	}
	results, err := d.Sink.Apply(ctx, b)
	if left == 0 {
		return nil, sinks.WithOutcome(sinks.Halt, errDead)
	}
	return results, err
}

func (d *doomed) Resume(ctx context.Context, c sinks.Claim) (sinks.Checkpoint, error) {
	left := d.left.Add(-1)
	if left < 0 || left == 0 && !d.effect {
		return sinks.Checkpoint{}, sinks.WithOutcome(sinks.Halt, errDead)
	}
	at, err := d.Sink.Resume(ctx, c)
	if left == 0 {
		return sinks.Checkpoint{}, sinks.WithOutcome(sinks.Halt, errDead)
	}
	return at, err
}

// drawMutation makes a write that applies to any record.
func drawMutation(t *rapid.T) *walproxyv1.Mutation {
	key := mutation.String(fmt.Sprint("k", rapid.IntRange(0, 12).Draw(t, "key")))
	switch rapid.IntRange(0, 8).Draw(t, "op") {
	case 6: // later bumps of the key are rejected
		return text(key.GetString_())[0]
	case 7: // unless this comes between
		return number(key.GetString_())[0]
	case 8:
		m := bump(key.GetString_())
		m.Precondition = &walproxyv1.Precondition{Kind: &walproxyv1.Precondition_IfAbsent{IfAbsent: true}}
		return m
	case 0:
		return mutation.Delete("c", key)
	case 1:
		return mutation.New("c", key, []*walproxyv1.Op{mutation.SetOp(map[string]*walproxyv1.Value{
			"n": mutation.Int64Value(rapid.Int64Range(0, 9).Draw(t, "n")),
		})})
	case 2:
		return mutation.New("c", key, []*walproxyv1.Op{mutation.AppendOp(map[string]*walproxyv1.Value{
			"text": mutation.StringValue(rapid.StringMatching(`[a-z]{1,3}`).Draw(t, "text")),
		})})
	default:
		return bump(key.GetString_())
	}
}

// drawFaults scripts a store that fails for a while.
func drawFaults(t *rapid.T, f *sinktest.Faulty) {
	for range rapid.IntRange(0, 6).Draw(t, "faults") {
		rule := sinktest.Rule{Times: rapid.IntRange(1, 3).Draw(t, "times")}
		if rapid.Bool().Draw(t, "by lane") {
			rule.When = sinktest.Lane(rapid.IntRange(0, 3).Draw(t, "lane"))
		} else {
			rule.When = sinktest.CallNumber(rapid.IntRange(1, 20).Draw(t, "call"))
		}
		rule.Do = rapid.SampledFrom([]sinktest.Fault{
			sinktest.FailBefore(sinks.Retry, sinktest.ErrAway),
			sinktest.FailBefore(sinks.Unknown, sinktest.ErrAway),
			sinktest.LoseAnswer(sinktest.ErrAway),
			sinktest.Delay(time.Millisecond),
		}).Draw(t, "fault")
		f.Add(rule)
	}
	if rapid.IntRange(0, 3).Draw(t, "away") == 0 {
		f.FailResume(rapid.IntRange(1, 3).Draw(t, "times away"), sinktest.ErrAway)
	}
}

func drawOptions(t *rapid.T) Options {
	o := fast()
	o.Lanes = rapid.IntRange(1, 5).Draw(t, "lanes")
	o.Batch.Records = rapid.IntRange(1, 20).Draw(t, "batch records")
	o.Batch.Bytes = rapid.IntRange(1, 2000).Draw(t, "batch bytes")
	o.Batch.Linger = rapid.SampledFrom([]time.Duration{-1, time.Millisecond, time.Hour}).Draw(t, "linger")
	o.Batch.Rest = rapid.SampledFrom([]float64{-1, 0, 2}).Draw(t, "rest")
	o.QueueBytes = rapid.SampledFrom([]int{1, 3000, 1 << 20}).Draw(t, "queue")
	o.Idle.Records = rapid.SampledFrom([]int{1, 10, 1000}).Draw(t, "idle records")
	o.Idle.Interval = rapid.SampledFrom([]time.Duration{time.Millisecond, time.Hour}).Draw(t, "idle interval")
	o.RetryMin, o.RetryMax = 1, 100*time.Microsecond
	if group := rapid.SampledFrom([]string{"", "", "", "first", "second"}).Draw(t, "group"); group != "" {
		o.LaneKey = func(string) string { return group }
	}
	for i := range rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "classes") {
		o.Classes = append(o.Classes, Class{Name: fmt.Sprint(i), Lanes: rapid.IntRange(0, 2).Draw(t, "class lanes")})
	}
	if len(o.Classes) > 0 {
		own := rapid.SampledFrom([]string{"", "0"}).Draw(t, "class")
		o.OwnLanes = func(string) string { return own }
	}
	return o
}

// drawSink is what the loop sees of s: one that names the rejected record, one
// that does not, one that names another.
func drawSink(t *rapid.T, s sinks.Sink) sinks.Sink {
	switch rapid.IntRange(0, 3).Draw(t, "names the rejected record") {
	case 0:
		return shaded{s, nil}
	case 1:
		return shaded{s, func(n int) int { return n / 2 }}
	}
	return s
}

// drawRetries appends retries of a key's queue: all of it or the first of it, as
// it was or edited, some of them twice, or only what is somewhere behind.
func drawRetries(t *rapid.T, r *rig) {
	if len(r.dead) == 0 || rapid.IntRange(0, 3).Draw(t, "retry") > 0 {
		return
	}
	any := rapid.SampledFrom(slices.Sorted(maps.Keys(r.dead))).Draw(t, "retried")
	queue := r.queue(r.dead[any].keys[0])
	from := rapid.SampledFrom([]int{0, 0, 0, len(queue) / 2}).Draw(t, "from")
	to := rapid.SampledFrom([]int{len(queue), len(queue), from + 1}).Draw(t, "to")
	for _, d := range queue[from:to] {
		ms := r.wrote[d.lsn]
		if len(d.keys) == 1 && rapid.IntRange(0, 2).Draw(t, "edited") == 0 {
			ms = number(d.keys[0])
		}
		for range rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(t, "times") {
			r.retry(d.lsn, ms)
		}
	}
}

// drawDiscard gives up a dead letter that the checkpoint covers.
func drawDiscard(t *rapid.T, r *rig, run *running) {
	if len(r.dead) == 0 || rapid.IntRange(0, 3).Draw(t, "discard") > 0 {
		return
	}
	lsn := rapid.SampledFrom(slices.Sorted(maps.Keys(r.dead))).Draw(t, "discarded")
	if run.Checkpoint() < r.log.Durable() {
		return
	}
	if ok, err := run.Letters().Delete(lsn); !ok || err != nil {
		t.Fatalf("Delete(%d): %v, %v", lsn, ok, err)
	}
	delete(r.dead, lsn)
}

// TestProperty: random writes, groups, routes, lanes, batches and faults, crashes
// of the loop at any call, restarts of log and state store after a close or as
// kill -9 leaves them; rejected records, retries, edited ones, dead letters given
// up; records held, and the log freed, at any time. In the end store and dead letters are what applying the log one record
// after the other makes. A failing run prints the command that repeats it;
// -rapid.checks=N makes more of them.
func TestProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "replay")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		r := &rig{t: t, dir: dir, model: map[string]*modelRow{}, seg: 4096}
		r.open()
		defer r.close()
		memory := sinktest.NewMemory()
		r.skip = rapid.IntRange(0, 3).Draw(t, "skip") == 0
		for range rapid.IntRange(1, 6).Draw(t, "lives") {
			live(t, r, memory)
			switch rapid.IntRange(0, 5).Draw(t, "process") {
			case 0:
				r.close()
				r.open()
			case 1:
				r.crash()
			}
		}
		o := drawOptions(t)
		o.OnReject = r.policy
		run := r.start(memory.Reopen(), o)
		defer run.cancel()
		run.await(r.log.Durable())
		if err := run.stop(); err != nil {
			t.Fatal(err)
		}
		r.check(memory)
		r.checkLetters(run.Loop)
		if run.Checkpoint() != r.log.Durable() {
			t.Fatalf("checkpoint %d, durable %d", run.Checkpoint(), r.log.Durable())
		}
	})
}

// live is one life of the process: writes, a loop, and its end.
func live(t *rapid.T, r *rig, memory *sinktest.Memory) {
	write := func() {
		for range rapid.IntRange(0, 30).Draw(t, "records") {
			var ms []*walproxyv1.Mutation
			for range rapid.SampledFrom([]int{1, 1, 1, 1, 2, 3}).Draw(t, "members") {
				ms = append(ms, drawMutation(t))
			}
			routes := rapid.SampledFrom([][]string{{"main"}, {"other", "main"}, {"other"}}).Draw(t, "routes")
			r.queueFrom(0, routes, ms)
			drawRetries(t, r)
		}
		r.awaitDurable()
	}
	write()
	drawHold(t, r, r.loop(memory, fast()))
	d := &doomed{Sink: drawSink(t, memory.Reopen()), effect: rapid.Bool().Draw(t, "last call has effect")}
	d.left.Store(rapid.SampledFrom([]int64{1, 2, 3, 5, 8, 13, 21, 1 << 40}).Draw(t, "calls to live"))
	f := sinktest.NewFaulty(d)
	drawFaults(t, f)
	o := drawOptions(t)
	o.OnReject = r.policy
	o.OnCheckpoint = func(at sinks.LSN) { r.log.Release(at + 1) }
	if rapid.Bool().Draw(t, "has an end") {
		o.Until = sinks.LSN(rapid.Uint64Range(1, uint64(r.log.Durable())+5).Draw(t, "until"))
	}
	if rapid.IntRange(0, 3).Draw(t, "has a limit") == 0 {
		o.Rejects = NewRejectLimit(rapid.IntRange(1, 3).Draw(t, "rejects"))
	}
	run := r.start(f, o)
	defer run.cancel()
	for range rapid.SampledFrom([]int{1, 1, 2}).Draw(t, "rounds") {
		write()
		drawHold(t, r, run.Loop)
	}
	switch rapid.IntRange(0, 2).Draw(t, "end") {
	case 0: // everything applied, or dead before that
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := run.Wait(ctx, r.log.Durable()); !mayEnd(o, err) {
			t.Fatalf("Wait: %v; %+v", err, run.Status())
		}
	case 1: // in the middle
		eventually(t, "something happens", func() bool { return len(f.Calls())+len(f.Resumes()) > 0 })
	}
	if err := run.stop(); !mayEnd(o, err) {
		t.Fatal(err)
	}
	for _, call := range f.Calls() {
		if n := len(call.LSNs); o.Until > 0 && n > 0 && call.LSNs[n-1] > o.Until {
			t.Fatalf("LSN %d was applied by a loop that ends at %d", call.LSNs[n-1], o.Until)
		}
	}
	drawDiscard(t, r, run)
	drawHold(t, r, run.Loop)
}

// mayEnd reports whether a life may end, or its loop, with err.
func mayEnd(o Options, err error) bool {
	return err == nil || errors.Is(err, errDead) || o.Until > 0 && errors.Is(err, ErrClosed) ||
		o.Rejects != nil && errors.Is(err, ErrRejectLimit)
}

// drawHold copies the sink's records out of some segments and lets the log free
// them, whatever the loop is about.
func drawHold(t *rapid.T, r *rig, l *Loop) {
	if rapid.Bool().Draw(t, "hold") {
		return
	}
	sealed := r.sealed()
	if len(sealed) == 0 {
		return
	}
	r.hold(l, sealed[rapid.IntRange(0, len(sealed)-1).Draw(t, "held segments")])
}

func (r *rig) policy(string) Policy {
	if r.skip {
		return Skip
	}
	return ParkKey
}
