package aerowire

import (
	"context"

	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// calls reports that the message calls a user-defined function on its record.
func (o *operation) calls() bool {
	_, is := o.Field(codec.FieldUDFPackage)
	return is && o.Info2&codec.Info2Write != 0
}

// callHeld has a function called, under its record's lock. A function is never logged:
// nobody can say what it does to another record than this. What it removes is logged as
// a deletion, for the log has what there was.
func (s *Server) callHeld(ctx context.Context, o *operation, h api.Held) *answer {
	m := o.message()
	reply, removed, err := s.o.Store.Call(ctx, m, h.UpTo(), o.there)
	a := s.replied(m, reply, err)
	if !removed || a.pending != nil {
		return a
	}
	pending, err := h.Submit(ctx, o.deletion())
	if err != nil {
		return &answer{pending: inDoubt{err}}
	}
	a.pending = pending
	return a
}
