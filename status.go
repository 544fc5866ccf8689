package walproxy

import (
	"slices"

	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/wal"
)

// States of a write.
const (
	StateUnknown = "unknown" // no such LSN, or not durable yet
	StateLogged  = string(replay.Logged)
	StateApplied = string(replay.Applied)
	StateParked  = string(replay.Parked) // a dead letter behind another of its key
	StateDead    = string(replay.Dead)   // a dead letter, or one that was given up
)

// WriteState is how far one write has come.
type WriteState struct {
	LSN LSN
	// State is the worst of all sinks: logged, dead, parked, applied.
	State string
	Sinks map[string]string
}

// WriteState tells how far the write with this LSN has come. A sink that the
// write is not routed to counts as applied once it has passed the LSN, and so
// does a write whose space in the log was freed. The error is the state store's.
func (p *Proxy) WriteState(lsn LSN) (WriteState, error) {
	ws := WriteState{LSN: lsn, State: StateUnknown}
	if p.closing.Load() {
		return ws, ErrClosed
	}
	if lsn == 0 || lsn > p.log.Durable() {
		return ws, nil
	}
	ws.Sinks = make(map[string]string, len(p.sinks))
	worst := []string{StateLogged, StateDead, StateParked, StateApplied}
	at := len(worst) - 1
	for _, s := range p.sinks {
		fate, err := s.loop.Fate(lsn)
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
	Sinks      []SinkStatus
}

// SinkStatus is a snapshot of one sink's loop.
type SinkStatus struct {
	Name string
	replay.Status
	Paused bool
	// Lag is durable - applied, in records. Until the sink was reached it is all
	// that the log holds: an upper bound.
	Lag uint64
}

// Status returns a snapshot. It does no I/O beyond asking for free space.
func (p *Proxy) Status() Status {
	st := Status{Stream: p.log.Stream().String(), Log: p.log.Stats(), StateBytes: p.state.Bytes()}
	for _, s := range p.sinks {
		ls := s.loop.Status()
		st.Sinks = append(st.Sinks, SinkStatus{Name: s.name, Status: ls, Paused: s.paused, Lag: p.lag(s)})
	}
	return st
}

// lag is how many records s lacks.
func (p *Proxy) lag(s *sink) uint64 {
	passed := s.loop.Has()
	return uint64(max(p.log.Durable(), passed) - passed)
}
