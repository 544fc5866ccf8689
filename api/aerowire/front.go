package aerowire

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/command"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// In front of a cluster of Aerospike the records are the cluster's. A write that
// needs no answer from there is logged as it came and applied by the sink; whatever
// else a client wants is asked of the cluster, once the key's writes are applied:
// under the key's lock if it may change the record, so that it comes between the
// writes of before and those of after. Deletions are logged too, for what is deleted
// in the cluster alone would be brought back by a log that is applied again.

// Store is a cluster behind the endpoint: sinks/aerospike's Sink.
type Store interface {
	// Forward sends messages, each for one record, and returns a reply or an error for
	// each, with its outcome (sinks.OutcomeOf): Retry is surely not done, Unknown may
	// have been done. upTo is the highest LSN that a write to the record can have, all
	// of which are applied, and none is under way.
	Forward(ctx context.Context, messages []*codec.Message, upTo []walproxy.LSN) ([]*codec.Message, []error)
	// Call is Forward for a message that calls a function on its record; there: not on
	// one that is absent. removed, also beside an error: the record's deletion has to be
	// logged before anything is answered.
	Call(ctx context.Context, m *codec.Message, upTo walproxy.LSN, there bool) (reply *codec.Message, removed bool, err error)
	// Foresee says what is known of the answer to a message before it is sent, but for
	// codec.OK. ask: it is a write that may be refused, not to be logged unasked.
	Foresee(ctx context.Context, m *codec.Message) (result codec.Result, ask bool)
	// Info asks one node, or all.
	Info(ctx context.Context, command string, all bool) ([]string, error)
	// Scan sends a message that reads many records, calls f with each and returns what
	// the cluster says at the end. What f is given may hold what it says of partitions.
	Scan(ctx context.Context, m *codec.Message, f func(*codec.Message) error) (codec.Result, error)
	// Reserved reports that a set is walproxy's own.
	Reserved(namespace, set string) bool
	// Away says why nothing can be forwarded now; nil: something can. It does not wait.
	Away() error
}

// inDoubt is a forwarded write of which nobody knows whether it was done: its
// connection ends without an answer.
type inDoubt struct{ error }

func (d inDoubt) Unwrap() error { return d.error }

func (inDoubt) LSN() walproxy.LSN { return 0 }

func (inDoubt) Done() <-chan struct{} { return ended }

func (d inDoubt) Wait(context.Context) (walproxy.Result, error) { return walproxy.Result{}, d.error }

var ended = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

var _ api.Pending = inDoubt{}

// errPatience: the store was not asked, or did not answer, in Options.Patience.
var errPatience = errors.New("aerowire: the store did not answer in time")

// patient bounds how long a request waits for the store.
func (s *Server) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.o.Patience, errPatience)
}

// front does a message for one record that is the cluster's.
func (s *Server) front(ctx context.Context, o *operation) *answer {
	switch {
	case reservedBin(o.Message):
		return failed(codec.BinName)
	case s.o.Store.Reserved(o.namespace, o.set):
		return failed(codec.Forbidden)
	}
	result, mustAsk := s.o.Store.Foresee(ctx, o.message())
	switch {
	case result != codec.OK:
		return failed(result)
	case o.Info2&codec.Info2Write == 0 && o.Info1&codec.Info1Read != 0:
		return s.ask(ctx, o)
	case o.Info2&codec.Info2Write == 0:
		return failed(codec.Parameter)
	case o.calls():
		return s.hold(ctx, o, s.callHeld)
	case o.Info2&codec.Info2Delete != 0 && s.o.LogDeletes && o.unconditional() && !mustAsk:
		return s.logged(s.o.Core.Append(ctx, o.deletion()))
	case o.Info2&codec.Info2Delete != 0:
		return s.hold(ctx, o, s.removeHeld)
	}
	plain, err := o.plain(s.o.MaxRecordBytes)
	switch {
	case err != nil:
		return s.failure(err)
	case plain && !mustAsk:
		return s.logged(s.o.Core.Append(ctx, o.command()))
	}
	return s.hold(ctx, o, s.forwardHeld)
}

// logged answers a write that is answered once it is durable. Its generation is not
// known.
func (s *Server) logged(p api.Pending, err error) *answer {
	if err != nil {
		return s.failure(err)
	}
	return &answer{pending: p}
}

// reservedBin reports that a message writes a bin that is walproxy's own there.
func reservedBin(m *codec.Message) bool {
	return m.Info2&codec.Info2Write != 0 && slices.ContainsFunc(m.Ops, func(op codec.Op) bool {
		return bytes.HasPrefix(op.Name, []byte(command.Reserved))
	})
}

// ask answers a read once every write to the key that was acknowledged is applied.
func (s *Server) ask(ctx context.Context, o *operation) *answer {
	if err := s.o.Store.Away(); err != nil {
		return failed(codec.Unavailable)
	}
	ctx, cancel := s.patient(ctx)
	defer cancel()
	var a *answer
	err := s.o.Core.See(ctx, o.collection(), o.documentKey(), func(ctx context.Context) error {
		a = s.forward(ctx, o.message(), 0)
		return nil
	})
	if err != nil {
		return failed(s.late(err))
	}
	return a
}

// hold does a message under its key's lock, with all writes to the key applied.
func (s *Server) hold(ctx context.Context, o *operation, f func(context.Context, *operation, api.Held) *answer) *answer {
	if err := s.o.Store.Away(); err != nil {
		return failed(codec.Unavailable)
	}
	ctx, cancel := s.patient(ctx)
	defer cancel()
	var a *answer
	err := s.o.Core.Hold(ctx, o.collection(), o.documentKey(), func(ctx context.Context, h api.Held) error {
		a = f(ctx, o, h)
		return nil
	})
	if err != nil {
		return failed(s.late(err))
	}
	return a
}

func (s *Server) forwardHeld(ctx context.Context, o *operation, h api.Held) *answer {
	return s.forward(ctx, o.message(), h.UpTo())
}

// removeHeld asks whether the record is there, and as it is to be, and logs the
// deletion.
func (s *Server) removeHeld(ctx context.Context, o *operation, h api.Held) *answer {
	m := o.message()
	m.Header = codec.Header{Info1: codec.Info1Read | codec.Info1NoBins, Timeout: m.Timeout}
	m.Ops = nil
	there := s.forward(ctx, m, h.UpTo())
	if there.Result != codec.OK || there.pending != nil {
		return there
	}
	if err := o.checkGeneration(&record{generation: there.Generation}); err != nil {
		return failed(resultOf(err))
	}
	return s.logged(h.Submit(ctx, o.deletion()))
}

// forward sends one message and answers what the cluster does.
func (s *Server) forward(ctx context.Context, m *codec.Message, upTo walproxy.LSN) *answer {
	replies, errs := s.o.Store.Forward(ctx, []*codec.Message{m}, []walproxy.LSN{upTo})
	return s.replied(m, replies[0], errs[0])
}

// replied is the answer that a reply, or the lack of one, makes.
func (s *Server) replied(m *codec.Message, reply *codec.Message, err error) *answer {
	if err == nil {
		return &answer{Header: reply.Header, ops: reply.Ops}
	}
	switch sinks.OutcomeOf(err) {
	case sinks.Retry:
	case sinks.Unknown:
		if m.Info2&codec.Info2Write != 0 {
			return &answer{pending: inDoubt{err}}
		}
	case sinks.Rejected:
		s.log.Debug("a message was not forwarded", zap.Error(err))
		return failed(codec.Parameter)
	default:
		s.log.Warn("the cluster is not as it must be", zap.Error(err))
	}
	return failed(codec.Unavailable)
}

// late is the result of a request whose key was not applied in time, or could not be.
func (s *Server) late(err error) codec.Result {
	if errors.Is(err, errPatience) {
		return codec.Unavailable
	}
	return s.told(err)
}

// message is o as a message of its own: one of a batch has its names elsewhere.
func (o *operation) message() *codec.Message {
	m := &codec.Message{Header: o.Header, Ops: o.Ops}
	m.Info1 &^= codec.Info1Batch | codec.Info1Compress
	m.Fields = append(m.Fields, codec.Field{Type: codec.FieldNamespace, Data: []byte(o.namespace)})
	if o.set != "" {
		m.Fields = append(m.Fields, codec.Field{Type: codec.FieldSet, Data: []byte(o.set)})
	}
	m.Fields = append(m.Fields, codec.Field{Type: codec.FieldDigest, Data: o.digest[:]})
	if o.key.Type != 0 {
		m.Fields = append(m.Fields, codec.Field{Type: codec.FieldKey, Data: append([]byte{o.key.Type}, o.key.Data...)})
	}
	if o.rawFilter != nil {
		m.Fields = append(m.Fields, codec.Field{Type: codec.FieldFilter, Data: o.rawFilter})
	}
	if o.calls() {
		for _, f := range o.Fields {
			switch f.Type {
			case codec.FieldUDFPackage, codec.FieldUDFFunction, codec.FieldUDFArguments:
				m.Fields = append(m.Fields, f)
			}
		}
	}
	return m
}

// command is o as a record of the log.
func (o *operation) command() *walproxyv1.Record {
	m := o.message()
	m.Header = codec.Header{Info2: m.Info2, Info3: m.Info3 &^ info3CommitMaster, TTL: m.TTL}
	return &walproxyv1.Record{Body: &walproxyv1.Record_Command{Command: &walproxyv1.Command{
		Message: codec.AppendMessage(nil, m), Collection: o.collection(), Key: o.documentKey(),
	}}}
}

func (o *operation) deletion() *walproxyv1.Record {
	return &walproxyv1.Record{Body: &walproxyv1.Record_Mutation{Mutation: mutation.Delete(o.collection(), o.documentKey())}}
}
