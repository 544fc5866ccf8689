// Package command is about Aerospike messages that are logged as they came and
// sent to the store later: which can be, and what they do, in words.
//
// Nobody waits for the store's answer to such a message, and the store may get it
// more than once and does it once, for a filter that is added keeps it out. So it
// asks for nothing, depends on nothing that it could fail of beside what its record
// holds, and has no filter of its own: one could not be told from the other.
package command

import (
	"bytes"
	"fmt"

	"github.com/walproxy/walproxy/api/aerowire/bits"
	"github.com/walproxy/walproxy/api/aerowire/cdt"
	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// Error is why a message cannot be logged as it came.
type Error struct {
	Part   string // of the message
	Reason string
}

func (e *Error) Error() string {
	return "aerowire: the message cannot be logged: " + e.Part + " " + e.Reason
}

// Reserved begins the names of the bins that walproxy keeps in the records of an
// Aerospike cluster.
const Reserved = "wp."

const (
	binNameMax = 15
	opsMax     = 32 << 10
	// ttlMax is the longest time to live that a server takes, in seconds.
	ttlMax = 10 * 365 * 24 * 3600
)

// Values of Header.TTL that are no seconds.
const (
	TTLDefault    = 0
	TTLNever      = 0xffffffff
	TTLDontUpdate = 0xfffffffe
)

// Bits that change nothing of what a logged write does.
const (
	info3CommitMaster = 1 << 1
	info3ReadMode     = 1<<6 | 1<<7
)

// Check says whether a message may be logged as it came: *Error, or nil. It is
// Shape, and every op holds what an op of its kind does.
func Check(m *codec.Message) error {
	if err := Shape(m); err != nil {
		return err
	}
	for i := range m.Ops {
		if reason := content(&m.Ops[i]); reason != "" {
			return &Error{fmt.Sprintf("op %d", i+1), reason}
		}
	}
	return nil
}

// content is what is wrong with an op's value; "": nothing that shows without the
// record.
func content(op *codec.Op) string {
	switch op.Type {
	case codec.OpCDTModify:
		o, err := cdt.Parse(op.Value)
		if err != nil || !o.IsModify() {
			return "is no operation that changes a list or map"
		}
	case codec.OpBitsModify:
		if _, err := bits.Parse(op.Value); err != nil {
			return "is no operation that changes bits"
		}
	case codec.OpIncrement, codec.OpAppend, codec.OpPrepend:
		if op.Particle == 0 {
			return "adds nothing"
		}
	}
	return ""
}

// Shape is Check without a look into the ops' values: what a message must be to be
// sent under a filter that is added.
func Shape(m *codec.Message) error {
	switch {
	case m.Info1&^codec.Info1Compress != 0:
		return &Error{"the read", "needs an answer"}
	case m.Info2&codec.Info2Delete != 0:
		return &Error{"the deletion", "is logged as a mutation"}
	case m.Info2&(codec.Info2Generation|codec.Info2GenerationGT) != 0:
		return &Error{"the generation", "needs an answer"}
	case m.Info2&codec.Info2CreateOnly != 0 || m.Info3&(codec.Info3UpdateOnly|codec.Info3ReplaceOnly) != 0:
		return &Error{"the condition (create, update or replace only)", "needs an answer"}
	case m.Info2&codec.Info2RespondAll != 0:
		return &Error{"the result of every op", "needs an answer"}
	case m.Info2 != codec.Info2Write:
		return &Error{"info2", fmt.Sprintf("is %#x, not a write alone", m.Info2)}
	case m.Info3&^(codec.Info3CreateOrReplace|info3CommitMaster|info3ReadMode) != 0:
		return &Error{"info3", fmt.Sprintf("is %#x", m.Info3)}
	case m.Info4 != 0:
		return &Error{"info4", fmt.Sprintf("is %#x", m.Info4)}
	case m.TTL > ttlMax && m.TTL != TTLNever && m.TTL != TTLDontUpdate:
		return &Error{"the time to live", fmt.Sprintf("is %d s; at most %d", m.TTL, ttlMax)}
	}
	if err := fields(m); err != nil {
		return err
	}
	return ops(m)
}

func fields(m *codec.Message) error {
	var seen [256]bool
	for _, f := range m.Fields {
		switch f.Type {
		case codec.FieldNamespace, codec.FieldSet, codec.FieldKey, codec.FieldDigest:
		case codec.FieldFilter:
			return &Error{"the filter", "needs an answer"}
		default:
			return &Error{"the field", fmt.Sprintf("of type %d is none of a plain write", f.Type)}
		}
		if seen[f.Type] {
			return &Error{"the field", fmt.Sprintf("of type %d is there twice", f.Type)}
		}
		seen[f.Type] = true
	}
	namespace, _ := m.Field(codec.FieldNamespace)
	digest, _ := m.Field(codec.FieldDigest)
	if len(namespace) == 0 || len(digest) != codec.DigestBytes {
		return &Error{"the record", "is not named by a namespace and a digest"}
	}
	return nil
}

func ops(m *codec.Message) error {
	if n := len(m.Ops); n == 0 || n > opsMax-2 {
		return &Error{"the message", fmt.Sprintf("has %d ops", n)}
	}
	for i := range m.Ops {
		if reason := unfit(&m.Ops[i], m.Info3&codec.Info3CreateOrReplace != 0); reason != "" {
			return &Error{fmt.Sprintf("op %d", i+1), reason}
		}
	}
	return nil
}

// unfit is why an op cannot be in such a message; "": it can.
func unfit(op *codec.Op, replace bool) string {
	switch op.Type {
	case codec.OpTouch:
		if replace {
			return "touches what is replaced"
		}
		return ""
	case codec.OpWrite:
		if replace && op.Particle == 0 {
			return "removes a bin of what is replaced"
		}
	case codec.OpExpModify:
	case codec.OpIncrement, codec.OpAppend, codec.OpPrepend, codec.OpCDTModify, codec.OpBitsModify, codec.OpHLLModify:
		if replace {
			return "changes what is replaced"
		}
	case codec.OpDelete:
		return "deletes the record: that is logged as a mutation"
	default:
		return fmt.Sprintf("is of type %d, which is no write", op.Type)
	}
	switch {
	case len(op.Name) == 0 || len(op.Name) > binNameMax || bytes.IndexByte(op.Name, 0) >= 0:
		return fmt.Sprintf("has a bin name of %d bytes, or with a zero in it; want 1 to %d", len(op.Name), binNameMax)
	case bytes.HasPrefix(op.Name, []byte(Reserved)):
		return fmt.Sprintf("is on the bin %q: those names are walproxy's", op.Name)
	}
	return ""
}

var opNames = map[byte]string{
	codec.OpRead: "read", codec.OpWrite: "write", codec.OpIncrement: "increment", codec.OpAppend: "append",
	codec.OpPrepend: "prepend", codec.OpTouch: "touch", codec.OpDelete: "delete", codec.OpCDTRead: "cdt_read",
	codec.OpCDTModify: "cdt_modify", codec.OpExpRead: "expression_read", codec.OpExpModify: "expression_write",
	codec.OpBitsRead: "bits_read", codec.OpBitsModify: "bits_modify", codec.OpHLLRead: "hll_read", codec.OpHLLModify: "hll_modify",
}

// Name says what an op does.
func Name(op *codec.Op) string {
	if op.Type == codec.OpCDTRead || op.Type == codec.OpCDTModify {
		if o, err := cdt.Parse(op.Value); err == nil && o.Name() != "" {
			return o.Name()
		}
	}
	if name, ok := opNames[op.Type]; ok {
		return name
	}
	return fmt.Sprintf("op_%d", op.Type)
}
