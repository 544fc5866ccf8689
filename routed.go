package walproxy

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/walproxy/walproxy/internal/accept"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// recentRoutes remembers where the last writes went, so that who waits for one
// waits for its sinks alone. A slot holds an LSN and its route's number, as one
// word: an older write's is lost when a newer one takes its slot.
type recentRoutes struct {
	slots [1 << 14]atomic.Uint64
}

const routeBits = 16

func (r *recentRoutes) note(w *accept.Pending) {
	if number, ok := w.Route(); ok && number < 1<<routeBits {
		r.slots[w.LSN()%wal.LSN(len(r.slots))].Store(uint64(w.LSN())<<routeBits | uint64(number))
	}
}

func (r *recentRoutes) find(lsn wal.LSN) (number int, ok bool) {
	word := r.slots[lsn%wal.LSN(len(r.slots))].Load()
	return int(word & (1<<routeBits - 1)), wal.LSN(word>>routeBits) == lsn
}

// routed tells the sinks that the durable write lsn was routed to: of a recent
// one from memory, else from the log. ok is false if the log has freed it, or
// cannot be read.
func (p *Proxy) routed(ctx context.Context, lsn LSN) (names []string, ok bool) {
	if number, ok := p.recent.find(lsn); ok {
		return p.acceptor.Routed(number), true
	}
	reader, err := p.log.NewReader(lsn)
	if err != nil {
		return nil, false
	}
	defer func() { _ = reader.Close() }() // of a file that was read
	rec, err := reader.Next(ctx)
	if err != nil || rec.IsGap() {
		return nil, false
	}
	body, err := mutation.Decode(rec.Payload)
	if err != nil {
		return nil, false
	}
	return body.GetRoutes(), true
}

// routedSinks are the sinks that the durable write lsn may have to reach yet, or
// all of them if where it went is not known.
func (p *Proxy) routedSinks(ctx context.Context, lsn LSN) []*sink {
	behind := slices.ContainsFunc(p.sinks, func(s *sink) bool { return s.loop().Applied() < lsn })
	if len(p.sinks) == 1 || !behind {
		return p.sinks
	}
	names, ok := p.routed(ctx, lsn)
	if !ok {
		return p.sinks
	}
	return slices.DeleteFunc(slices.Clone(p.sinks), func(s *sink) bool {
		return lsn <= s.from || !slices.Contains(names, s.name)
	})
}
