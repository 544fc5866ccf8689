package replay

import (
	"context"
	"fmt"

	"github.com/walproxy/walproxy/wal"
)

// source is what a pipeline reads: the records from an LSN on, in LSN order. Not
// for concurrent use.
type source struct {
	loop   *Loop
	at     wal.LSN     // everything at or below it was returned
	reader *wal.Reader // of the log, from at+1 on; nil: none is open
}

// read is one step of a source.
type read struct {
	wal.Record // Payload is valid until the next call
	// skip: the record is not for this sink, nor is any between it and the one
	// before. It has no payload.
	skip bool
}

// newSource returns a source of what follows at. It opens the log's reader when
// it is asked for the first record.
func (l *Loop) newSource(at wal.LSN) *source { return &source{loop: l, at: at} }

// next returns the next record. Errors are those of wal.Reader.Next.
func (s *source) next(ctx context.Context) (read, error) {
	if s.reader == nil {
		reader, err := s.loop.log.NewReader(s.at + 1)
		if err != nil {
			return read{}, err
		}
		s.reader = reader
	}
	record, err := s.reader.Next(ctx)
	if err != nil {
		return read{}, err
	}
	s.at = record.LSN
	return read{Record: record}, nil
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
