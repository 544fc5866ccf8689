package accept

import (
	"context"
	"errors"
	"fmt"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/wal"
)

// ErrParked: writes to the key that were acknowledged are dead letters;
// *ParkedError.
var ErrParked = errors.New("the key is parked behind a dead letter")

// ParkedError names the dead letter that keeps a key's writes from the store.
type ParkedError struct {
	Sink string
	LSN  wal.LSN
}

func (e *ParkedError) Error() string {
	return fmt.Sprintf("%v: LSN %d at sink %s", ErrParked, e.LSN, e.Sink)
}

// Unwrap returns ErrParked.
func (e *ParkedError) Unwrap() error { return ErrParked }

// Retry appends the record of a dead letter again, under a new LSN, to its sink
// alone. Once the sink passes that, the dead letter is gone; a second retry of it
// is passed without effect. It keeps its place in the queues of its keys. Errors
// are those of Submit.
func (a *Acceptor) Retry(ctx context.Context, letter *state.DeadLetter) (*Pending, error) {
	rec, err := letter.Record()
	if err != nil {
		return nil, err
	}
	rec.Origin = &walproxyv1.Origin{Lsn: uint64(letter.LSN), Sink: letter.Sink}
	return a.Submit(ctx, rec)
}
