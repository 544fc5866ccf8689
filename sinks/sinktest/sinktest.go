// Package sinktest is for those who write sinks, or code that drives them: the
// suite that every sink passes (Run), a small correct sink in memory (Memory) and
// a wrapper that fails on command (Faulty).
//
//	func TestMySink(t *testing.T) {
//		sinktest.Run(t, sinktest.Harness{New: func() (sinktest.Store, error) { ... }})
//	}
package sinktest

import (
	"testing"

	"github.com/walproxy/walproxy/sinks"
)

// Harness is what the suite has to know about a kind of sink.
type Harness struct {
	// New makes a new, empty store. The suite makes a few hundred, one or two at
	// a time, and calls Remove on each.
	New func() (Store, error)

	// Reader returns how the suite looks into the store through an open sink. If
	// it is nil the sink itself has to be a sinks.Reader.
	Reader func(sinks.Sink) sinks.Reader

	// NotTransactional: a batch with a rejected record may apply the others
	// (each then reports Applied), and so may a batch that reports an error.
	// Without it a batch is all or nothing. After a crash the data may be ahead of
	// the checkpoint by the batches that were under way; sent again they must not
	// be applied twice.
	NotTransactional bool
	// NullIsAbsent: the store has no null at the top of a record; a field that is
	// null is not there.
	NullIsAbsent bool
	// RecordBytes is the largest record that the store takes; 0: several megabytes.
	RecordBytes int
	// Statements: the sink applies Statement bodies. Without it they must halt it, as a
	// Command must with it.
	Statements bool
	// NoEvents, NoExpiry, NoGroups: the sink has no such feature. What the sink
	// cannot do must still not be dropped: say in your docs how it is refused.
	NoEvents, NoExpiry, NoGroups bool
}

// Store is one store, which outlives the sinks opened on it.
type Store interface {
	// Open returns a sink on the store. At most one is open at a time.
	Open() (sinks.Sink, error)
	// Crash ends a sink as if its process had been killed (and, where the test
	// can, the power cut): nothing that the sink has not made durable may help
	// it. Calls of the sink may be running; they have to end. The next call is
	// Open. Calling Close here is the weakest form.
	Crash(sinks.Sink) error
	// Remove deletes the store; its sink is closed.
	Remove() error
}

// check is one case of the suite.
type check struct {
	name string
	// why it matters, printed when the case fails.
	why string
	run func(*rig)
	// lanes of the checkpoint; 0 is 1, and noResume makes no claim.
	lanes    int
	noResume bool
	skip     func(Harness) string // reason, or ""
}

func groups() [][]check {
	return [][]check{resumeChecks(), applyChecks(), rejectChecks(), recordChecks(), crashChecks(), laneChecks(), closeChecks()}
}

// Run checks a sink against the contract of package sinks. Every failure names
// the rule and what the loop above would lose or double because of it.
func Run(t *testing.T, h Harness) {
	if h.New == nil {
		t.Fatal("sinktest: Harness.New is missing")
	}
	for _, group := range groups() {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) { c.test(t, h) })
		}
	}
	t.Run("model", func(t *testing.T) { modelCheck(t, h) })
	t.Run("script", func(t *testing.T) { scriptCheck(t, h) })
}

func (c check) test(t *testing.T, h Harness) {
	if c.skip != nil {
		if reason := c.skip(h); reason != "" {
			t.Skip(reason)
		}
	}
	defer func() {
		if t.Failed() {
			t.Logf("why this matters: %s", c.why)
		}
	}()
	r := newRig(t, h)
	defer r.remove()
	if !c.noResume {
		r.claim.Lanes = max(c.lanes, 1)
		r.fresh()
	}
	c.run(r)
}

func needsEvents(h Harness) string {
	if h.NoEvents {
		return "the sink has no events"
	}
	return ""
}

func needsExpiry(h Harness) string {
	if h.NoExpiry {
		return "the sink has no expiry"
	}
	return ""
}

func needsGroups(h Harness) string {
	if h.NoGroups {
		return "the sink has no groups"
	}
	return ""
}

func needsTransactions(h Harness) string {
	if h.NotTransactional {
		return "the sink is not transactional"
	}
	return ""
}
