package aerowire

import (
	"context"
	"errors"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// resultOf is the table of errors: what a client is told of an error of which it
// is known that nothing was logged. A write whose outcome is unknown gets no
// answer at all: its connection is closed.
func resultOf(err error) codec.Result {
	if err == nil {
		return codec.OK
	}
	if r, ok := errors.AsType[codec.Result](err); ok {
		return r
	}
	for _, c := range []struct {
		is error
		to codec.Result
	}{
		{mutation.ErrNotFound, codec.NotFound},
		{wal.ErrFull, codec.OutOfSpace},
		{wal.ErrTooLarge, codec.RecordTooBig},
		{walproxy.ErrBehind, codec.DeviceOverload},
		{walproxy.ErrParked, codec.KeyBusy}, // before what it may stand within
		{walproxy.ErrVersionUnknown, codec.Unavailable},
		{walproxy.ErrDirect, codec.KeyBusy},
		{walproxy.ErrHalted, codec.Unavailable},
		{walproxy.ErrPaused, codec.Unavailable},
		{walproxy.ErrNoReader, codec.Unsupported},
		{walproxy.ErrUnroutable, codec.NamespaceNotFound},
		{walproxy.ErrDraining, codec.Unavailable},
		{walproxy.ErrClosed, codec.Unavailable},
		{wal.ErrPoisoned, codec.Unavailable},
		{sinks.ErrAway, codec.Unavailable},
		{context.DeadlineExceeded, codec.Timeout},
		{context.Canceled, codec.Unavailable},
	} {
		if errors.Is(err, c.is) {
			return c.to
		}
	}
	if _, ok := errors.AsType[*mutation.InvalidError](err); ok {
		return codec.Parameter
	}
	if _, ok := errors.AsType[*mutation.RejectedError](err); ok {
		return codec.RecordTooBig // the only rejection of a set of bins
	}
	if o, ok := errors.AsType[*sinks.OutcomeError](err); ok && o.Outcome != sinks.Rejected {
		return codec.Unavailable // of a read: the store did not answer, or is not the right one
	}
	return codec.Unknown
}
