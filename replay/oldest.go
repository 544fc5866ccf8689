package replay

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// oldestMax bounds how many records Oldest looks at.
const oldestMax = 10_000

// Oldest tells when the first record above after that the sink gets was accepted, and
// its LSN; ok is false if there is none up to through. Of more than 10,000 records of
// others it tells of the last that it has seen, which is older than the sink's. It
// reads the held records and the log, and waits for nothing. Errors are theirs.
func (l *Loop) Oldest(ctx context.Context, after, through wal.LSN) (lsn wal.LSN, accepted time.Time, ok bool, err error) {
	if after >= through {
		return 0, time.Time{}, false, nil
	}
	s := l.newSource(max(after, wal.LSN(l.from.Load())))
	defer func() { err = errors.Join(err, s.close()) }()
	var outline mutation.Outline
	for n := 1; s.at < through; n++ {
		r, err := s.next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return 0, time.Time{}, false, nil
		case err != nil:
			return 0, time.Time{}, false, err
		case r.skip || r.IsGap():
			continue
		}
		if err := outline.ReadRoutes(r.Payload); err != nil {
			return 0, time.Time{}, false, err
		}
		if n < oldestMax && !outline.Routed(l.o.Name) {
			continue
		}
		body, err := mutation.Decode(r.Payload)
		return r.LSN, time.Unix(0, body.GetAcceptedUnixNanos()), err == nil, err
	}
	return 0, time.Time{}, false, nil
}
