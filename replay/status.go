package replay

import (
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/wal"
)

// State of the loop.
type State string

const (
	Starting State = "starting" // the store has not been reached yet
	Running  State = "running"
	Retrying State = "retrying" // the last apply failed, backing off
	Paused   State = "paused"
	// Halted: Run returned an error, or is about to, or the dead letters are full.
	Halted  State = "halted"
	Stopped State = "stopped"
)

// Status is a snapshot for metrics and status.
type Status struct {
	State      State
	Err        error // why retrying (or not started yet) or halted
	Epoch      uint64
	Applied    wal.LSN
	Checkpoint wal.LSN
	Lanes      []wal.LSN // stored checkpoints
	Records    uint64    // applied since start
	Batches    uint64    // applied since start, those without records included
	Retries    uint64
	// RetriesUnknown are those of Retries after which the batch may have been applied:
	// it was sent and not answered. RetriesStart are attempts to reach the store at
	// first. After the others it was surely not applied.
	RetriesUnknown, RetriesStart uint64

	QueueBytes int // estimate of the memory held by records read ahead
	// Concurrency is how many lanes may apply at once, and BatchRecords how large
	// their batches may be, as the store can take it.
	Concurrency, BatchRecords int
	// DeadLetters stored, their bytes, and the keys that they park.
	DeadLetters uint64
	// DeadLettersMade since start, one again that a checkpoint had not passed.
	DeadLettersMade uint64
	DeadLetterBytes uint64
	ParkedKeys      int
	// HeldRecords were copied out of the log because the sink is far behind;
	// HeldBytes are their payloads.
	HeldRecords, HeldBytes uint64
	// LostRecords are LSNs that a repair of the log gave up and this sink has passed
	// without them, since it was added; at most so many were for it.
	LostRecords uint64
	// Unsettled are the LSNs that are applied and that a restart of the store could
	// still take back (sinks.Settler). The log keeps them.
	Unsettled uint64
}

// Status returns a snapshot.
func (l *Loop) Status() Status {
	s := Status{
		Applied:    l.Applied(),
		Checkpoint: l.Checkpoint(),
		Records:    l.records.Load(),
		Batches:    l.batches.Load(),
		Retries:    l.retries.Load(),

		RetriesUnknown: l.retriesUnknown.Load(), RetriesStart: l.retriesStart.Load(),

		DeadLettersMade: l.made.Load(),
	}
	if p := l.pipe.Load(); p != nil {
		s.Lanes, s.QueueBytes = p.snapshot()
	}
	size, lanes := l.pace.now()
	s.Concurrency, s.BatchRecords = lanes, size.records
	// A state store that fails halts the loop, which says so.
	totals, _ := l.letters.Totals()
	s.DeadLetters, s.DeadLetterBytes, s.ParkedKeys = totals.Count, totals.Bytes, totals.ParkedKeys
	held, _ := l.held.Range()
	s.HeldRecords, s.HeldBytes = held.Records, held.Bytes
	s.LostRecords = l.lostRecords()
	if l.settler != nil {
		s.Unsettled = uint64(s.Applied - min(s.Applied, l.settler.Settled()))
	}
	l.health.Lock()
	defer l.health.Unlock()
	s.State, s.Epoch, s.Err = l.health.state, l.health.epoch, l.health.err
	if s.State == Running && l.health.retrying > 0 {
		s.State = Retrying
	}
	if l.health.blocked > 0 && s.State != Stopped {
		if s.State != Halted {
			s.Err = l.health.full
		}
		s.State = Halted
	}
	if s.State != Halted && s.State != Stopped && l.pace.isPaused() {
		s.State = Paused
	}
	return s
}

func (l *Loop) setState(s State, err error) {
	l.health.Lock()
	defer l.health.Unlock()
	l.health.state, l.health.err = s, err
}

// block notes that one more lane waits because the dead letters are full.
func (l *Loop) block(full error) {
	l.health.Lock()
	l.health.blocked++
	l.health.full = full
	l.marks.block(full)
	l.health.Unlock()
	l.logger.Error("sink halted: it goes on when dead letters are given up or retried", zap.Error(full))
}

// unblock undoes block.
func (l *Loop) unblock() {
	l.health.Lock()
	defer l.health.Unlock()
	if l.health.blocked--; l.health.blocked == 0 {
		l.health.full = nil
		l.marks.block(nil)
	}
}

// failing notes that one more lane, or the start, backs off because of err.
func (l *Loop) failing(first bool, err error) {
	l.retries.Add(1)
	l.health.Lock()
	defer l.health.Unlock()
	if first {
		l.health.retrying++
	}
	if l.health.state != Halted { // the reason of a halt stays
		l.health.err = err
	}
}

// recovered undoes failing.
func (l *Loop) recovered() {
	l.health.Lock()
	defer l.health.Unlock()
	l.health.retrying--
	if l.health.retrying == 0 && l.health.state != Halted {
		l.health.err = nil
	}
}
