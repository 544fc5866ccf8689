package aerospike

import (
	"context"
	"errors"
	"slices"

	as "github.com/aerospike/aerospike-client-go/v7"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
	"github.com/walproxy/walproxy/sinks"
)

// Forward sends messages to the cluster, each for one record, which it names by
// namespace and digest, and returns a reply or an error for each. A reply is what
// the server said, but for what walproxy keeps in a record, which is not shown and
// not lost: a record that was deleted and has left its guard is absent, and one that
// is replaced keeps it. What the server refuses is a reply with its result.
//
// Errors have outcomes (sinks.OutcomeOf): Retry is surely not done, and is
// sinks.ErrAway where that was known without asking; Unknown may have been done,
// and is said of writes only; Halt is a cluster that is not as it must be; Rejected
// a message that cannot be forwarded: a deletion (its guard would be lost, and what
// was written before could come back: it has to be logged), a function (see Call), or
// one for many records. A write to a set of another log is refused: codec.Forbidden.
//
// Messages go over the client's own connections, many in a row where they are for
// one node. They wait for each other in no order: the caller sees to it that no two
// writes to one record are under way. ctx and the sink's time-outs bound the wait.
//
// upTo is, for each message, the highest LSN that a write to its record can have: all
// of these are applied, and a later one waits for the reply. 0, or no upTo: there is
// none. A write sets the guard to it. So it counts for the log as what was written up
// to there: nothing of before is applied over it again, and it is not done itself once
// something later was.
func (s *Sink) Forward(ctx context.Context, messages []*codec.Message, upTo []sinks.LSN) ([]*codec.Message, []error) {
	replies, errs := make([]*codec.Message, len(messages)), make([]error, len(messages))
	fail := func(err error) ([]*codec.Message, []error) {
		for i := range errs {
			errs[i] = err
		}
		return replies, errs
	}
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return fail(err)
	}
	defer leave()
	client, err := s.connected(ctx)
	if err != nil {
		return fail(err)
	}
	guard, err := s.owner.guard(ctx)
	if err != nil {
		return fail(err)
	}
	f := &forwarding{sink: s, client: client, guard: guard}
	var list []*forward
	for i, m := range messages {
		w := &forward{index: i, sent: m}
		if i < len(upTo) {
			w.upTo = upTo[i]
		}
		f.admit(ctx, w)
		list = append(list, w)
	}
	f.run(ctx, list)
	for _, w := range list {
		if errs[w.index] = w.err; w.err == nil {
			replies[w.index] = w.shown()
		}
	}
	return replies, errs
}

var (
	errDeletes = errors.New("sink aerospike: a deletion is logged, not forwarded")
	errCalls   = errors.New("sink aerospike: a function is not forwarded as a write is")
	errMany    = errors.New("sink aerospike: the message is not for one record")
	errOwnSet  = errors.New("sink aerospike: the set is walproxy's own")
)

// admit finds w's record and whether a message for it may be forwarded: a write only
// by the owner of the stream, and to a set that is the stream's. One to another log's
// set is refused as by a server, for clients, and said to whoever runs this one.
func (f *forwarding) admit(ctx context.Context, w *forward) {
	w.message = w.sent
	if w.key, w.err = keyOfMessage(w.sent); w.err != nil {
		return
	}
	if w.err = f.sink.forwardable(w.sent, w.key); w.err != nil || !w.writes() {
		return
	}
	w.err = f.sink.owner.writable(ctx, w.place())
	if foreign, is := errors.AsType[*SetError](w.err); is {
		f.sink.log.Warn("a write was refused", zap.Error(foreign))
		w.reply, w.err = refusal(codec.Forbidden), nil
	}
}

// forwardable is why a message may not be forwarded.
func (s *Sink) forwardable(m *codec.Message, key *as.Key) error {
	_, batch := m.Field(codec.FieldBatch)
	_, withSet := m.Field(codec.FieldBatchWithSet)
	switch {
	case batch || withSet:
		return rejected(errMany)
	case m.Info2&codec.Info2Delete != 0:
		return rejected(errDeletes)
	case calls(m):
		return rejected(errCalls)
	case s.Reserved(key.Namespace(), key.SetName()):
		return rejected(errOwnSet)
	}
	return nil
}

// Reserved reports that a set is walproxy's own: of checkpoints, or of who owns a set.
// Clients neither see nor write it.
func (s *Sink) Reserved(namespace, set string) bool {
	return set == claimsSet || s.o.State == Place{namespace, set}
}

// keyOfMessage is the record that a message is for, by its digest.
func keyOfMessage(m *codec.Message) (*as.Key, error) {
	namespace, _ := m.Field(codec.FieldNamespace)
	set, _ := m.Field(codec.FieldSet)
	digest, _ := m.Field(codec.FieldDigest)
	if len(namespace) == 0 || len(digest) != codec.DigestBytes {
		return nil, rejected(errMany)
	}
	key, err := as.NewKeyWithDigest(string(namespace), string(set), nil, digest)
	if err != nil {
		return nil, rejected(err)
	}
	return key, nil
}

// forward is one message of a Forward.
type forward struct {
	parcel
	index int
	sent  *codec.Message // by the caller
	kept  sinks.LSN      // the record's guard, where it was looked at
	dead  bool           // only the guard of it is left
	upTo  sinks.LSN      // that a write to it can have
	floor sinks.LSN      // what it surely has; see guarded
}

// forwarding is one Forward under way.
type forwarding struct {
	sink   *Sink
	client *as.Client
	guard  string // empty: nobody has claimed anything yet, so there are none
}

// rises is how often a record may be deleted for good or made anew while a message
// for it is on its way.
const rises = 3

func (f *forwarding) run(ctx context.Context, list []*forward) {
	list = slices.DeleteFunc(slices.Clone(list), func(w *forward) bool { return w.err != nil || w.reply != nil })
	for _, w := range list {
		w.floor = f.sink.readFloor(w.place(), [codec.DigestBytes]byte(w.key.Digest()))
	}
	f.prepare(ctx, list)
	for range rises {
		var now []*forward
		for _, w := range list {
			if w.err == nil && w.reply == nil {
				now = append(now, w)
			}
		}
		if len(now) == 0 {
			return
		}
		for _, w := range now {
			w.message = f.masked(w)
		}
		f.exchange(ctx, now)
		f.judge(ctx, now)
		f.finish(ctx, now)
	}
	for _, w := range list {
		if w.err == nil && w.reply == nil {
			w.err = sinks.WithOutcome(sinks.Retry, errContended)
		}
	}
}

// judge takes replies back that say what they say because of what walproxy keeps in
// the record: the message is sent again then, or answered here.
func (f *forwarding) judge(ctx context.Context, list []*forward) {
	var hidden []*forward
	for _, w := range list {
		switch {
		case w.err != nil:
		case w.dead: // it was made anew, or it is not what was seen any more
			if r := w.reply.Result; r == codec.FilteredOut || r == codec.NotFound {
				w.reply, w.dead = nil, false
			}
		case w.reply.Result == codec.FilteredOut && !w.writes() && !filtered(w.sent) && w.floor == 0:
			w.reply = refusal(codec.NotFound)
		case w.reply.Result == codec.NotFound && w.floor > 0:
			f.missing(ctx, w)
		case w.reply.Result == codec.FilteredOut, w.reply.Result == codec.RecordExists && w.sent.Info2&codec.Info2CreateOnly != 0:
			hidden = append(hidden, w)
		}
	}
	f.look(ctx, hidden, func(*forward) bool { return true })
	for _, w := range hidden {
		switch {
		case w.err != nil:
		case w.kept < w.floor:
			f.missing(ctx, w)
		case !w.dead:
			if w.reply.Result == codec.FilteredOut && !filtered(w.sent) {
				w.reply = nil // it is gone for good by now
			}
		case !w.writes() || mustExist(w.sent):
			w.reply = refusal(codec.NotFound)
		case w.sent.Info2&codec.Info2Generation != 0 && w.sent.Generation != 0,
			w.sent.Info2&codec.Info2GenerationGT != 0 && w.sent.Generation == 0:
			w.reply = refusal(codec.Generation)
		default:
			w.reply = nil
		}
	}
}

func filtered(m *codec.Message) bool {
	_, ok := m.Field(codec.FieldFilter)
	return ok
}

func (f *forwarding) exchange(ctx context.Context, list []*forward) {
	parcels := make([]*parcel, len(list))
	for i, w := range list {
		parcels[i] = &w.parcel
	}
	f.sink.exchange(ctx, f.client, parcels)
}

func replaces(m *codec.Message) bool {
	return m.Info3&(codec.Info3CreateOrReplace|codec.Info3ReplaceOnly) != 0
}

// masked is the message as the server gets it: for a record that was not deleted, or,
// once that is known of it, for one that was.
func (f *forwarding) masked(w *forward) *codec.Message {
	m := *w.sent
	m.Info1 &^= codec.Info1Compress // who asks for it packs the answer again
	m.Fields, m.Ops = slices.Clip(m.Fields), slices.Clip(m.Ops)
	if !w.dead {
		m.Fields = withFilter(m.Fields, alive())
		w.demand(&m)
	} else {
		// For the server it is there. What the caller wants of an absent record, and
		// its filter, which those pass, was seen to.
		m.Info2 &^= codec.Info2CreateOnly | codec.Info2Generation | codec.Info2GenerationGT
		m.Info3 |= unless[byte](replaces(w.sent), codec.Info3ReplaceOnly, codec.Info3UpdateOnly)
		m.Info3 &^= unless[byte](replaces(w.sent), codec.Info3CreateOrReplace, 0)
		m.Fields = slices.DeleteFunc(slices.Clone(m.Fields), func(f codec.Field) bool { return f.Type == codec.FieldFilter })
		m.Fields = withFilter(m.Fields, deceased())
		if !replaces(w.sent) {
			m.Ops = append(m.Ops, codec.Op{Type: codec.OpWrite, Name: []byte(binDead)})
		}
	}
	f.mark(w, &m)
	return &m
}

// look reads guards and tombstones of those that want it.
func (f *forwarding) look(ctx context.Context, list []*forward, wanted func(*forward) bool) {
	var parcels []*parcel
	var of []*forward
	for _, w := range list {
		w.message = w.sent
		if wanted(w) {
			parcels, of = append(parcels, &parcel{key: w.key, message: sight(w.key, f.guard)}), append(of, w)
		}
	}
	if len(parcels) == 0 {
		return
	}
	f.sink.exchange(ctx, f.client, parcels)
	for i, p := range parcels {
		w := of[i]
		switch {
		case p.err != nil:
			w.reply, w.err = nil, p.err
		case p.reply.Result != codec.OK && p.reply.Result != codec.NotFound:
			w.reply, w.dead = p.reply, false
		default:
			w.kept, w.dead = seen(p.reply, f.guard)
		}
	}
}

// sight is the message that reads what walproxy keeps in a record.
func sight(key *as.Key, guard string) *codec.Message {
	m := &codec.Message{Header: codec.Header{Info1: codec.Info1Read}, Fields: fieldsOfKey(key)}
	m.Ops = append(m.Ops, codec.Op{Type: codec.OpRead, Name: []byte(binDead)})
	if guard != "" {
		m.Ops = append(m.Ops, codec.Op{Type: codec.OpRead, Name: []byte(guard)})
	}
	return m
}

// fieldsOfKey name a record.
func fieldsOfKey(key *as.Key) []codec.Field {
	fields := []codec.Field{{Type: codec.FieldNamespace, Data: []byte(key.Namespace())}}
	if key.SetName() != "" {
		fields = append(fields, codec.Field{Type: codec.FieldSet, Data: []byte(key.SetName())})
	}
	return append(fields, codec.Field{Type: codec.FieldDigest, Data: key.Digest()})
}

func refusal(r codec.Result) *codec.Message {
	return &codec.Message{Header: codec.Header{Result: r}}
}

// mustExist reports that a write makes no record.
func mustExist(m *codec.Message) bool {
	return m.Info3&(codec.Info3UpdateOnly|codec.Info3ReplaceOnly) != 0 || empties(m) ||
		slices.ContainsFunc(m.Ops, func(op codec.Op) bool { return op.Type == codec.OpTouch })
}

// unmarked is a reply without the bins that are walproxy's.
func unmarked(m *codec.Message) *codec.Message {
	m.Ops = slices.DeleteFunc(m.Ops, func(op codec.Op) bool { return isOwn(string(op.Name)) })
	return m
}

// seen is what a reply to sight says.
func seen(m *codec.Message, guard string) (lsn sinks.LSN, dead bool) {
	for _, op := range m.Ops {
		switch string(op.Name) {
		case binDead:
			dead = op.Particle != 0
		case guard:
			if v, err := (value.Particle{Type: op.Particle, Data: op.Value}).Value(); err == nil && v.IsInt() {
				lsn = sinks.LSN(v.Int64())
			}
		}
	}
	return lsn, dead
}
