package replay

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrRejectLimit: as many records as a RejectLimit allows were rejected and made
// dead letters. Nothing is lost: what follows is where it was.
var ErrRejectLimit = errors.New("replay: the limit of rejected records is reached")

// RejectLimit bounds how many records become dead letters because a store rejected
// them, in all loops that share it together: the loop that makes the last of them
// moves its checkpoint past it and ends with ErrRejectLimit; another one ends where
// it would make one more. Records that are parked behind a rejected one do not
// count.
type RejectLimit struct {
	most int64
	made atomic.Int64
}

// NewRejectLimit allows n records, at least one.
func NewRejectLimit(n int) *RejectLimit { return &RejectLimit{most: int64(max(n, 1))} }

// take allows one more; a nil limit always does.
func (r *RejectLimit) take() bool { return r == nil || r.made.Add(1) <= r.most }

func (r *RejectLimit) reached() bool { return r != nil && r.made.Load() >= r.most }

func (p *pipeline) haltAtLimit() {
	p.halt(fmt.Errorf("%w: sink %q: %d records", ErrRejectLimit, p.loop.o.Name, p.loop.o.Rejects.most))
}

// mayReject counts a record that is about to become a dead letter; false: stop.
func (p *pipeline) mayReject() bool {
	if p.loop.o.Rejects.take() {
		return true
	}
	p.haltAtLimit()
	return false
}
