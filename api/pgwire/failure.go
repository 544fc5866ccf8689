package pgwire

import (
	"encoding/binary"
	"strconv"

	"github.com/walproxy/walproxy/api/pgwire/behind"
)

// failure is an error that a statement is answered with; the session goes on.
// Fields as in PostgreSQL's messages.
type failure struct {
	code, message, detail, hint string
	position                    int // in the text, from 1; 0: none
	schema, table, column       string
	reason                      string // for metrics
	raw                         []byte // PostgreSQL's own ErrorResponse, instead of all of this
}

func (f *failure) Error() string { return f.message }

// appendTo appends the ErrorResponse.
func (f *failure) appendTo(b []byte) []byte {
	if f.raw != nil {
		return append(b, f.raw...)
	}
	return f.append(b, sError, "ERROR")
}

// appendWarning appends it as a NoticeResponse.
func (f *failure) appendWarning(b []byte) []byte { return f.append(b, sNotice, "WARNING") }

func (f *failure) append(b []byte, kind byte, severity string) []byte {
	b, start := begin(b, kind)
	position := ""
	if f.position > 0 {
		position = strconv.Itoa(f.position)
	}
	for _, field := range []struct {
		kind byte
		text string
	}{{'S', severity}, {'V', severity}, {'C', f.code}, {'M', f.message}, {'D', f.detail}, {'H', f.hint}, {'P', position},
		{'s', f.schema}, {'t', f.table}, {'c', f.column}} {
		if field.text != "" {
			b = append(b, field.kind)
			b = append(b, field.text...)
			b = append(b, 0)
		}
	}
	return finish(append(b, 0), start)
}

// begin appends the head of a message, whose length finish fills in.
func begin(b []byte, kind byte) (_ []byte, start int) {
	return append(b, kind, 0, 0, 0, 0), len(b)
}

func finish(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start+1:], uint32(len(b)-start-1))
	return b
}

// refusedValue is what PostgreSQL would say of values that it would not take.
func refusedValue(r *behind.Refusal) *failure {
	f := &failure{code: r.Code, message: r.Message, detail: r.Detail, hint: r.Hint, position: r.Position, column: r.Column, reason: "refused"}
	if r.Table != nil {
		f.schema, f.table = r.Table.Schema, r.Table.Name
	}
	return f
}
