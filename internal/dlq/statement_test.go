package dlq

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgstatement"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
)

// statementLetter is the form of a dead letter that is a statement.
func statementLetter(t *testing.T) (*walproxyv1.Statement, Letter) {
	t.Helper()
	s := &walproxyv1.Statement{
		Text: `UPDATE "public"."orders" SET "note" = $1, "price" = $2, "raw" = $3 WHERE "id" = $4`, ParameterOids: []uint32{25, 1700, 17, 23},
		Parameters: pgstatement.AppendParameters(nil, []int16{0, 0, 1, 1}, [][]byte{[]byte("a \"b\""), nil, {0xff}, {0, 0, 0, 42}}),
		Role:       "app", SearchPath: `"public"`, Settings: map[string]string{"TimeZone": "UTC"}, Collection: "orders", Key: mutation.Int64(42), RequestId: "r",
	}
	payload, err := mutation.Encode(nil, &walproxyv1.Record{Format: mutation.Format, Body: &walproxyv1.Record_Statement{Statement: s}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := WholeOf(&state.DeadLetter{LSN: 1, Position: 1, Sink: "main", When: time.Now(), Payload: payload, Keys: [][]byte{mutation.AppendKey(nil, "orders", s.Key)}}, "stream")
	if err != nil {
		t.Fatal(err)
	}
	return s, l
}

// TestStatementForm: a statement is shown with its values, comes back the same, and can
// be mended.
func TestStatementForm(t *testing.T) {
	s, l := statementLetter(t)
	text, err := l.Text()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"text": "UPDATE \"public\".\"orders\"`, `"a \"b\""`, `"$binary": "42"`, `"$bytes": "/w=="`, `"role": "app"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s does not say %s", text, want)
		}
	}
	rec, err := Parse(append([]byte("# a comment\n"), text...))
	if err != nil || !proto.Equal(rec.GetStatement(), s) {
		t.Fatalf("%s came back as %v (%v)", text, rec, err)
	}
	doc := json.RawMessage(text)
	for path, value := range map[string]string{"parameters.0": "short", "statement.parameters.1": "12.50", "role": `"other"`} {
		if doc, err = Set(doc, path, value); err != nil {
			t.Fatal(err)
		}
	}
	if rec, err = Parse(doc); err != nil {
		t.Fatal(err)
	}
	formats, values, err := pgstatement.Parameters(rec.GetStatement().GetParameters())
	if err != nil || string(values[0]) != "short" || string(values[1]) != "12.50" || formats[1] != pgstatement.Text || formats[3] != pgstatement.Binary || rec.GetStatement().GetRole() != "other" {
		t.Errorf("mended to %v %q %v (%v)", formats, values, rec, err)
	}
}

// TestStatementGroupForm: a transaction is shown with its statements, comes back the same,
// and can be mended.
func TestStatementGroupForm(t *testing.T) {
	s, _ := statementLetter(t)
	other := proto.CloneOf(s)
	s.RequestId, other.RequestId, other.Key = "", "", mutation.Int64(43)
	g := &walproxyv1.Group{Members: []*walproxyv1.Group_Member{
		{Kind: &walproxyv1.Group_Member_Statement{Statement: s}},
		{Kind: &walproxyv1.Group_Member_Statement{Statement: other}},
		{Kind: &walproxyv1.Group_Member_Mutation{Mutation: mutation.Delete("orders", mutation.Int64(44))}},
	}}
	payload, err := mutation.Encode(nil, &walproxyv1.Record{Format: mutation.Format, Body: &walproxyv1.Record_Group{Group: g}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := WholeOf(&state.DeadLetter{LSN: 1, Position: 1, Sink: "main", When: time.Now(), Payload: payload, Keys: [][]byte{mutation.AppendKey(nil, "orders", s.Key), mutation.AppendKey(nil, "orders", other.Key)}}, "stream")
	if err != nil {
		t.Fatal(err)
	}
	text, err := l.Text()
	if err != nil {
		t.Fatal(err)
	}
	rec, err := Parse(text)
	if err != nil || !proto.Equal(rec.GetGroup(), g) {
		t.Fatalf("%s came back as %v (%v)", text, rec, err)
	}
	doc, err := Set(text, "1.parameters.0", "short")
	if err != nil {
		t.Fatal(err)
	}
	if rec, err = Parse(doc); err != nil {
		t.Fatal(err)
	}
	if _, values, err := pgstatement.Parameters(rec.GetGroup().GetMembers()[1].GetStatement().GetParameters()); err != nil || string(values[0]) != "short" {
		t.Errorf("mended to %q (%v)", values, err)
	}
	for path, value := range map[string]string{"1.parameters": "[]", "0.text": `"DROP TABLE orders"`, "1.nosuch": "7", "2.delete": "7"} {
		doc, err := Set(text, path, value)
		if err == nil {
			_, err = Parse(doc)
		}
		if wrong, ok := errors.AsType[*TextError](err); !ok || !strings.HasPrefix(wrong.Field, "["+path[:1]+"].") {
			t.Errorf("%s = %s: %v", path, value, err)
		}
	}
}

func TestStatementFormErrors(t *testing.T) {
	_, l := statementLetter(t)
	text, err := l.Text()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, value, field string }{
		{"text", `"DROP TABLE orders"`, "statement.text"}, {"key", "null", "statement.key"}, {"parameters", "[]", "statement.parameters"},
		{"parameters.3", `{"$binary":"x"}`, "statement.parameters[3]"}, {"parameters.1", `{"$binary":"1"}`, "statement.parameters[1]"},
		{"parameters.1", `{"other":"1"}`, "statement.parameters[1]"}, {"parameters.1", `[]`, "statement.parameters[1]"}, {"parameters", "7", "statement.parameters"},
		{"nosuch", "7", "statement"}, {"collection", "", "collection"},
	} {
		doc, err := Set(json.RawMessage(text), c.path, c.value)
		if err != nil {
			t.Fatal(err)
		}
		var wrong *TextError
		if _, err := Parse(doc); !errors.As(err, &wrong) || wrong.Field != c.field {
			t.Errorf("%s = %s: %v, want field %s", c.path, c.value, err, c.field)
		}
	}
}
