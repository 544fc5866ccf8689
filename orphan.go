package walproxy

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/wal"
)

// ErrOrphanedSink: the log was routed to a sink that the options do not have;
// *OrphanedSinkError.
var ErrOrphanedSink = errors.New("walproxy: a sink of the log is not among the options")

// OrphanedSinkError names sinks that Open was not given. Nothing was changed.
type OrphanedSinkError struct{ Sinks []OrphanedSink }

// OrphanedSink is what would be lost with a sink.
type OrphanedSink struct {
	Name string
	// Records and Bytes of the log above what is known to be applied: at most so
	// much is the sink's and not in its store.
	Records uint64
	Bytes   int64
	// Held are those that were copied out of the log for it, and are not among Records.
	Held        uint64
	DeadLetters uint64
}

func (e *OrphanedSinkError) Error() string {
	parts := make([]string, 0, len(e.Sinks))
	for _, s := range e.Sinks {
		parts = append(parts, fmt.Sprintf("%s: up to %d records (%d bytes of the log), %d held outside the log and %d dead letters are not in its store; "+
			"add it again, or give them up with `walproxy sink forget %s`", s.Name, s.Records, s.Bytes, s.Held, s.DeadLetters, s.Name))
	}
	return fmt.Sprintf("%v: %s", ErrOrphanedSink, strings.Join(parts, "; "))
}

// Unwrap returns ErrOrphanedSink.
func (e *OrphanedSinkError) Unwrap() error { return ErrOrphanedSink }

// checkOrphans refuses to go on without a sink that was never forgotten: its
// records would be freed unseen.
func (p *Proxy) checkOrphans() error {
	claims, err := p.state.Claims()
	if err != nil {
		return err
	}
	refused := &OrphanedSinkError{}
	for _, c := range claims {
		if slices.ContainsFunc(p.options.Sinks, func(so SinkOptions) bool { return so.Name == c.Sink }) {
			continue
		}
		orphan, low, err := orphaned(p.state, c, p.log.First(), p.log.Durable())
		if err != nil {
			return err
		}
		orphan.Bytes = bytesAbove(p.log, low)
		refused.Sinks = append(refused.Sinks, orphan)
	}
	if len(refused.Sinks) > 0 {
		return refused
	}
	return nil
}

// orphaned counts what would be lost with a sink; of a log from first to last only
// what is above low.
func orphaned(st *state.Store, c state.Claim, first, last LSN) (o OrphanedSink, low LSN, err error) {
	totals, err := st.DeadLetters(c.Sink).Totals()
	if err != nil {
		return o, 0, err
	}
	held, err := st.Held(c.Sink).Range()
	if err != nil {
		return o, 0, err
	}
	low = min(max(c.From, c.Applied, held.Through, first-1), last)
	return OrphanedSink{Name: c.Sink, Records: uint64(last - low), Held: held.Records, DeadLetters: totals.Count}, low, nil
}

// KnownSink is what a data directory says of a sink.
type KnownSink struct {
	Name     string
	Identity string // of its store
	// Claimed: its store has held a checkpoint.
	Claimed bool
	Paused  bool
	// From is where the log ended when the sink was added. Applied is how far it
	// was when that was noted last.
	From, Applied LSN
	// Filled: up to it the sink was given what the log had, when it was added.
	Filled          LSN
	DeadLetters     uint64
	DeadLetterBytes uint64
	ParkedKeys      int
	HeldRecords     uint64 // copied out of the log
	HeldBytes       uint64
}

// KnownSinks returns the sinks of the data directory dir, by name. No proxy may
// have it open: *wal.LockedError.
func KnownSinks(dir string) (known []KnownSink, err error) {
	err = offline(dir, func(st *state.Store) error {
		claims, err := st.Claims()
		if err != nil {
			return err
		}
		for _, c := range claims {
			totals, err := st.DeadLetters(c.Sink).Totals()
			if err != nil {
				return err
			}
			held, err := st.Held(c.Sink).Range()
			if err != nil {
				return err
			}
			known = append(known, KnownSink{Name: c.Sink, Identity: c.Identity, Claimed: c.Settled, Paused: c.Paused,
				From: c.From, Applied: c.Applied, Filled: c.Filled, DeadLetters: totals.Count, DeadLetterBytes: totals.Bytes,
				ParkedKeys: totals.ParkedKeys, HeldRecords: held.Records, HeldBytes: held.Bytes})
		}
		return nil
	})
	return known, err
}

// Forget gives up, durably, what the data directory dir holds for a sink: its
// claim, its dead letters and its records in the log, which the next Open frees.
// Its store is not touched. A sink of the same name that is added later begins at
// the end of the log. ErrNoSink: dir knows of none. No proxy may have dir open:
// *wal.LockedError.
func Forget(dir, sink string) error {
	return offline(dir, func(st *state.Store) error {
		if _, err := knownClaim(st, sink); err != nil {
			return err
		}
		return st.Forget(sink)
	})
}

// knownClaim is the claim of a sink that there is. ErrNoSink: there is none.
func knownClaim(st *state.Store, sink string) (state.Claim, error) {
	claim, known, err := st.Claim(sink)
	if err == nil && !known {
		err = fmt.Errorf("%w: %q", ErrNoSink, sink)
	}
	return claim, err
}

// offline opens the state store of dir under the log's lock.
func offline(dir string, do func(*state.Store) error) (err error) {
	o := Options{Dir: dir}
	if _, err := os.Stat(o.stateDir()); err != nil {
		return fmt.Errorf("walproxy: %s is no data directory: %w", dir, err)
	}
	lock, err := wal.Lock(o.logDir())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	st, err := state.Open(o.stateDir(), state.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return do(st)
}
