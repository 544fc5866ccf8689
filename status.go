package walproxy

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// States of a write.
const (
	StateUnknown = "unknown" // no such LSN, or not durable yet
	StateLogged  = string(replay.Logged)
	StateApplied = string(replay.Applied)
	StateParked  = string(replay.Parked) // a dead letter behind another of its key
	StateDead    = string(replay.Dead)   // a dead letter, or one that was given up
	StateLost    = string(replay.Lost)   // given up by a repair of the log
	// StateUnrouted: the sink does not get the write.
	StateUnrouted = "unrouted"
)

// WriteState is how far one write has come.
type WriteState struct {
	LSN LSN
	// State is the worst of all sinks: logged, lost, dead, parked, applied.
	State string
	Sinks map[string]string
}

// WriteState tells how far the write with this LSN has come at the sinks that it
// is routed to; the others are StateUnrouted, and so are not where their part in
// it cannot be told any more: a sink that has passed a write whose space in the
// log was freed counts as applied. The error is the state store's.
func (p *Proxy) WriteState(lsn LSN) (WriteState, error) {
	ws := WriteState{LSN: lsn, State: StateUnknown}
	if p.closing.Load() {
		return ws, ErrClosed
	}
	if lsn == 0 || lsn > p.log.Durable() {
		return ws, nil
	}
	ws.Sinks = make(map[string]string, len(p.sinks))
	names, known := []string(nil), false
	if len(p.sinks) > 1 {
		names, known = p.routed(context.Background(), lsn) // it is durable: there is no wait
	}
	worst := []string{StateLogged, StateLost, StateDead, StateParked, StateApplied}
	at := len(worst) - 1
	for _, s := range p.sinks {
		if lsn <= s.from || known && !slices.Contains(names, s.name) {
			ws.Sinks[s.name] = StateUnrouted
			continue
		}
		fate, err := s.loop().Fate(lsn)
		if err != nil {
			return ws, err
		}
		ws.Sinks[s.name] = string(fate)
		at = min(at, slices.Index(worst, string(fate)))
	}
	ws.State = worst[at]
	return ws, nil
}

// Status is a snapshot of log, state store and sinks.
type Status struct {
	Stream     string
	Log        wal.Stats
	StateBytes int64 // the state store on disk
	// Refusing is why no write is taken; empty: writes are taken, as far as log and
	// proxy are concerned.
	Refusing string
	Draining bool // see Drain
	// MaxBytes bounds log and state store, MinFree is the floor of free space; negative:
	// none.
	MaxBytes, MinFree int64
	// QuarantineBytes were set aside by starts and repairs; they count for no bound. At
	// most 30 s old.
	QuarantineBytes int64
	Rates           Rates
	Sinks           []SinkStatus
}

// SinkStatus is a snapshot of one sink's loop.
type SinkStatus struct {
	Name string
	replay.Status
	Paused bool
	// Lag is how many records are routed to the sink and not passed by it;
	// LagBytes is their size in the log. They are upper bounds for a while after
	// Open, or after the sink went on from a halt: until it was reached, or what the
	// log held then was counted.
	Lag      uint64
	LagBytes int64
	// LagAtMost: they are upper bounds now.
	LagAtMost bool
	// MaxLagBytes is SinkOptions.MaxLagBytes.
	MaxLagBytes int64
	Rates       SinkRates
	// Oldest is when the first record was accepted that the sink has not passed, and
	// OldestLSN which it is, at most 5 s ago; zero: there is none, or it is not known.
	OldestLSN LSN
	Oldest    time.Time
	// Store is what the sink itself says of its store.
	Store sinks.Description
}

// Status returns a snapshot. It does no I/O beyond asking for free space.
func (p *Proxy) Status() Status {
	st := Status{Stream: p.log.Stream().String(), Log: p.log.Stats(), StateBytes: p.state.Bytes(),
		MaxBytes: p.log.MaxBytes(), MinFree: p.log.MinFree(), Draining: p.intake.shut.Load()}
	st.Refusing = p.refusing(&st)
	for _, s := range p.sinks {
		ss := SinkStatus{Name: s.name, Status: s.status(), Paused: s.isPaused(), MaxLagBytes: s.maxLag.Load()}
		var exact bool
		ss.Lag, ss.LagBytes, exact = p.lagOf(s)
		ss.LagAtMost = ss.Lag > 0 && (!exact || s.lag().noted())
		if d, ok := s.options.Sink.(sinks.Describer); ok {
			ss.Store = d.Describe()
		}
		st.Sinks = append(st.Sinks, ss)
	}
	p.rates(&st)
	return st
}

// nearlyFull is how close to a bound the log counts as full: what a small record
// takes.
const nearlyFull = 16 << 10

func (p *Proxy) refusing(st *Status) string {
	switch {
	case p.closing.Load():
		return "it is stopping"
	case st.Log.Err != nil:
		return fmt.Sprintf("the log failed, and takes no write until the next start: %v", st.Log.Err)
	case st.Draining:
		return "it is being drained (`walproxy drain --undo` has it take writes again)"
	case st.Log.Bytes+st.StateBytes+nearlyFull > st.MaxBytes:
		return fmt.Sprintf("log and state store take %d bytes, and log.max_bytes is %d", st.Log.Bytes+st.StateBytes, st.MaxBytes)
	case st.MinFree > 0 && st.Log.FreeBytes-nearlyFull < st.MinFree:
		return fmt.Sprintf("%d bytes are free on the disk, and log.min_free is %d", st.Log.FreeBytes, st.MinFree)
	}
	return ""
}

// lagOf is s.lag().now, less what is in the log's memory alone: after the log was
// poisoned it never gets into the log.
func (p *Proxy) lagOf(s *sink) (records uint64, bytes int64, exact bool) {
	a := s.attempt.Load()
	records, bytes, exact = a.lag.now()
	passed := max(a.loop.Applied(), s.from)
	return min(records, uint64(max(p.end(), passed)-passed)), bytes, exact
}
