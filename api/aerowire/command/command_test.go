package command

import (
	"bytes"
	"errors"
	"testing"

	"github.com/walproxy/walproxy/api/aerowire/codec"
)

func fieldsFor(set string) []codec.Field {
	return []codec.Field{{Type: codec.FieldNamespace, Data: []byte("test")}, {Type: codec.FieldSet, Data: []byte(set)},
		{Type: codec.FieldDigest, Data: bytes.Repeat([]byte{7}, codec.DigestBytes)}}
}

func op(kind byte, bin string, content ...byte) codec.Op {
	return codec.Op{Type: kind, Particle: 4, Name: []byte(bin), Value: content}
}

// TestCheck: a write for one record that asks for nothing, and nothing else.
func TestCheck(t *testing.T) {
	appends := []byte{0, 1, 0x91, 5} // list_append of 5
	inContext := []byte{0x93, 0xcc, 0xff, 0x92, 0x10, 0, 0x92, 1, 5}
	resize := []byte{0x93, 0, 4, 0}
	field := func(kind byte) func(*codec.Message) {
		return func(m *codec.Message) { m.Fields = append(m.Fields, codec.Field{Type: kind, Data: []byte{1}}) }
	}
	ops := func(ops ...codec.Op) func(*codec.Message) { return func(m *codec.Message) { m.Ops = ops } }
	for _, c := range []struct {
		name   string
		change func(m *codec.Message)
		part   string // "": it may be logged
	}{
		{"a put", func(*codec.Message) {}, ""},
		{"with a key", field(codec.FieldKey), ""},
		{"that may be compressed", func(m *codec.Message) { m.Info1 = codec.Info1Compress }, ""},
		{"replaced", func(m *codec.Message) { m.Info3 = codec.Info3CreateOrReplace }, ""},
		{"of a commit level", func(m *codec.Message) { m.Info3 = info3CommitMaster }, ""},
		{"that never expires", func(m *codec.Message) { m.TTL = TTLNever }, ""},
		{"of every kind", ops(op(codec.OpIncrement, "n"), op(codec.OpAppend, "s"), op(codec.OpPrepend, "s"), op(codec.OpCDTModify, "l", appends...),
			op(codec.OpCDTModify, "l", inContext...), op(codec.OpBitsModify, "b", resize...), op(codec.OpHLLModify, "h"), op(codec.OpExpModify, "e"), codec.Op{Type: codec.OpTouch}), ""},

		{"a read", func(m *codec.Message) { m.Info1 = codec.Info1Read }, "the read"},
		{"a deletion", func(m *codec.Message) { m.Info2 |= codec.Info2Delete }, "the deletion"},
		{"of a generation", func(m *codec.Message) { m.Info2 |= codec.Info2Generation }, "the generation"},
		{"above a generation", func(m *codec.Message) { m.Info2 |= codec.Info2GenerationGT }, "the generation"},
		{"created", func(m *codec.Message) { m.Info2 |= codec.Info2CreateOnly }, "the condition (create, update or replace only)"},
		{"updated", func(m *codec.Message) { m.Info3 |= codec.Info3UpdateOnly }, "the condition (create, update or replace only)"},
		{"replaced only", func(m *codec.Message) { m.Info3 |= codec.Info3ReplaceOnly }, "the condition (create, update or replace only)"},
		{"that wants all results", func(m *codec.Message) { m.Info2 |= codec.Info2RespondAll }, "the result of every op"},
		{"that is no write", func(m *codec.Message) { m.Info2 = 0 }, "info2"},
		{"durable", func(m *codec.Message) { m.Info2 |= codec.Info2DurableDelete }, "info2"},
		{"the last", func(m *codec.Message) { m.Info3 = codec.Info3Last }, "info3"},
		{"of a transaction", func(m *codec.Message) { m.Info4 = 1 }, "info4"},
		{"for eleven years", func(m *codec.Message) { m.TTL = 11 * 366 * 24 * 3600 }, "the time to live"},
		{"with a filter", field(codec.FieldFilter), "the filter"},
		{"with a function", field(codec.FieldUDFPackage), "the field"},
		{"a batch", field(codec.FieldBatch), "the field"},
		{"with two sets", field(codec.FieldSet), "the field"},
		{"without a digest", func(m *codec.Message) { m.Fields = m.Fields[:2] }, "the record"},
		{"without a namespace", func(m *codec.Message) { m.Fields = m.Fields[1:] }, "the record"},
		{"of nothing", ops(), "the message"},
		{"that reads a bin", ops(op(codec.OpWrite, "a"), op(codec.OpRead, "b")), "op 2"},
		{"that reads a list", ops(op(codec.OpCDTRead, "l")), "op 1"},
		{"that deletes", ops(codec.Op{Type: codec.OpDelete}), "op 1"},
		{"of a long bin", ops(op(codec.OpWrite, "sixteen letters.")), "op 1"},
		{"of no bin", ops(op(codec.OpWrite, "")), "op 1"},
		{"of walproxy's bin", ops(op(codec.OpWrite, "wp.ABCDEFGHIJKL")), "op 1"},
		{"a list read as a change", ops(op(codec.OpCDTModify, "l", 0, 16)), "op 1"},
		{"no list operation", ops(op(codec.OpCDTModify, "l", 0xc1)), "op 1"},
		{"no bit operation", ops(op(codec.OpBitsModify, "b", 0xc1)), "op 1"},
		{"that adds nothing", ops(codec.Op{Type: codec.OpIncrement, Name: []byte("n")}), "op 1"},
		{"replaced and added to", func(m *codec.Message) {
			m.Info3, m.Ops = codec.Info3CreateOrReplace, []codec.Op{op(codec.OpIncrement, "n")}
		}, "op 1"},
		{"replaced without a bin", func(m *codec.Message) {
			m.Info3, m.Ops = codec.Info3CreateOrReplace, []codec.Op{{Type: codec.OpWrite, Name: []byte("n")}}
		}, "op 1"},
	} {
		m := &codec.Message{Header: codec.Header{Info2: codec.Info2Write}, Fields: fieldsFor("s"), Ops: []codec.Op{op(codec.OpWrite, "n", 1)}}
		c.change(m)
		err := Check(m)
		if c.part == "" {
			if err != nil {
				t.Errorf("a write %s: %v", c.name, err)
			}
			continue
		}
		if bad, ok := errors.AsType[*Error](err); !ok || bad.Part != c.part {
			t.Errorf("a write %s: %v; want an *Error of %s", c.name, err, c.part)
		}
	}
}

func TestName(t *testing.T) {
	for want, o := range map[string]codec.Op{
		"increment":   op(codec.OpIncrement, "n"),
		"list_append": op(codec.OpCDTModify, "l", 0, 1, 0x91, 5),
		"map_put":     op(codec.OpCDTModify, "m", 0x93, 67, 1, 2),
		"cdt_modify":  op(codec.OpCDTModify, "m", 0xc1),
		"op_99":       op(99, "m"),
	} {
		if got := Name(&o); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
