package looptest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// collections written to: rejected records park their keys, or are skipped.
var collections = []string{"parks", "skips"}

// draw returns a number below n.
func (d *driver) draw(n int) int { return d.random.IntN(n) }

func (d *driver) chance(oneIn int) bool { return d.draw(oneIn) == 0 }

func pick[T any](d *driver, list ...T) T { return list[d.draw(len(list))] }

// drawRecord draws one write or the writes of a group.
func (d *driver) drawRecord() (ms []*walproxyv1.Mutation) {
	members := 1
	if !d.h.NoGroups && d.chance(6) {
		members = 2 + d.draw(3)
	}
	for range members {
		ms = append(ms, d.drawMutation())
	}
	if mutation.ValidateGroup(groupOf(ms)) != nil { // a precondition behind the key's first write
		return ms[:1]
	}
	return ms
}

func (d *driver) drawMutation() *walproxyv1.Mutation {
	collection := pick(d, collections[0], collections[0], collections[1])
	key := mutation.String(fmt.Sprint("k", d.draw(12)))
	one := map[string]*walproxyv1.Value{"n": mutation.Int64Value(1)}
	switch d.draw(10) {
	case 0:
		return mutation.Delete(collection, key)
	case 1: // later increments of the key are rejected
		return mutation.New(collection, key, []*walproxyv1.Op{mutation.MergeOp(map[string]*walproxyv1.Value{"n": mutation.StringValue("text")})})
	case 2: // unless this comes between
		return mend(collection, key)
	case 3:
		m := mutation.New(collection, key, []*walproxyv1.Op{mutation.IncrementOp(one)})
		m.Precondition = &walproxyv1.Precondition{Kind: &walproxyv1.Precondition_IfAbsent{IfAbsent: true}}
		return m
	case 4:
		return mutation.New(collection, key, []*walproxyv1.Op{mutation.AppendOp(map[string]*walproxyv1.Value{
			"text": mutation.StringValue(fmt.Sprint(d.draw(10))),
		})})
	}
	ops := []*walproxyv1.Op{mutation.IncrementOp(one)}
	if !d.h.NoEvents {
		ops = append(ops, mutation.AppendEventOp(&walproxyv1.Event{Fields: one}))
	}
	return mutation.New(collection, key, ops)
}

// mend makes n a number again.
func mend(collection string, key *walproxyv1.Key) *walproxyv1.Mutation {
	return mutation.New(collection, key, []*walproxyv1.Op{mutation.MergeOp(map[string]*walproxyv1.Value{"n": mutation.Int64Value(0)})})
}

// retrySome logs a key's queue again: all of it, its first, or its end; as it
// was or mended; some twice.
func (d *driver) retrySome(t *target) {
	if len(t.model.dead) == 0 {
		return
	}
	named := t.model.dead[pick(d, slices.Sorted(maps.Keys(t.model.dead))...)]
	queue := t.model.queue(named.keys[0])
	from := pick(d, 0, 0, 0, len(queue)/2)
	for _, l := range queue[from:pick(d, len(queue), len(queue), from+1)] {
		ms := l.mutations
		if len(l.keys) == 1 && d.chance(3) {
			ms = []*walproxyv1.Mutation{mend(ms[0].GetCollection(), ms[0].GetKey())}
		}
		routes := []string{t.name}
		if other := pick(d, d.targets...); other != t && d.chance(4) {
			routes = append(routes, other.name)
		}
		for range pick(d, 1, 1, 1, 2) {
			d.write(routes, t, l.lsn, ms)
		}
	}
}

// retryMany logs dead letters of many keys again, one behind the other or with other
// writes between, in LSN order or in none.
func (d *driver) retryMany(t *target) {
	letters := t.model.letters()
	if d.chance(3) {
		d.random.Shuffle(len(letters), func(i, j int) { letters[i], letters[j] = letters[j], letters[i] })
	}
	between := pick(d, 1<<30, 1<<30, 2, 5)
	for _, l := range letters {
		ms := l.mutations
		if len(l.keys) == 1 && d.chance(2) {
			ms = []*walproxyv1.Mutation{mend(ms[0].GetCollection(), ms[0].GetKey())}
		}
		d.write([]string{t.name}, t, l.lsn, ms)
		if d.chance(between) {
			d.write([]string{pick(d, t.name, t.name, "nobody")}, nil, 0, d.drawRecord())
		}
	}
}

// drawOptions draws how the loop of a sink runs.
func (d *driver) drawOptions(sink string) replay.Options {
	o := replay.Options{Name: sink, Owner: "looptest", OnReject: policy, Lanes: 1 + d.draw(6)}
	o.Batch.Records = 1 + d.draw(25)
	o.Batch.Bytes = 1 + d.draw(3000)
	o.Batch.Linger = pick(d, -1, time.Millisecond, time.Hour)
	o.Batch.Rest = pick(d, -1.0, 0, 2)
	o.Batch.Latency = pick(d, time.Nanosecond, time.Millisecond, time.Hour)
	o.QueueBytes = pick(d, 1, 3000, 1<<20)
	o.Idle.Records = pick(d, 1, 10, 1000)
	o.Idle.Interval = pick(d, time.Millisecond, time.Hour)
	o.RetryMin, o.RetryMax = time.Microsecond, 200*time.Microsecond
	if group := pick(d, "", "", "", "one", "two"); group != "" {
		shared := pick(d, collections[0], collections[1], "*")
		o.LaneKey = func(collection string) string {
			if shared == "*" || shared == collection {
				return group
			}
			return ""
		}
	}
	d.drawClasses(&o)
	return o
}

// drawClasses gives some collections lanes of their own.
func (d *driver) drawClasses(o *replay.Options) {
	for i := range pick(d, 0, 0, 1, 2, 3) {
		o.Classes = append(o.Classes, replay.Class{Name: fmt.Sprint("class ", i), Lanes: d.draw(3)})
	}
	if len(o.Classes) == 0 {
		return
	}
	own := map[string]string{}
	for _, collection := range collections {
		if i := d.draw(len(o.Classes) + 1); i < len(o.Classes) {
			own[collection] = o.Classes[i].Name
		}
	}
	o.OwnLanes = func(collection string) string { return own[collection] }
}

// addFaults scripts a store that fails for a while, hangs, or is wrong as a whole,
// and dead letters that are soon full.
func (d *driver) addFaults(f *sinktest.Faulty, o *replay.Options) {
	for range d.draw(7) {
		rule := sinktest.Rule{Times: 1 + d.draw(3), When: sinktest.CallNumber(1 + d.draw(20))}
		if d.chance(2) {
			rule.When = sinktest.Lane(d.draw(4))
		}
		rule.Do = pick(d,
			sinktest.FailBefore(sinks.Retry, sinktest.ErrAway),
			sinktest.FailBefore(sinks.Unknown, sinktest.ErrAway),
			sinktest.LoseAnswer(sinktest.ErrAway),
			sinktest.Delay(time.Millisecond))
		f.Add(rule)
	}
	if d.chance(4) {
		f.FailResume(1+d.draw(3), sinktest.ErrAway)
	}
	if d.chance(5) { // never answers, with or without effect
		o.ApplyTimeout, o.StopTimeout = 50*time.Millisecond, 10*time.Millisecond
		never := make(chan struct{})
		f.Add(sinktest.Rule{When: sinktest.CallNumber(1 + d.draw(10)), Do: pick(d, sinktest.HoldBefore(never), sinktest.HoldAfter(never))})
	}
	if d.chance(8) {
		f.Add(sinktest.Rule{When: sinktest.CallNumber(1 + d.draw(20)), Do: sinktest.Halt(errHalted)})
	}
	if d.chance(6) {
		o.DeadLetters.Bytes = int64(1 + d.draw(3000))
	}
}

var errWhim = errors.New("looptest: not these together")

// mortal is the sink of a process that dies: after some calls nothing reaches
// the store any more, the last call with or without effect. It may also name the
// wrong record when one is rejected, or none, and reject batches of several for
// no reason that one of them has alone.
type mortal struct {
	sinks.Sink
	left   atomic.Int64
	effect bool
	blame  func(n int) int // index of the record to blame; -1: nobody; nil: as it is
	whim   int             // every so many batches of several records are rejected; 0: none
	// depends: a record is rejected while one before it is missing, as foreign
	// keys and triggers may have it.
	depends bool
	target  *target
	letters *state.DeadLetters

	mu     sync.Mutex
	calls  int
	passed map[sinks.Move]bool // first moves of batches that may have been applied
}

func (d *driver) newMortal(sink sinks.Sink, t *target) *mortal {
	m := &mortal{Sink: sink, effect: d.chance(2), depends: d.chance(4), target: t, letters: d.state.DeadLetters(t.name)}
	m.left.Store(pick(d, int64(1), 2, 3, 5, 8, 13, 21, 1<<40, 1<<40))
	switch d.draw(4) {
	case 0:
		m.blame = func(int) int { return -1 }
	case 1:
		m.blame = func(n int) int { return n / 2 }
	}
	m.whim, m.passed = pick(d, 0, 0, 2, 5), map[sinks.Move]bool{}
	return m
}

// rejects decides by whim. What may have been applied is not rejected: a sink
// that did that would break its contract.
func (m *mortal) rejects(b *sinks.Batch) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	switch {
	case len(b.Records) == 0 || m.passed[b.Moves[0]]:
	case m.whim > 0 && len(b.Records) > 1 && m.calls%m.whim == 0:
		return true
	case m.depends && m.target.missing(b.Records[0].LSN, m.letters):
		return true
	}
	m.passed[b.Moves[0]] = true
	return false
}

// note remembers what was applied.
func (t *target) note(b *sinks.Batch, results []sinks.Result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, r := range results {
		if r.Outcome == sinks.Applied {
			t.applied[b.Records[i].LSN] = true
		}
	}
}

// resumed notes that what a checkpoint covers may have been applied.
func (t *target) resumed(c sinks.Checkpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, at := range c.Lanes {
		t.floor = max(t.floor, at.LSN)
	}
}

// Resume implements sinks.Sink.
func (m *mortal) Resume(ctx context.Context, c sinks.Claim) (sinks.Checkpoint, error) {
	left := m.left.Add(-1)
	if left < 0 || left == 0 && !m.effect {
		return sinks.Checkpoint{}, sinks.WithOutcome(sinks.Halt, errDead)
	}
	at, err := m.Sink.Resume(ctx, c)
	m.target.resumed(at)
	if left == 0 {
		return sinks.Checkpoint{}, sinks.WithOutcome(sinks.Halt, errDead)
	}
	return at, err
}

// Apply implements sinks.Sink.
func (m *mortal) Apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	left := m.left.Add(-1)
	if left < 0 || left == 0 && !m.effect {
		return nil, sinks.WithOutcome(sinks.Halt, errDead)
	}
	if m.rejects(b) {
		return nil, sinks.WithOutcome(sinks.Rejected, errWhim)
	}
	results, err := m.Sink.Apply(ctx, b)
	m.target.note(b, results)
	if left == 0 {
		return nil, sinks.WithOutcome(sinks.Halt, errDead)
	}
	i := slices.IndexFunc(results, func(r sinks.Result) bool { return r.Outcome == sinks.Rejected })
	if i < 0 || m.blame == nil {
		return results, err
	}
	why, blamed := results[i].Err, m.blame(len(results))
	if blamed < 0 {
		return nil, sinks.WithOutcome(sinks.Rejected, why)
	}
	results = sinks.Results(len(results), sinks.Retry, why)
	results[blamed].Outcome = sinks.Rejected
	return results, nil
}
