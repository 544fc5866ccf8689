package replay

import (
	"context"
	"errors"

	"github.com/walproxy/walproxy/wal"
)

// sealed returns the last LSN of each segment that takes no more records.
func (r *rig) sealed() (last []wal.LSN) {
	for _, e := range r.log.Extents() {
		if e.Sealed && e.Last >= e.First {
			last = append(last, e.Last)
		}
	}
	return last
}

// hold copies l's records up to through out of the log, and frees it.
func (r *rig) hold(l *Loop, through wal.LSN) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.Hold(ctx, through); err != nil && !errors.Is(err, wal.ErrBelowFirst) {
		r.t.Fatalf("Hold(%d): %v", through, err)
	} else if err == nil && l.Needs() <= through {
		r.t.Fatalf("Needs() = %d after Hold(%d)", l.Needs(), through)
	}
	r.log.Release(l.Needs())
}
