package aerowire

import (
	"context"
	"fmt"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// A list of a million small numbers is a megabyte in a record and a hundred while
// it is worked on. So an operation says what it needs before it decodes: little is
// free, more is reserved. It cannot wait where it finds out, under the key's lock:
// it ends, and is begun anew once there is room.

// freeRoom is what every operation may take.
const freeRoom = 64 << 10

// roomPerByte is more than value.Room says of any byte.
const roomPerByte = 128

// noRoom ends an operation that needs so many bytes.
type noRoom int64

// Error implements error.
func (n noRoom) Error() string { return fmt.Sprintf("aerowire: %d bytes are needed", int64(n)) }

// need returns nil if there are n bytes for what o is about to decode.
func (o *operation) need(n int64) error {
	if n += o.filterRoom; n > max(o.room, freeRoom) {
		return noRoom(n)
	}
	return nil
}

// one does a message for one record, with the room that it needs.
func (s *Server) one(ctx context.Context, o *operation) *answer {
	var held int64
	defer func() { s.decoded.Release(held) }()
	for {
		a := s.attempt(ctx, o)
		if a.needs == 0 {
			return a
		}
		s.decoded.Release(held)
		held = 0
		o.forgetFilter()
		if a.needs > s.decodedMax {
			return failed(codec.RecordTooBig)
		}
		if err := s.decoded.Acquire(ctx, a.needs); err != nil {
			return failed(resultOf(err))
		}
		held, o.room = a.needs, a.needs
	}
}

// reserve waits for room for a filter of many records; the caller releases it.
func (s *Server) reserve(ctx context.Context, filter []byte) (release func(), err error) {
	n := value.Room(filter)
	if n <= freeRoom {
		return func() {}, nil
	}
	if n > s.decodedMax {
		return nil, codec.Parameter
	}
	if err := s.filters.Acquire(ctx, n); err != nil {
		return nil, err
	}
	return func() { s.filters.Release(n) }, nil
}

// room of a record whose bins are looked at by an expression.
func (r *record) room() int64 {
	n := int64(0)
	for _, b := range r.bins {
		n += particleRoom(b.particle)
	}
	return n
}

func particleRoom(p value.Particle) int64 {
	if p.Type == value.ParticleList || p.Type == value.ParticleMap {
		return value.Room(p.Data)
	}
	return int64(len(p.Data))
}
