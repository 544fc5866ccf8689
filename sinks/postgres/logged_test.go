package postgres

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgstatement"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// anySchema stands for a target's in the statements of a workload.
const anySchema = "any schema"

// inSchema returns records whose statements write a schema.
func inSchema(records []sinks.Record, schema string) []sinks.Record {
	out := slices.Clone(records)
	for i := range out {
		if out[i].Body.GetMutation() != nil {
			continue
		}
		body := proto.CloneOf(out[i].Body)
		move := func(s *walproxyv1.Statement) {
			if s != nil {
				s.Text, s.SearchPath = strings.ReplaceAll(s.Text, anySchema, schema), strings.ReplaceAll(s.SearchPath, anySchema, schema)
			}
		}
		move(body.GetStatement())
		for _, member := range body.GetGroup().GetMembers() {
			move(member.GetStatement())
		}
		out[i].Body = body
	}
	return out
}

// sqlValue is one way to give a column a value.
type sqlValue struct {
	oid    uint32
	format int16
	draw   func(rt *rapid.T) []byte
}

func sqlText(oid uint32, texts ...string) sqlValue {
	return sqlValue{oid, formatText, func(rt *rapid.T) []byte {
		if i := rapid.IntRange(-1, len(texts)-1).Draw(rt, "value"); i >= 0 {
			return []byte(texts[i])
		}
		return nil
	}}
}

func sqlInteger(oid uint32, size int) sqlValue {
	return sqlValue{oid, formatBinary, func(rt *rapid.T) []byte {
		return appendInteger(nil, rapid.Int64Range(-3, 3).Draw(rt, "n"), size)
	}}
}

// sqlValues are, by column of table plain, values that it takes and a few that it
// does not.
var sqlValues = map[string][]sqlValue{
	"n":   {sqlInteger(oidInt4, 4), sqlInteger(oidInt8, 8), sqlInteger(oidInt2, 2), sqlText(oidInt4, "1", "-2", " 3", "x")},
	"d":   {sqlText(oidFloat8, "0.25", "NaN", "1e300"), {oidFloat4, formatBinary, func(rt *rapid.T) []byte { return binary.BigEndian.AppendUint32(nil, math.Float32bits(1.5)) }}},
	"dec": {sqlText(oidNumeric, "1.50", "-0.001", "NaN"), sqlInteger(oidInt8, 8)},
	"t":   {sqlText(oidText, "a", "abc", "", `"`, `\`, "{,}", "NULL", "é"), sqlText(oidVarchar, "b", "c"), {oidText, formatBinary, func(*rapid.T) []byte { return []byte("bc") }}},
	"j": {sqlText(oidJSONB, `{"a": "\\\""}`, "[1,null]", "{"), sqlText(oidJSON, "1"),
		{oidJSONB, formatBinary, func(*rapid.T) []byte { return []byte("\x01{}") }}},
	"money": {sqlText(oidNumeric, "9999.994", "9999.995", "1"), sqlInteger(oidInt4, 4)},
	"five":  {sqlInteger(oidInt4, 4), sqlText(oidInt8, "5", "3000000000")},
	"word":  {sqlText(oidVarchar, "ab", "abcd", "abcd ", "abcde"), sqlText(oidText, "b")},
	"need":  {sqlText(oidText, "x", "")},
}

// drawStatement makes body a statement, or a group with one.
func (w *workload) drawStatement(body *walproxyv1.Record) {
	if rapid.IntRange(0, 7).Draw(w.rt, "group") > 0 {
		body.Body = &walproxyv1.Record_Statement{Statement: w.statement()}
		return
	}
	m := w.mutation(w.clock)
	m.Precondition = nil
	body.Body = &walproxyv1.Record_Group{Group: &walproxyv1.Group{Members: []*walproxyv1.Group_Member{
		{Kind: &walproxyv1.Group_Member_Statement{Statement: w.statement()}},
		{Kind: &walproxyv1.Group_Member_Mutation{Mutation: m}},
		{Kind: &walproxyv1.Group_Member_Statement{Statement: w.statement()}},
	}}}
}

// sqlWriter writes a statement with its parameters.
type sqlWriter struct {
	rt      *rapid.T
	text    strings.Builder
	oids    []uint32
	formats []int16
	values  [][]byte
}

func (s *sqlWriter) write(format string, args ...any) { fmt.Fprintf(&s.text, format, args...) }

func (s *sqlWriter) parameter(v sqlValue) {
	s.oids, s.formats, s.values = append(s.oids, v.oid), append(s.formats, v.format), append(s.values, v.draw(s.rt))
	s.write("$%d", len(s.oids))
}

func (s *sqlWriter) list(names []string, each func(name string)) {
	for i, name := range names {
		if i > 0 {
			s.write(", ")
		}
		each(name)
	}
}

// statement draws one that writes a row of table plain.
func (w *workload) statement() *walproxyv1.Statement {
	rt := w.rt
	key := rapid.SampledFrom(w.keys).Draw(rt, "key")
	id := sqlValue{oidText, int16(rapid.IntRange(0, 1).Draw(rt, "format")), func(*rapid.T) []byte { return []byte(key.GetString_()) }}
	given := func(name string) []string {
		names := []string{}
		for f := range w.values {
			if sqlValues[f] != nil {
				names = append(names, f)
			}
		}
		slices.Sort(names)
		return names[:rapid.IntRange(0, len(names)).Draw(rt, name)]
	}
	s := &sqlWriter{rt: rt}
	value := func(name string) {
		// Mostly the first form, or nothing would be joined.
		forms := sqlValues[name]
		s.parameter(forms[max(0, rapid.IntRange(-2, len(forms)-1).Draw(rt, "form"))])
	}
	set := func(excluded bool) {
		names := given("set")
		if len(names) == 0 {
			names = []string{"t"}
		}
		how := rapid.IntRange(0, 3).Draw(rt, "assigned")
		s.list(names, func(name string) {
			s.write("%s = ", quote(name))
			switch {
			case how == 0 && name == names[0]:
				s.write("DEFAULT")
			case excluded && how < 3:
				s.write("EXCLUDED.%s", quote(name))
			default:
				value(name)
			}
		})
	}
	table := quote(anySchema) + `."plain"`
	switch rapid.SampledFrom([]string{"insert", "insert", "upsert", "upsert", "nothing", "update", "update", "delete"}).Draw(rt, "statement") {
	case "update":
		s.write("UPDATE %s SET ", table)
		set(false)
		s.write(` WHERE "id" = `)
		s.parameter(id)
	case "delete":
		s.write(`DELETE FROM %s WHERE "id" = `, table)
		s.parameter(id)
	case "insert":
		w.insert(s, table, id, given("columns"), value)
	case "nothing":
		w.insert(s, table, id, given("columns"), value)
		s.write(" ON CONFLICT%s DO NOTHING", rapid.SampledFrom([]string{"", ` ("id")`}).Draw(rt, "target"))
	case "upsert":
		w.insert(s, table, id, given("columns"), value)
		s.write(` ON CONFLICT ("id") DO UPDATE SET `)
		set(true)
	}
	out := &walproxyv1.Statement{
		Text: s.text.String(), ParameterOids: s.oids, Parameters: pgstatement.AppendParameters(nil, s.formats, s.values),
		Collection: "plain", Key: key, SearchPath: quote(anySchema),
		Role: rapid.SampledFrom([]string{pgtest.Superuser, pgtest.Superuser, "none"}).Draw(rt, "role"),
	}
	if rapid.Bool().Draw(rt, "zone") {
		out.Settings = map[string]string{"TimeZone": "Asia/Kolkata"}
	}
	if err := mutation.ValidateStatement(out); err != nil {
		rt.Fatal(err)
	}
	return out
}

func (w *workload) insert(s *sqlWriter, table string, id sqlValue, columns []string, value func(string)) {
	columns = append([]string{"id"}, columns...)
	s.write("INSERT INTO %s (", table)
	s.list(columns, func(name string) { s.write("%s", quote(name)) })
	s.write(") VALUES (")
	s.list(columns, func(name string) {
		if name == "id" {
			s.parameter(id)
			return
		}
		value(name)
	})
	s.write(")")
}
