package mutation

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

type fields = map[string]*walproxyv1.Value

func nested(depth int) *walproxyv1.Value {
	v := Int64Value(1)
	for i := range depth {
		if i%2 == 0 {
			v = ListValue(v)
		} else {
			v = MapValue(fields{"x": v})
		}
	}
	return v
}

func manyFields(n int) fields {
	m := fields{}
	for i := range n {
		m[fmt.Sprint(i)] = Int64Value(1)
	}
	return m
}

func TestValidate(t *testing.T) {
	key := String("k")
	ops := func(ops ...*walproxyv1.Op) *walproxyv1.Mutation { return New("c", key, ops) }
	set := func(v *walproxyv1.Value) *walproxyv1.Mutation { return ops(SetOp(fields{"f": v})) }
	in := func(collection string) *walproxyv1.Mutation {
		return New(collection, key, []*walproxyv1.Op{SetOp(nil)})
	}
	with := func(option Option) *walproxyv1.Mutation {
		return New("c", key, []*walproxyv1.Op{SetOp(nil)}, option)
	}
	one := fields{"f": Int64Value(1)}
	event := &walproxyv1.Event{}
	for _, c := range []struct {
		name  string
		m     *walproxyv1.Mutation
		field string // "": valid
	}{
		{"plain", set(Int64Value(1)), ""},
		{"nil", nil, "mutation"},
		{"no collection", in(""), "collection"},
		{"longest collection", in(strings.Repeat("c", MaxCollectionBytes)), ""},
		{"long collection", in(strings.Repeat("c", MaxCollectionBytes+1)), "collection"},
		{"NUL in collection", in("a\x00b"), "collection"},
		{"bad UTF-8 in collection", in("a\xff"), "collection"},
		{"reserved", in("writes"), "collection"},
		{"no key", New("c", nil, []*walproxyv1.Op{SetOp(nil)}), "key"},
		{"long request id", with(WithRequestID(strings.Repeat("r", MaxRequestIDBytes+1))), "request_id"},
		{"NUL in request id", with(WithRequestID("\x00")), "request_id"},
		{"expiry before 1970", with(ExpiresAt(time.Unix(-1, 0))), "expires_at"},
		{"expiry out of range", with(func(m *walproxyv1.Mutation) { m.ExpiresAt = &timestamppb.Timestamp{Nanos: -1} }), "expires_at"},
		{"expiring delete", Delete("c", key, ExpiresAt(time.Now())), "expires_at"},
		{"if_version 0", with(IfVersion(0)), ""},
		{"if_absent false", with(func(m *walproxyv1.Mutation) {
			m.Precondition = &walproxyv1.Precondition{Kind: &walproxyv1.Precondition_IfAbsent{}}
		}), "precondition.if_absent"},
		{"empty precondition", with(func(m *walproxyv1.Mutation) { m.Precondition = &walproxyv1.Precondition{} }), "precondition"},
		{"no ops", ops(), "ops"},
		{"too many ops", New("c", key, make([]*walproxyv1.Op, MaxOps+1)), "ops"},
		{"nil op", ops(nil), "ops[0]"},
		{"empty op", ops(SetOp(nil), &walproxyv1.Op{}), "ops[1]"},
		{"delete then set", ops(DeleteOp(), SetOp(one), AppendEventOp(event)), ""},
		{"set then delete", ops(SetOp(one), DeleteOp()), "ops[1].delete"},
		{"merge then set", ops(MergeOp(one), SetOp(one)), "ops[1].set"},
		{"delete, merge, set", ops(DeleteOp(), MergeOp(one), SetOp(one)), "ops[2].set"},
		{"touch and merge", ops(TouchOp(), MergeOp(one)), "ops[0].touch"},
		{"mixed", ops(MergeOp(one), IncrementOp(one), UnsetOp("x"), AppendEventOp(event), AppendEventOp(event)), ""},
		{"empty merge", ops(MergeOp(nil)), "ops[0].merge"},
		{"empty unset", ops(UnsetOp()), "ops[0].unset"},
		{"unset of nothing", ops(UnsetOp("a", "")), "ops[0].unset[1]"},
		{"empty increment", ops(IncrementOp(nil)), "ops[0].increment"},
		{"increment by text", ops(SetOp(nil), IncrementOp(fields{"total": StringValue("1")})), "ops[1].increment.total"},
		{"increment by null", ops(IncrementOp(fields{"total": NullValue()})), "ops[0].increment.total"},
		{"append of number", ops(AppendOp(fields{"log": Int64Value(1)})), "ops[0].append.log"},
		{"prepend of map", ops(PrependOp(fields{"log": MapValue(nil)})), "ops[0].prepend.log"},
		{"no events", ops(AppendEventOp()), "ops[0].append_event"},
		{"nil event", ops(AppendEventOp(event, nil)), "ops[0].append_event.events[1]"},
		{"bad event", ops(AppendEventOp(&walproxyv1.Event{Fields: fields{"x": nil}})), "ops[0].append_event.events[0].x"},
		{"too many events", ops(AppendEventOp(repeat(event, MaxEvents+1)...)), "ops"},
		{"events over all ops", ops(AppendEventOp(event), AppendEventOp(repeat(event, MaxEvents)...)), "ops"},
		{"most fields", ops(SetOp(manyFields(MaxFields))), ""},
		{"too many fields", ops(SetOp(manyFields(MaxFields + 1))), "ops[0].set"},
		{"empty field name", ops(SetOp(fields{"": Int64Value(1)})), "ops[0].set"},
		{"long field name", ops(SetOp(fields{strings.Repeat("f", MaxFieldNameBytes+1): Int64Value(1)})), "ops[0].set"},
		{"bad field name", ops(SetOp(fields{"\xff": Int64Value(1)})), "ops[0].set"},
		{"no value", set(&walproxyv1.Value{}), "ops[0].set.f"},
		{"NaN", set(DoubleValue(math.NaN())), "ops[0].set.f"},
		{"infinity", set(DoubleValue(math.Inf(-1))), "ops[0].set.f"},
		{"decimal", set(DecimalValue("-12.50e-3")), ""},
		{"not a decimal", set(DecimalValue("1,5")), "ops[0].set.f"},
		{"bad string", set(StringValue("\xff")), "ops[0].set.f"},
		{"bad timestamp", set(TimestampValue(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))), "ops[0].set.f"},
		{"unknown null", set(&walproxyv1.Value{Kind: &walproxyv1.Value_Null{Null: structpb.NullValue(1)}}), "ops[0].set.f"},
		{"deepest", set(nested(MaxDepth)), ""},
		{"too deep", set(ListValue(nested(MaxDepth))), "ops[0].set.f[0]" + strings.Repeat(".x[0]", MaxDepth/2-1) + ".x"},
		{"bad in list of map", set(MapValue(fields{"a": ListValue(Int64Value(1), nil)})), "ops[0].set.f.a[1]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkInvalid(t, Validate(c.m), c.field)
		})
	}
}

func repeat(e *walproxyv1.Event, n int) []*walproxyv1.Event {
	list := make([]*walproxyv1.Event, n)
	for i := range list {
		list[i] = e
	}
	return list
}

func checkInvalid(t *testing.T, err error, field string) {
	t.Helper()
	if field == "" {
		if err != nil {
			t.Fatalf("valid, but: %v", err)
		}
		return
	}
	var invalid *InvalidError
	if !errors.As(err, &invalid) {
		t.Fatalf("error %v is no *InvalidError", err)
	}
	if invalid.Field != field || invalid.Reason == "" {
		t.Fatalf("field %q (%s), want %q", invalid.Field, invalid.Reason, field)
	}
}

func TestValidateGroup(t *testing.T) {
	member := func(m *walproxyv1.Mutation) *walproxyv1.Group_Member {
		return &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{Mutation: m}}
	}
	set := func(key string, options ...Option) *walproxyv1.Group_Member {
		return member(New("c", String(key), []*walproxyv1.Op{SetOp(nil)}, options...))
	}
	for _, c := range []struct {
		name    string
		members []*walproxyv1.Group_Member
		field   string
	}{
		{"none", nil, "members"},
		{"two", []*walproxyv1.Group_Member{set("a", IfAbsent()), set("b", IfVersion(3))}, ""},
		{"same key", []*walproxyv1.Group_Member{set("a", IfAbsent()), set("a")}, ""},
		{"condition on own write", []*walproxyv1.Group_Member{set("a"), set("a", IfVersion(3))}, "members[1].mutation.precondition"},
		{"own request id", []*walproxyv1.Group_Member{set("a", WithRequestID("r"))}, "members[0].mutation.request_id"},
		{"empty member", []*walproxyv1.Group_Member{set("a"), {}}, "members[1].kind"},
		{"nil member", []*walproxyv1.Group_Member{nil}, "members[0].kind"},
		{"bad mutation", []*walproxyv1.Group_Member{set("a"), member(New("c", String("b"), nil))}, "members[1].mutation.ops"},
		{"settings of a statement", []*walproxyv1.Group_Member{{Kind: &walproxyv1.Group_Member_Statement{Statement: &walproxyv1.Statement{Text: "DELETE", Collection: "c", Key: Int64(1),
			Settings: map[string]string{"TimeZone": "\x00"}}}}}, "members[0].statement.settings"},
		{"bad statement", []*walproxyv1.Group_Member{{Kind: &walproxyv1.Group_Member_Statement{Statement: &walproxyv1.Statement{Text: "DELETE", Collection: "c"}}}}, "members[0].statement.key"},
		{"statement without text", []*walproxyv1.Group_Member{{Kind: &walproxyv1.Group_Member_Statement{Statement: &walproxyv1.Statement{Collection: "c", Key: Int64(1)}}}}, "members[0].statement.text"},
		{"command", []*walproxyv1.Group_Member{{Kind: &walproxyv1.Group_Member_Command{Command: &walproxyv1.Command{Message: []byte{1}, Collection: "c", Key: Int64(1)}}}}, "members[0].command"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkInvalid(t, ValidateGroup(&walproxyv1.Group{Members: c.members}), c.field)
		})
	}
	checkInvalid(t, ValidateGroup(&walproxyv1.Group{Members: []*walproxyv1.Group_Member{set("a")}, RequestId: "\x00"}), "request_id")
	checkInvalid(t, ValidatePrincipal(strings.Repeat("p", MaxPrincipalBytes+1)), "principal")
	checkInvalid(t, ValidatePrincipal(""), "")
}
