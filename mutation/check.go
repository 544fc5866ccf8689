package mutation

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// ErrEncoding: a payload or stored document that this version cannot read in
// full: damaged, or written by a newer version. It is never skipped.
var ErrEncoding = errors.New("mutation: unreadable encoding")

func malformed(path, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrEncoding, path, fmt.Sprintf(format, args...))
}

// The check functions hold a message to the schema this version knows: every
// oneof set, no unknown field anywhere. They walk by hand because they run for
// every record that is applied, where reflection would cost more than decoding.

// known refuses a nil message and unknown fields.
func known[M interface {
	comparable
	proto.Message
}](path string, m M) error {
	var none M
	if m == none {
		return malformed(path, "is missing")
	}
	if n := len(m.ProtoReflect().GetUnknown()); n > 0 {
		return malformed(path, "%d bytes of unknown fields", n)
	}
	return nil
}

func checkRecord(rec *walproxyv1.Record) error {
	if err := known("record", rec); err != nil {
		return err
	}
	if rec.GetFormat() != Format {
		return malformed("record.format", "is %d; this version knows %d", rec.GetFormat(), Format)
	}
	if rec.Origin != nil {
		if err := known("record.origin", rec.Origin); err != nil {
			return err
		}
	}
	if rec.Trace != nil {
		if err := known("record.trace", rec.Trace); err != nil {
			return err
		}
	}
	switch body := rec.Body.(type) {
	case *walproxyv1.Record_Mutation:
		return in("mutation", checkMutation(body.Mutation))
	case *walproxyv1.Record_Group:
		return checkGroup(body.Group)
	case *walproxyv1.Record_Statement:
		return in("statement", checkStatement(body.Statement))
	case *walproxyv1.Record_Command:
		return in("command", checkCommand(body.Command))
	}
	return malformed("record.body", "is missing or of an unknown kind")
}

func checkGroup(g *walproxyv1.Group) error {
	if err := known("group", g); err != nil {
		return err
	}
	if len(g.GetMembers()) == 0 {
		return malformed("group.members", "is empty")
	}
	for i, member := range g.GetMembers() {
		if err := checkMember(member); err != nil {
			return in(fmt.Sprintf("group.members[%d]", i), err)
		}
	}
	return nil
}

func checkMember(member *walproxyv1.Group_Member) error {
	if err := known("member", member); err != nil {
		return err
	}
	switch k := member.Kind.(type) {
	case *walproxyv1.Group_Member_Mutation:
		return checkMutation(k.Mutation)
	case *walproxyv1.Group_Member_Statement:
		return checkStatement(k.Statement)
	case *walproxyv1.Group_Member_Command:
		return checkCommand(k.Command)
	}
	return malformed("member", "is of an unknown kind")
}

// in names the place of err, which is built for an error alone.
func in(place string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", place, err)
}

func checkStatement(s *walproxyv1.Statement) error {
	if err := known("statement", s); err != nil {
		return err
	}
	return checkKey("key", s.GetKey())
}

func checkCommand(c *walproxyv1.Command) error {
	if err := known("command", c); err != nil {
		return err
	}
	return checkKey("key", c.GetKey())
}

func checkMutation(m *walproxyv1.Mutation) error {
	if err := known("mutation", m); err != nil {
		return err
	}
	if err := checkKey("key", m.GetKey()); err != nil {
		return err
	}
	if err := checkTimestamp("expires_at", m.GetExpiresAt()); err != nil {
		return err
	}
	if p := m.GetPrecondition(); p != nil {
		if err := known("precondition", p); err != nil {
			return err
		}
		if p.Kind == nil {
			return malformed("precondition", "is of an unknown kind")
		}
	}
	if len(m.GetOps()) == 0 {
		return malformed("ops", "is empty")
	}
	for i, op := range m.GetOps() {
		if err := checkOp(op); err != nil {
			return in(fmt.Sprintf("ops[%d]", i), err)
		}
	}
	return nil
}

func checkTimestamp(path string, t *timestamppb.Timestamp) error {
	if t == nil {
		return nil
	}
	if err := known(path, t); err != nil {
		return err
	}
	if !t.IsValid() {
		return malformed(path, "is out of range")
	}
	return nil
}

func checkKey(path string, key *walproxyv1.Key) error {
	if err := known(path, key); err != nil {
		return err
	}
	switch k := key.Kind.(type) {
	case *walproxyv1.Key_String_, *walproxyv1.Key_Bytes, *walproxyv1.Key_Int64:
		return nil
	case *walproxyv1.Key_Composite_:
		if err := known("key.composite", k.Composite); err != nil {
			return err
		}
		for _, part := range k.Composite.GetParts() {
			if part.GetComposite() != nil {
				return malformed("key.composite", "holds a composite")
			}
			if err := checkKey("key.composite", part); err != nil {
				return err
			}
		}
		return nil
	}
	return malformed(path, "is of an unknown kind")
}

func checkOp(op *walproxyv1.Op) error {
	if err := known("op", op); err != nil {
		return err
	}
	switch k := op.Kind.(type) {
	case *walproxyv1.Op_Set_:
		return checkFieldsOf("set", k.Set, k.Set.GetFields())
	case *walproxyv1.Op_Merge_:
		return checkFieldsOf("merge", k.Merge, k.Merge.GetFields())
	case *walproxyv1.Op_Unset_:
		return known("unset", k.Unset)
	case *walproxyv1.Op_Increment_:
		return checkFieldsOf("increment", k.Increment, k.Increment.GetFields())
	case *walproxyv1.Op_Append_:
		return checkFieldsOf("append", k.Append, k.Append.GetFields())
	case *walproxyv1.Op_Prepend_:
		return checkFieldsOf("prepend", k.Prepend, k.Prepend.GetFields())
	case *walproxyv1.Op_Touch_:
		return known("touch", k.Touch)
	case *walproxyv1.Op_Delete_:
		return known("delete", k.Delete)
	case *walproxyv1.Op_AppendEvent_:
		if err := known("append_event", k.AppendEvent); err != nil {
			return err
		}
		for _, e := range k.AppendEvent.GetEvents() {
			if err := checkFieldsOf("event", e, e.GetFields()); err != nil {
				return err
			}
		}
		return nil
	}
	return malformed("op", "is of an unknown kind")
}

func checkFieldsOf[M interface {
	comparable
	proto.Message
}](path string, m M, fields map[string]*walproxyv1.Value) error {
	if err := known(path, m); err != nil {
		return err
	}
	return checkFields(fields)
}

func checkFields(fields map[string]*walproxyv1.Value) error {
	for _, v := range fields {
		if err := checkValue(v); err != nil {
			return err
		}
	}
	return nil
}

func checkValue(v *walproxyv1.Value) error {
	if err := known("value", v); err != nil {
		return err
	}
	switch k := v.Kind.(type) {
	case *walproxyv1.Value_Null:
		if k.Null != structpb.NullValue_NULL_VALUE {
			return malformed("value", "unknown null %d", k.Null)
		}
		return nil
	case *walproxyv1.Value_Bool, *walproxyv1.Value_Int64, *walproxyv1.Value_Double,
		*walproxyv1.Value_Decimal, *walproxyv1.Value_String_, *walproxyv1.Value_Bytes:
		return nil
	case *walproxyv1.Value_Timestamp:
		if k.Timestamp == nil {
			return malformed("timestamp", "is missing")
		}
		return checkTimestamp("timestamp", k.Timestamp)
	case *walproxyv1.Value_List_:
		if err := known("list", k.List); err != nil {
			return err
		}
		for _, item := range k.List.GetValues() {
			if err := checkValue(item); err != nil {
				return err
			}
		}
		return nil
	case *walproxyv1.Value_Map_:
		return checkFieldsOf("map", k.Map, k.Map.GetFields())
	}
	return malformed("value", "is of an unknown kind")
}
