package aerowire

import (
	"context"
	"time"

	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// answer to one operation.
type answer struct {
	codec.Header
	ops []codec.Op
	// pending is what must be durable before the answer goes out; nil: nothing.
	pending api.Pending
	kind    kind
	began   time.Time // when the message was there
	// needs is how much room the operation wants that is not done for lack of it.
	needs int64
}

func failed(r codec.Result) *answer { return &answer{Header: codec.Header{Result: r}} }

// of tells of the record that was answered.
func (a *answer) of(r *record) *answer {
	if r != nil {
		a.Generation, a.TTL = r.generation, r.voidTime()
	}
	return a
}

// wait returns nil once a may go out. An error means that the outcome of a write
// is unknown.
func (a *answer) wait(ctx context.Context) error {
	if a.pending == nil {
		return nil
	}
	_, err := a.pending.Wait(ctx)
	return err
}

// append appends a as a message of its own.
func (a *answer) append(dst []byte) []byte {
	start := len(dst)
	dst = codec.AppendProto(dst, codec.TypeMessage, 0)
	dst = a.appendBody(dst)
	codec.SetProto(dst[start:], codec.TypeMessage)
	return dst
}

func (a *answer) appendBody(dst []byte) []byte {
	dst = codec.AppendHeader(dst, &a.Header, 0, len(a.ops))
	for i := range a.ops {
		dst = codec.AppendOp(dst, &a.ops[i])
	}
	return dst
}

// stream sends answers of several records: messages with many records each, and
// one that says that it was the last.
type stream struct {
	ctx     context.Context
	write   func([]byte) error
	frame   []byte
	waiting []*answer    // in frame, whose writes are not known to be durable
	result  codec.Result // that it ended with
}

// streamBytes is how large a message of many records grows.
const streamBytes = 128 << 10

func newStream(ctx context.Context, write func([]byte) error) *stream {
	return &stream{ctx: ctx, write: write, frame: codec.AppendProto(nil, codec.TypeMessage, 0)}
}

// add sends one record's answer, sooner or later.
func (s *stream) add(a *answer) error {
	s.frame = a.appendBody(s.frame)
	if a.pending != nil {
		s.waiting = append(s.waiting, a)
	}
	return s.full()
}

// drop forgets the answers that are not sent yet; their writes are waited for.
func (s *stream) drop() { s.frame = s.frame[:codec.ProtoBytes] }

// full sends the message if it is large enough.
func (s *stream) full() error {
	if len(s.frame) < streamBytes {
		return nil
	}
	return s.flush()
}

func (s *stream) flush() error {
	for _, a := range s.waiting {
		if err := a.wait(s.ctx); err != nil {
			return err
		}
	}
	s.waiting = s.waiting[:0]
	if len(s.frame) == codec.ProtoBytes {
		return nil
	}
	codec.SetProto(s.frame, codec.TypeMessage)
	err := s.write(s.frame)
	s.frame = s.frame[:codec.ProtoBytes]
	return err
}

// refuse sends what is left and an error, which is the end of a scan.
func (s *stream) refuse(r codec.Result) error {
	s.result = r
	s.frame = codec.AppendHeader(s.frame, &codec.Header{Result: r}, 0, 0)
	return s.flush()
}

// last sends what is left and the end.
func (s *stream) last(r codec.Result) error {
	s.result = r
	end := codec.Header{Info3: codec.Info3Last, Result: r}
	s.frame = codec.AppendHeader(s.frame, &end, 0, 0)
	return s.flush()
}
