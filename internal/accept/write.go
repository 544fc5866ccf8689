package accept

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgstatement"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// write is one Submit on its way to the log.
type write struct {
	record *walproxyv1.Record // ours; shares what is not changed with the caller's
	route  *route
	keys   []keyWrites // in the order of their hashes
	hashes []uint64    // of keys, without repeats
	// payload is the record's encoding without the accepted time.
	payload []byte
	buffer  *[]byte  // of payload
	request *request // nil: no request id

	// What the preconditions found: it was so at notBefore, and is until until.
	// Unix nanoseconds; until 0: for good.
	notBefore, until int64
	lookUntil        time.Time // when lookups must have ended; zero: there was none

	toLead   bool // of SubmitNow
	ticket   wal.Ticket
	accepted int64

	// What most writes consist of, in the same allocation.
	own      walproxyv1.Record
	oneKey   [1]keyWrites
	oneHash  [1]uint64
	oneWrite [1]*walproxyv1.Mutation
}

// retry reports whether w retries a dead letter. Its request id and precondition
// were judged when it was first accepted.
func (w *write) retry() bool { return w.record.GetOrigin() != nil }

// keyWrites are the writes to one key, in order.
type keyWrites struct {
	collection string
	key        *walproxyv1.Key
	encoded    string
	hash       uint64
	// mutations; nil entries stand for other kinds, whose effect is unknown.
	mutations []*walproxyv1.Mutation
	// found is what the store said, once looked is set. It is the record as of
	// now while the bucket is as it was (foundAt), or if the key's lock was held.
	found        known
	foundAt      wal.LSN
	looked, held bool
	// prior is found if the precondition was judged by it.
	prior known
}

// prepare validates in, makes its keys canonical and finds its route, unless it is
// to. in is not changed.
func (a *Acceptor) prepare(in *walproxyv1.Record, to *route) (*write, error) {
	if in == nil {
		return nil, &mutation.InvalidError{Field: "record", Reason: "is missing"}
	}
	if err := mutation.ValidatePrincipal(in.GetPrincipal()); err != nil {
		return nil, err
	}
	w := &write{route: to}
	w.record = &w.own
	w.record.Format, w.record.Principal, w.record.Origin = mutation.Format, in.GetPrincipal(), in.GetOrigin()
	keepUnknown(w.record, in)
	if err := a.canonical(w.record, in); err != nil {
		return nil, err
	}
	if to == nil {
		if err := a.findRoute(w); err != nil {
			return nil, err
		}
	}
	w.record.Routes = w.route.sinks
	w.collectKeys()
	return w, nil
}

// canonical sets out's body to in's with canonical keys, validated.
func (a *Acceptor) canonical(out, in *walproxyv1.Record) error {
	switch body := in.GetBody().(type) {
	case *walproxyv1.Record_Mutation:
		m, err := a.canonicalMutation(body.Mutation)
		if err != nil {
			return err
		}
		out.Body = &walproxyv1.Record_Mutation{Mutation: m}
		return mutation.Validate(m)
	case *walproxyv1.Record_Group:
		g, err := a.canonicalGroup(body.Group)
		if err != nil {
			return err
		}
		out.Body = &walproxyv1.Record_Group{Group: g}
		return mutation.ValidateGroup(g)
	case *walproxyv1.Record_Statement:
		s, err := a.canonicalStatement(body.Statement)
		if err != nil {
			return err
		}
		out.Body = &walproxyv1.Record_Statement{Statement: s}
		return mutation.ValidateStatement(s)
	case *walproxyv1.Record_Command:
		c, err := a.canonicalCommand(body.Command)
		if err != nil {
			return err
		}
		out.Body = &walproxyv1.Record_Command{Command: c}
		return mutation.ValidateCommand(c)
	}
	return &mutation.InvalidError{Field: "body", Reason: "is no write"}
}

func (a *Acceptor) canonicalGroup(in *walproxyv1.Group) (*walproxyv1.Group, error) {
	if len(in.GetMembers()) > mutation.MaxMembers { // before any work is done for them
		return nil, mutation.ValidateGroup(in)
	}
	out := &walproxyv1.Group{RequestId: in.GetRequestId()}
	keepUnknown(out, in)
	for i, member := range in.GetMembers() {
		canonical, err := a.canonicalMember(member)
		if err != nil {
			return nil, underMember(i, member, err)
		}
		out.Members = append(out.Members, canonical)
	}
	return out, nil
}

func (a *Acceptor) canonicalMember(in *walproxyv1.Group_Member) (*walproxyv1.Group_Member, error) {
	out := &walproxyv1.Group_Member{}
	keepUnknown(out, in)
	switch k := in.GetKind().(type) {
	case *walproxyv1.Group_Member_Mutation:
		m, err := a.canonicalMutation(k.Mutation)
		out.Kind = &walproxyv1.Group_Member_Mutation{Mutation: m}
		return out, err
	case *walproxyv1.Group_Member_Statement:
		s, err := a.canonicalStatement(k.Statement)
		out.Kind = &walproxyv1.Group_Member_Statement{Statement: s}
		return out, err
	case *walproxyv1.Group_Member_Command:
		c, err := a.canonicalCommand(k.Command)
		out.Kind = &walproxyv1.Group_Member_Command{Command: c}
		return out, err
	}
	return out, nil // ValidateGroup refuses it
}

// keepUnknown copies in's unknown fields, for Encode to refuse them.
func keepUnknown(out, in proto.Message) {
	if unknown := in.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		out.ProtoReflect().SetUnknown(unknown)
	}
}

func underMember(i int, member *walproxyv1.Group_Member, err error) error {
	invalid, ok := err.(*mutation.InvalidError)
	if !ok {
		return err
	}
	kind := "mutation"
	if member.GetStatement() != nil {
		kind = "statement"
	} else if member.GetCommand() != nil {
		kind = "command"
	}
	return &mutation.InvalidError{Field: fmt.Sprintf("members[%d].%s.%s", i, kind, invalid.Field), Reason: invalid.Reason}
}

// canonicalMutation returns in itself if its key is canonical already.
func (a *Acceptor) canonicalMutation(in *walproxyv1.Mutation) (*walproxyv1.Mutation, error) {
	key, err := mutation.CanonicalKey(in.GetKey(), a.o.KeyTypes(in.GetCollection()))
	if err != nil || key == in.GetKey() {
		return in, err
	}
	out := &walproxyv1.Mutation{Collection: in.Collection, Key: key, Ops: in.Ops, Precondition: in.Precondition,
		RequestId: in.RequestId, ExpiresAt: in.ExpiresAt}
	keepUnknown(out, in)
	return out, nil
}

// canonicalKey returns in itself if its key is canonical already.
func canonicalKey[M interface {
	proto.Message
	GetCollection() string
	GetKey() *walproxyv1.Key
}](a *Acceptor, in M, set func(out M, key *walproxyv1.Key)) (M, error) {
	key, err := mutation.CanonicalKey(in.GetKey(), a.o.KeyTypes(in.GetCollection()))
	if err != nil || key == in.GetKey() {
		return in, err
	}
	out := proto.CloneOf(in)
	set(out, key)
	return out, nil
}

func (a *Acceptor) canonicalStatement(in *walproxyv1.Statement) (*walproxyv1.Statement, error) {
	return canonicalKey(a, in, func(out *walproxyv1.Statement, key *walproxyv1.Key) { out.Key = key })
}

func (a *Acceptor) canonicalCommand(in *walproxyv1.Command) (*walproxyv1.Command, error) {
	return canonicalKey(a, in, func(out *walproxyv1.Command, key *walproxyv1.Key) { out.Key = key })
}

// findRoute finds the one route of all of w's collections. A record goes to its
// sinks as a whole, so a group's members must share one.
func (a *Acceptor) findRoute(w *write) (err error) {
	if origin := w.record.GetOrigin(); origin != nil {
		w.route = a.router.Load().bySink[origin.GetSink()]
		if w.route == nil {
			return &mutation.InvalidError{Field: "origin.sink", Reason: fmt.Sprintf("there is no sink %q", origin.GetSink())}
		}
		return nil
	}
	member := 0
	mutation.Keys(w.record, func(collection string, _ *walproxyv1.Key) {
		if err == nil {
			err = a.shareRoute(w, member, collection)
		}
		member++
	})
	return err
}

func (a *Acceptor) shareRoute(w *write, member int, collection string) error {
	found, err := a.router.Load().find(collection)
	if err != nil {
		return err
	}
	if w.route == nil {
		w.route = found
	}
	if !slices.Equal(found.sinks, w.route.sinks) {
		return &mutation.InvalidError{Field: fmt.Sprintf("members[%d]", member),
			Reason: fmt.Sprintf("collection %q goes to other sinks than the group's first", collection)}
	}
	return nil
}

// collectKeys sorts w's writes by key.
func (w *write) collectKeys() {
	members := w.record.GetGroup().GetMembers()
	mutation.Keys(w.record, func(collection string, key *walproxyv1.Key) {
		m := w.record.GetMutation()
		if len(members) > 0 {
			m = members[len(w.keys)].GetMutation()
		}
		var buf [256]byte
		encoded := mutation.AppendKey(buf[:0], collection, key)
		k := keyWrites{collection: collection, key: key, encoded: string(encoded), hash: mutation.HashEncoded(encoded)}
		if len(members) == 0 {
			k.mutations = append(w.oneWrite[:0], m)
			w.keys = append(w.oneKey[:0], k)
			return
		}
		k.mutations = []*walproxyv1.Mutation{m}
		w.keys = append(w.keys, k)
	})
	if len(members) == 0 && len(w.keys) == 1 {
		w.hashes = append(w.oneHash[:0], w.keys[0].hash)
		return
	}
	slices.SortStableFunc(w.keys, func(x, y keyWrites) int {
		return cmp.Or(cmp.Compare(x.hash, y.hash), cmp.Compare(x.encoded, y.encoded))
	})
	merged := w.keys[:0]
	for _, k := range w.keys {
		if n := len(merged); n > 0 && merged[n-1].encoded == k.encoded {
			merged[n-1].mutations = append(merged[n-1].mutations, k.mutations...)
			continue
		}
		merged = append(merged, k)
	}
	w.keys = merged
	for _, k := range w.keys {
		w.hashes = append(w.hashes, k.hash)
	}
	w.hashes = slices.Compact(w.hashes)
}

// payloads are buffers for encoding: the log copies what it is given.
var payloads = sync.Pool{New: func() any { return new([]byte) }}

// pooledBytesMax is the largest buffer worth keeping.
const pooledBytesMax = 64 << 10

// encode makes w's payload; free gives its buffer back.
func (w *write) encode() error {
	w.buffer = payloads.Get().(*[]byte)
	payload, err := mutation.Encode((*w.buffer)[:0], w.record)
	if err != nil {
		w.free()
		return &mutation.InvalidError{Field: "record", Reason: err.Error()}
	}
	*w.buffer, w.payload = payload, payload
	return nil
}

// free may be called twice.
func (w *write) free() {
	if w.buffer == nil {
		return
	}
	if cap(*w.buffer) <= pooledBytesMax {
		payloads.Put(w.buffer)
	}
	w.buffer, w.payload = nil, nil
}

// hash is hashPayload of w's record. That of a mutation is made of w's payload, which is
// encoded for it; free gives the buffer back.
func (w *write) hash() (hash [16]byte, err error) {
	if w.record.GetMutation() == nil {
		return hashPayload(w.record)
	}
	if err := w.encode(); err != nil {
		return hash, err
	}
	body, ok := mutation.Body(w.payload)
	if !ok {
		return hashPayload(w.record)
	}
	n := len(w.payload)
	bare := append(append(w.payload, hashHead...), body...) // behind the payload, which stays
	sum := sha256.Sum256(bare[n:])
	*w.buffer, w.payload = bare[:n], bare[:n]
	return [16]byte(sum[:16]), nil
}

// hashHead is how a record begins that has a format and a body alone.
var hashHead = []byte{1 << 3, mutation.Format}

// hashPayload is a hash of what rec asks for: not of when it was accepted nor
// where it goes, which differ between a write and its repeat; nor of the form that a
// driver gave its values.
func hashPayload(rec *walproxyv1.Record) (hash [16]byte, err error) {
	bare := &walproxyv1.Record{Format: mutation.Format, Body: rec.GetBody()}
	sameStatements(bare)
	enc, err := mutation.Encode(nil, bare)
	if err != nil {
		return hash, &mutation.InvalidError{Field: "record", Reason: err.Error()}
	}
	sum := sha256.Sum256(enc)
	return [16]byte(sum[:16]), nil
}

// sameStatements replaces rec's body where it has statements; what it shares it leaves.
func sameStatements(rec *walproxyv1.Record) {
	switch body := rec.GetBody().(type) {
	case *walproxyv1.Record_Statement:
		rec.Body = &walproxyv1.Record_Statement{Statement: pgstatement.Same(body.Statement)}
	case *walproxyv1.Record_Group:
		group := &walproxyv1.Group{RequestId: body.Group.GetRequestId()}
		for _, m := range body.Group.GetMembers() {
			if s := m.GetStatement(); s != nil {
				m = &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Statement{Statement: pgstatement.Same(s)}}
			}
			group.Members = append(group.Members, m)
		}
		rec.Body = &walproxyv1.Record_Group{Group: group}
	}
}
