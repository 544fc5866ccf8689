package replay

import (
	"context"
	"errors"
	"fmt"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/wal"
)

// heldPageBytes bounds the memory of held records that were read ahead. One
// larger record always passes.
const heldPageBytes = 1 << 20

// source is what a pipeline reads: the records from an LSN on, in LSN order. They
// come from the held records as long as these continue what was read, else from
// the log. A record may be in both: it is the same one. Not for concurrent use.
type source struct {
	loop   *Loop
	at     wal.LSN     // everything at or below it was returned
	reader *wal.Reader // of the log, from at+1 on; nil: none is open

	page []state.HeldRecord // held, not returned yet
	upTo wal.LSN            // above the last of page nothing is held up to here
}

// read is one step of a source.
type read struct {
	wal.Record // Payload is valid until the next call
	// skip: the record is not for this sink, nor is any between it and the one
	// before. It has no payload.
	skip bool
}

// newSource returns a source of what follows at. It opens nothing until it is
// asked for the first record.
func (l *Loop) newSource(at wal.LSN) *source { return &source{loop: l, at: at} }

// next returns the next record. Errors are those of wal.Reader.Next and of the
// state store.
func (s *source) next(ctx context.Context) (read, error) {
	for {
		switch {
		case len(s.page) > 0:
			return s.fromPage(), nil
		case s.upTo > s.at:
			s.at = s.upTo
			return read{Record: wal.Record{LSN: s.at}, skip: true}, nil
		case s.reader == nil:
			if err := s.open(ctx); err != nil {
				return read{}, err
			}
			continue
		}
		record, err := s.reader.Next(ctx)
		if err == nil {
			s.at = record.Last()
			return read{Record: record}, nil
		}
		if err := s.freed(err); err != nil {
			return read{}, err
		}
	}
}

// open reads a page of held records or, if they do not continue what was read,
// opens the log.
func (s *source) open(ctx context.Context) (err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.page, s.upTo, err = s.loop.held.Read(s.at, heldPageBytes)
	if err != nil || s.upTo > s.at {
		return err
	}
	s.reader, err = s.loop.log.NewReader(s.at + 1)
	if err != nil {
		s.reader = nil
		return s.freed(err)
	}
	return nil
}

// freed returns nil if err says that the log freed what follows at, and that is
// held meanwhile.
func (s *source) freed(err error) error {
	if !errors.Is(err, wal.ErrBelowFirst) {
		return err
	}
	held, rangeErr := s.loop.held.Range()
	if rangeErr != nil || !held.Continues(s.at) {
		return errors.Join(err, rangeErr)
	}
	err = s.close()
	s.reader = nil
	return err
}

// atHand is next as far as it goes without waiting; ok is false if it would have
// to, or fail.
func (s *source) atHand() (r read, ok bool) {
	switch {
	case len(s.page) > 0:
		return s.fromPage(), true
	case s.upTo > s.at || s.reader == nil:
		return read{}, false
	}
	record, ok, err := s.reader.AtHand()
	if !ok || err != nil {
		return read{}, false // next gets the same error
	}
	s.at = record.Last()
	return read{Record: record}, true
}

func (s *source) fromPage() read {
	r := s.page[0]
	s.page[0], s.page = state.HeldRecord{}, s.page[1:]
	s.at = r.LSN
	return read{Record: wal.Record{LSN: r.LSN, Payload: r.Payload}}
}

// close lets go of the log's reader.
func (s *source) close() error {
	if s.reader == nil {
		return nil
	}
	if err := s.reader.Close(); err != nil {
		return fmt.Errorf("replay: sink %q: close the log's reader: %w", s.loop.o.Name, err)
	}
	return nil
}
