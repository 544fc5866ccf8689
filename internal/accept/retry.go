package accept

import (
	"context"
	"errors"
	"fmt"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
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
// alone; with what body of instead says if that is not nil. Once the sink passes
// that, the dead letter is gone; a second retry of it is passed without effect. It
// keeps its place in the queues of its keys. Errors are those of Submit.
func (a *Acceptor) Retry(ctx context.Context, letter *state.DeadLetter, instead *walproxyv1.Record) (*Pending, error) {
	rec, err := letter.Record()
	if err != nil {
		return nil, err
	}
	if instead != nil {
		rec.Body = instead.GetBody()
	}
	rec.Origin = &walproxyv1.Origin{Lsn: uint64(letter.LSN), Sink: letter.Sink}
	return a.Submit(ctx, rec)
}

// SubmitTo is Submit, to one sink alone, whatever the routes say.
func (a *Acceptor) SubmitTo(ctx context.Context, sink string, w *walproxyv1.Record) (*Pending, error) {
	to := a.router.Load().bySink[sink]
	if to == nil {
		return nil, &mutation.InvalidError{Field: "sink", Reason: fmt.Sprintf("there is no sink %q", sink)}
	}
	return a.submitRouted(ctx, w, to, true)
}
