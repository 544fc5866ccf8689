package mutation

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// Format is the version of the record envelope that this package writes and the
// only one that it reads.
const Format = 1

var deterministic = proto.MarshalOptions{Deterministic: true}

// Encode appends the log payload of rec to dst. rec must be valid and its format
// set to Format. What Decode would refuse is not encoded: errors are
// ErrEncoding.
func Encode(dst []byte, rec *walproxyv1.Record) ([]byte, error) {
	if err := checkRecord(rec); err != nil {
		return dst, err
	}
	if out, ok := appendMutationRecord(dst, rec); ok {
		return out, nil
	}
	if out, ok := appendStatementRecord(dst, rec); ok {
		return out, nil
	}
	out, err := deterministic.MarshalAppend(dst, rec)
	if err != nil {
		return dst, fmt.Errorf("%w: %w", ErrEncoding, err)
	}
	return out, nil
}

// Decode is the inverse of Encode. An unknown format version, kind or op, and
// unknown fields of the schema, are errors (ErrEncoding): nothing is skipped.
// The record does not share memory with payload.
func Decode(payload []byte) (*walproxyv1.Record, error) {
	return DecodeString(string(payload))
}

// DecodeString is Decode without a copy: the record may share payload's memory.
func DecodeString(payload string) (*walproxyv1.Record, error) {
	if rec := decodePlain(payload); rec != nil {
		return rec, nil
	}
	return decodeAny([]byte(payload))
}

// decodeAny decodes what decodePlain leaves.
func decodeAny(payload []byte) (*walproxyv1.Record, error) {
	rec := &walproxyv1.Record{}
	if err := proto.Unmarshal(payload, rec); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEncoding, err)
	}
	if err := checkRecord(rec); err != nil {
		return nil, err
	}
	return rec, nil
}

// Keys calls f for each (collection, key) that rec writes, in member order.
func Keys(rec *walproxyv1.Record, f func(collection string, key *walproxyv1.Key)) {
	switch body := rec.GetBody().(type) {
	case *walproxyv1.Record_Mutation:
		f(body.Mutation.GetCollection(), body.Mutation.GetKey())
	case *walproxyv1.Record_Statement:
		f(body.Statement.GetCollection(), body.Statement.GetKey())
	case *walproxyv1.Record_Command:
		f(body.Command.GetCollection(), body.Command.GetKey())
	case *walproxyv1.Record_Group:
		for _, member := range body.Group.GetMembers() {
			f(memberKey(member))
		}
	}
}

// RequestID returns the request id of rec, "" if it has none.
func RequestID(rec *walproxyv1.Record) string {
	switch body := rec.GetBody().(type) {
	case *walproxyv1.Record_Mutation:
		return body.Mutation.GetRequestId()
	case *walproxyv1.Record_Statement:
		return body.Statement.GetRequestId()
	case *walproxyv1.Record_Command:
		return body.Command.GetRequestId()
	case *walproxyv1.Record_Group:
		return body.Group.GetRequestId()
	}
	return ""
}

// KindError says that a record holds something else than mutations.
type KindError struct {
	Kind string // "statement", "command", ...
}

func (e *KindError) Error() string {
	return fmt.Sprintf("the record is a %s, not a mutation", e.Kind)
}

// Mutations returns the mutations of rec, one or a group's, or *KindError if it
// holds another kind (a sink that knows only mutations halts on it).
func Mutations(rec *walproxyv1.Record) ([]*walproxyv1.Mutation, error) {
	switch body := rec.GetBody().(type) {
	case *walproxyv1.Record_Mutation:
		return []*walproxyv1.Mutation{body.Mutation}, nil
	case *walproxyv1.Record_Group:
		members := body.Group.GetMembers()
		ms := make([]*walproxyv1.Mutation, len(members))
		for i, member := range members {
			k, ok := member.GetKind().(*walproxyv1.Group_Member_Mutation)
			if !ok {
				return nil, &KindError{fmt.Sprintf("group with a %s", memberKind(member))}
			}
			ms[i] = k.Mutation
		}
		return ms, nil
	case *walproxyv1.Record_Statement:
		return nil, &KindError{"statement"}
	case *walproxyv1.Record_Command:
		return nil, &KindError{"command"}
	}
	return nil, &KindError{"record without a body"}
}

func memberKind(member *walproxyv1.Group_Member) string {
	switch member.GetKind().(type) {
	case *walproxyv1.Group_Member_Statement:
		return "statement"
	case *walproxyv1.Group_Member_Command:
		return "command"
	}
	return "member of an unknown kind"
}

// AppendAccepted sets the accepted time of an encoded record: it appends the
// field to payload, where the last one counts. So a record is encoded before
// its place in the log, and with it its time, is known.
func AppendAccepted(payload []byte, unixNanos int64) []byte {
	const field = 2 // Record.accepted_unix_nanos
	payload = protowire.AppendTag(payload, field, protowire.VarintType)
	return protowire.AppendVarint(payload, protowire.EncodeZigZag(unixNanos))
}
