package accept

import (
	"errors"
	"fmt"

	"github.com/walproxy/walproxy/wal"
)

// ErrBehind: a sink that the write is routed to is too far behind; *BehindError.
// Nothing was logged: try again later.
var ErrBehind = errors.New("a sink is too far behind")

// BehindError names the sink that holds up a write.
type BehindError struct {
	Sink string
	// LagBytes of the log are routed to the sink and not passed by it yet; with
	// the write they would be more than MaxLagBytes.
	LagBytes, MaxLagBytes int64
}

func (e *BehindError) Error() string {
	return fmt.Sprintf("%v: %s lags by %d bytes; its max_lag_bytes is %d", ErrBehind, e.Sink, e.LagBytes, e.MaxLagBytes)
}

// Unwrap returns ErrBehind.
func (e *BehindError) Unwrap() error { return ErrBehind }

// Lag is what was routed to a sink and not passed by it yet. Calls may be
// concurrent; none waits.
type Lag interface {
	// Admit returns *BehindError if so many bytes more are too much.
	Admit(bytes int) error
	// Added counts a record that has its LSN. Calls come in that order.
	Added(lsn wal.LSN, bytes int)
}

// admit returns *BehindError if a sink of w's route is too far behind. A retry of
// a dead letter passes: it is what the sink gave back, and may be what it takes
// to let the sink go on.
func (w *write) admit(bytes int) error {
	if w.retry() {
		return nil
	}
	for _, lag := range w.route.lags {
		if err := lag.Admit(bytes); err != nil {
			return err
		}
	}
	return nil
}

func (w *write) added(lsn wal.LSN, bytes int) {
	for _, lag := range w.route.lags {
		lag.Added(lsn, bytes)
	}
}
