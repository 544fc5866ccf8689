package sinktest

import (
	"slices"
	"time"

	"github.com/walproxy/walproxy/sinks"
)

// Rule says what goes wrong in which calls of Apply. The first rule that
// matches a call and has turns left is used; the others wait for another call.
type Rule struct {
	// When selects calls; nil matches all.
	When Match
	// Do is what happens; the zero Fault does nothing (the call is recorded).
	Do Fault
	// Times is how many calls it hits; 0 is one, Always is every one.
	Times int
}

// Always as Rule.Times hits every matching call.
const Always = -1

// Match selects calls of Apply. It must not block or keep what it is given.
type Match func(number int, b *sinks.Batch) bool

// CallNumber matches the n-th Apply on the wrapper, counted from 1.
func CallNumber(n int) Match {
	return func(number int, _ *sinks.Batch) bool { return number == n }
}

// Lane matches batches that move the lane.
func Lane(lane int) Match {
	return func(_ int, b *sinks.Batch) bool {
		return slices.ContainsFunc(b.Moves, func(m sinks.Move) bool { return m.Lane == lane })
	}
}

// LSN matches batches that hold one of the records.
func LSN(lsns ...sinks.LSN) Match {
	return func(_ int, b *sinks.Batch) bool {
		return slices.ContainsFunc(b.Records, func(r sinks.Record) bool {
			return slices.Contains(lsns, r.LSN)
		})
	}
}

// NotEmpty matches batches that hold records, not only moves.
func NotEmpty(_ int, b *sinks.Batch) bool { return len(b.Records) > 0 }

// Relane matches batches that change the number of lanes.
func Relane(_ int, b *sinks.Batch) bool { return b.Relane }

// All matches what every one of ms matches.
func All(ms ...Match) Match {
	return func(number int, b *sinks.Batch) bool {
		for _, m := range ms {
			if !m(number, b) {
				return false
			}
		}
		return true
	}
}

// Fault is what a rule does to a call, made by the functions below. Its parts
// happen in this order: hold, fail or reject (the inner sink is not called), else
// the inner Apply, hold again, and what is reported instead of its answer.
type Fault struct {
	name    string
	hold    <-chan struct{} // before the inner Apply
	fail    error           // instead of the inner Apply
	reject  map[sinks.LSN]error
	held    <-chan struct{} // after the inner Apply
	lost    error           // instead of a good answer of the inner Apply
	latency time.Duration
}

func (f Fault) String() string { return f.name }

// FailBefore reports err with the outcome and does not call the inner sink:
// nothing was applied. With sinks.Unknown that is a request that never arrived.
func FailBefore(o sinks.Outcome, err error) Fault {
	return Fault{name: "fail before: " + o.String(), fail: sinks.WithOutcome(o, err)}
}

// Refuse reports err as it is, without calling the inner sink: sinks.ErrFenced, say.
func Refuse(err error) Fault { return Fault{name: "refuse", fail: err} }

// LoseAnswer applies the batch and then reports err, outcome unknown: a commit
// whose answer never came.
func LoseAnswer(err error) Fault {
	return Fault{name: "lose answer", lost: sinks.WithOutcome(sinks.Unknown, err)}
}

// Halt reports err as wrong for the whole target; nothing is applied.
func Halt(err error) Fault { return FailBefore(sinks.Halt, err) }

// Reject reports those records of lsns that the batch holds as rejected with err
// and the others as retry; nothing is applied. A batch without them is applied.
// Use it with Always and let the caller bisect.
func Reject(err error, lsns ...sinks.LSN) Fault {
	f := Fault{name: "reject", reject: map[sinks.LSN]error{}}
	for _, l := range lsns {
		f.reject[l] = err
	}
	return f
}

// HoldBefore waits until release is closed, then applies. If the call's context
// ends first nothing was applied and the outcome is unknown, with the context's
// cause.
func HoldBefore(release <-chan struct{}) Fault {
	return Fault{name: "hold before", hold: release}
}

// HoldAfter applies and waits until release is closed before it reports. If the
// call's context ends first the outcome is unknown, with the context's cause.
func HoldAfter(release <-chan struct{}) Fault {
	return Fault{name: "hold after", held: release}
}

// Delay waits d before it applies: a slow store.
func Delay(d time.Duration) Fault { return Fault{name: "delay", latency: d} }
