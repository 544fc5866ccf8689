package aerospike

import (
	"context"
	"errors"
	"time"

	"github.com/walproxy/walproxy/sinks"
)

// owner claims the stream and keeps its checkpoints.
type owner struct{ sink *Sink }

func newOwner(s *Sink) *owner { return &owner{sink: s} }

// turn is a batch's right to apply: its lanes are taken, and the checkpoints are
// where the batch goes from, or where it goes to already.
type turn struct {
	done    bool   // it was applied before
	guard   string // the stream's bin
	release func() // gives the lanes back; always called
}

var errNotYet = errors.New("sink aerospike: not implemented yet")

// begin gives b its turn, or refuses it (sinks.ErrFenced and the like). Nothing of
// b is applied before.
func (o *owner) begin(ctx context.Context, b *sinks.Batch) (*turn, error) { return nil, errNotYet }

// advance moves the checkpoints to where b goes, after its records are applied.
func (o *owner) advance(ctx context.Context, b *sinks.Batch, t *turn) error { return errNotYet }

// floor, note and lost are the window of the turn.
func (t *turn) floor(digest [20]byte) sinks.LSN { return 0 }
func (t *turn) note(p Place, digest [20]byte, last sinks.LSN, dead bool, expires time.Time) {
}
func (t *turn) lost(ctx context.Context) error { return nil }

// readFloor is floor for readers.
func (s *Sink) readFloor(digest [20]byte) sinks.LSN { return 0 }

// guard is the bin that holds the versions of the set's records: of the stream that
// owns it, claimed or not. "": nobody has claimed it yet.
func (o *owner) guard(ctx context.Context) (string, error) { return "", errNotYet }

// end tells what the owner runs to stop, join waits for it.
func (o *owner) end()  {}
func (o *owner) join() {}

// Resume implements sinks.Sink.
func (s *Sink) Resume(ctx context.Context, claim sinks.Claim) (sinks.Checkpoint, error) {
	return sinks.Checkpoint{}, errNotYet
}
