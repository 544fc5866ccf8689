package walproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// Survey is what a replay would do, as far as that can be told without changing
// anything: not the log, nor the state store, nor a store, which need not be there.
type Survey struct {
	Stream      string
	First, Last LSN // of the log
	End         LSN // where the replay would end
	// Clean: the log was closed in order. Else the start cuts TornBytes off its end,
	// which were never acknowledged.
	Clean     bool
	TornBytes int64
	// Refusal is what the log would be refused with; nil: it would not.
	Refusal error
	// Orphans is ErrOrphanedSink if the log knows sinks that the options lack.
	Orphans error
	Sinks   []SinkSurvey
}

// SinkSurvey is one sink's part.
type SinkSurvey struct {
	Name   string
	Paused bool
	// New: the data directory does not know the sink; it would be added at the end of
	// the log.
	New bool
	// Claimed: its store has held a checkpoint.
	Claimed bool
	// Asked: Checkpoint is the store's own, as it was a moment ago. Else it is what the
	// state store noted last, the same for all lanes, and Err says why: the store may
	// be further.
	Asked      bool
	Err        error
	Checkpoint sinks.Checkpoint
	// Refusal is what the sink would halt with at once; nil: it is not known to.
	Refusal error
	*replay.Survey
	DeadLetters, DeadLetterBytes uint64
	ParkedKeys                   int
	// Held records were copied out of the log; they count in Survey, too.
	Held uint64
}

// SurveyOptions restrict a survey further.
type SurveyOptions struct {
	ReplayOptions
	// Collections that count; none: all.
	Collections []string
}

// SurveyReplay looks at the data directory o.Dir, which nobody has open, and at its
// stores: those that are a sinks.Positioner are asked where they are, if they
// answer within 10 s; SinkOptions.Sink may be nil. With FromLSN records from there
// on count, wherever the sink is. Errors: *wal.LockedError, wal.ErrNoLog, those of
// the state store.
func SurveyReplay(ctx context.Context, o Options, r SurveyOptions) (found *Survey, err error) {
	in, err := wal.Inspect(o.logDir(), wal.InspectOptions{})
	if err != nil {
		return nil, err
	}
	lock, err := wal.Lock(o.logDir()) // nobody opens it meanwhile
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	st, err := state.Open(o.stateDir(), state.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	found = &Survey{Stream: in.Stream.String(), First: in.First, Last: in.Last, End: in.Last, Clean: in.Clean, Refusal: in.Refusal}
	if r.ToLSN > 0 {
		found.End = min(found.End, r.ToLSN)
	}
	for _, seg := range in.Segments {
		if seg.Torn != nil {
			found.TornBytes += seg.Torn.Bytes
		}
	}
	if err := checkStream(st, in.Stream); err != nil && found.Refusal == nil {
		found.Refusal = err
	}
	sv := surveyor{ctx: ctx, o: o, r: r, in: in, state: st, found: found}
	if err := sv.orphans(); err != nil {
		return nil, err
	}
	for _, so := range o.Sinks {
		if r.selects(so.Name) {
			if err := sv.sink(so); err != nil {
				return nil, fmt.Errorf("sink %s: %w", so.Name, err)
			}
		}
	}
	return found, sv.read()
}

func checkStream(st *state.Store, stream uuid.UUID) error {
	bound, ok := st.Stream()
	if ok && bound != stream {
		return fmt.Errorf("%w: it is %s's, the log is stream %s", state.ErrForeign, bound, stream)
	}
	return nil
}

type surveyor struct {
	ctx   context.Context // of SurveyReplay, which it does not outlive
	o     Options
	r     SurveyOptions
	in    *wal.Inspection
	state *state.Store
	found *Survey
	above []wal.LSN // per sink: the log's records above it count
}

// orphans notes sinks that the options lack.
func (sv *surveyor) orphans() error {
	claims, err := sv.state.Claims()
	if err != nil {
		return err
	}
	refused := &OrphanedSinkError{}
	for _, c := range claims {
		if slices.ContainsFunc(sv.o.Sinks, func(so SinkOptions) bool { return so.Name == c.Sink }) {
			continue
		}
		orphan, _, err := orphaned(sv.state, c, sv.in.First, sv.in.Last)
		if err != nil {
			return err
		}
		refused.Sinks = append(refused.Sinks, orphan)
	}
	if len(refused.Sinks) > 0 {
		sv.found.Orphans = refused
	}
	return nil
}

// sink finds out where a sink is, and counts what is held for it.
func (sv *surveyor) sink(so SinkOptions) error {
	claim, known, err := sv.state.Claim(so.Name)
	if err != nil {
		return err
	}
	s := SinkSurvey{Name: so.Name, Paused: so.Paused || claim.Paused, New: !known, Claimed: claim.Settled}
	if s.New {
		claim.From = sv.in.Last
	}
	totals, err := sv.state.DeadLetters(so.Name).Totals()
	if err != nil {
		return err
	}
	s.DeadLetters, s.DeadLetterBytes, s.ParkedKeys = totals.Count, totals.Bytes, totals.ParkedKeys
	stored, err := sv.state.LaneMap(so.Name)
	if err != nil {
		return err
	}
	held, err := sv.state.Held(so.Name).Range()
	if err != nil {
		return err
	}
	s.Held = held.Records
	sv.locate(&s, so, claim, stored)
	at := make([]wal.LSN, len(s.Checkpoint.Lanes))
	for i, p := range s.Checkpoint.Lanes {
		at[i] = max(p.LSN, claim.From)
		if sv.r.FromLSN > 0 {
			at[i] = sv.r.FromLSN - 1
		}
	}
	s.Survey = replay.NewSurvey(so.Name, at, stored, sv.r.Collections)
	above := max(slices.Min(at), claim.Filled) // up to Filled nothing was routed to it
	if held.Through > above && slices.Min(at) >= held.Low {
		above = held.Through
	}
	if err := sv.heldOf(&s, slices.Min(at)); err != nil {
		return err
	}
	s.Refusal = sv.refusal(&s, claim, held)
	sv.found.Sinks = append(sv.found.Sinks, s)
	sv.above = append(sv.above, above)
	return nil
}

// locate asks the store, or takes what was noted.
func (sv *surveyor) locate(s *SinkSurvey, so SinkOptions, claim state.Claim, stored state.LaneMap) {
	store, ok := so.Sink.(sinks.Positioner)
	if !ok {
		s.Err = errors.New("its store cannot be asked")
	} else {
		ctx, cancel := context.WithTimeout(sv.ctx, positionTimeout)
		defer cancel()
		s.Checkpoint, s.Err = store.Position(ctx)
		s.Asked = s.Err == nil && len(s.Checkpoint.Lanes) > 0
	}
	if s.Asked {
		return
	}
	noted := sinks.Point{LSN: max(claim.Applied, claim.From)}
	lanes := 0
	for _, class := range stored.Classes {
		lanes += class.Lanes
	}
	if lanes == 0 {
		lanes = max(so.Loop.Lanes, 1)
	}
	s.Checkpoint = sinks.Checkpoint{Lanes: slices.Repeat([]sinks.Point{noted}, lanes)}
}

// refusal is what a start is known to refuse the sink with.
func (sv *surveyor) refusal(s *SinkSurvey, claim state.Claim, held state.HeldRange) error {
	switch {
	case errors.Is(s.Err, sinks.ErrNoCheckpoint) && claim.Settled:
		return fmt.Errorf("%w: sink %q was claimed, and its store holds none", replay.ErrCheckpointMissing, s.Name)
	case !s.Asked:
		return nil
	case s.Checkpoint.Stream != sv.in.Stream:
		return fmt.Errorf("%w: its checkpoint is of stream %s, the log is stream %s", replay.ErrForeignStream, s.Checkpoint.Stream, sv.in.Stream)
	}
	first := max(sv.in.First, 1)
	for i, p := range s.Checkpoint.Lanes {
		at := slices.IndexFunc(sv.in.Incarnations, func(b wal.Point) bool { return b.LSN > p.LSN })
		if at < 0 {
			at = len(sv.in.Incarnations)
		}
		follows := max(p.LSN, claim.From)
		switch {
		case p.LSN > sv.in.Last,
			!p.IsZero() && p.LSN+1 >= first && at > 0 && sv.in.Incarnations[at-1].Incarnation != p.Incarnation:
			return fmt.Errorf("%w: lane %d is at %v, which this log never held", replay.ErrDiverged, i, p)
		case follows+1 < first && (follows < held.Low || held.Through+1 < first):
			return fmt.Errorf("%w: lane %d is at %v, the log starts at LSN %d", replay.ErrBelowFirst, i, p, first)
		}
	}
	return nil
}

// heldOf counts what is held for the sink above low.
func (sv *surveyor) heldOf(s *SinkSurvey, low wal.LSN) error {
	for after := low; ; {
		page, upTo, err := sv.state.Held(s.Name).Read(after, heldPageBytes)
		if err != nil || upTo == after {
			return err
		}
		for _, rec := range page {
			if rec.LSN > sv.found.End {
				return nil
			}
			if !sv.r.Until.IsZero() {
				if later, err := acceptedLater(rec.Payload, sv.r.Until); later || err != nil {
					sv.found.End = min(sv.found.End, rec.LSN-1)
					return err
				}
			}
			s.Add(rec.LSN, rec.Payload, true)
		}
		after = upTo
	}
}

// read counts what the log has for all of them.
func (sv *surveyor) read() error {
	if len(sv.above) == 0 {
		return nil
	}
	var outline mutation.Outline
	for frame, err := range sv.in.Frames(slices.Min(sv.above) + 1) {
		if sv.ctx.Err() != nil {
			return context.Cause(sv.ctx)
		}
		var torn *wal.TornTailError
		switch {
		case errors.As(err, &torn), errors.Is(err, io.EOF):
			continue
		case err != nil:
			if sv.found.Refusal == nil {
				sv.found.Refusal = err
			}
			if !errors.Is(err, wal.ErrCorrupt) {
				return err
			}
			continue
		case frame.Gap:
			continue
		case frame.LSN > sv.found.End:
			return nil
		}
		if !sv.r.Until.IsZero() && outline.ReadRoutes(frame.Payload) == nil && time.Unix(0, outline.Accepted).After(sv.r.Until) {
			sv.found.End = frame.LSN - 1
			return nil
		}
		for i := range sv.found.Sinks {
			if frame.LSN > sv.above[i] {
				sv.found.Sinks[i].Add(frame.LSN, frame.Payload, false)
			}
		}
	}
	return nil
}
