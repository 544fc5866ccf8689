package dlq

import (
	"encoding/json"
	"errors"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
)

const one = `{"collection":"orders","key":"42","set":{"total":1,"items":[{"price":2},3]},"if_version":7}`

func TestSet(t *testing.T) {
	group := `[` + one + `,{"collection":"orders","key":"43","merge":{"a":1},"increment":{"b":1}}]`
	for _, c := range []struct{ doc, path, value, want string }{
		{one, "total", "5", `{"collection":"orders","if_version":7,"key":"42","set":{"items":[{"price":2},3],"total":5}}`},
		{one, "set.note", "a b", `{"collection":"orders","if_version":7,"key":"42","set":{"items":[{"price":2},3],"note":"a b","total":1}}`},
		{one, "note", "007", `{"collection":"orders","if_version":7,"key":"42","set":{"items":[{"price":2},3],"note":"007","total":1}}`},
		{one, "items.0.price", "9", `{"collection":"orders","if_version":7,"key":"42","set":{"items":[{"price":9},3],"total":1}}`},
		{one, "items.1", "9", `{"collection":"orders","if_version":7,"key":"42","set":{"items":[{"price":2},9],"total":1}}`},
		{one, "deep.er", `{"$decimal":"1.5"}`, `{"collection":"orders","if_version":7,"key":"42","set":{"deep":{"er":{"$decimal":"1.5"}},"items":[{"price":2},3],"total":1}}`},
		{one, "if_version", "8", strings.Replace(`{"collection":"orders","if_version":7,"key":"42","set":{"items":[{"price":2},3],"total":1}}`, "7", "8", 1)},
		{one, "collection", "12", `{"collection":"12","if_version":7,"key":"42","set":{"items":[{"price":2},3],"total":1}}`},
		{one, "key", "43", `{"collection":"orders","if_version":7,"key":43,"set":{"items":[{"price":2},3],"total":1}}`},
		{group, "1.merge.a", "2", `[` + one + `,{"collection":"orders","increment":{"b":1},"key":"43","merge":{"a":2}}]`},
		{group, "1.a", "2", "1.a: is no member of a mutation"},
		{group, "2.a", "2", `2.a: "2" is no index of a list of 2`},
		{one, "total.x", "2", "total.x: what is above x is neither an object nor a list"},
		{one, "items.x", "2", `items.x: "x" is no index of a list of 2`},
		{one, "total.", "2", "total.: a part of the path is empty"},
		{one, "", "2", "a part of the path is empty"},
	} {
		got, err := Set(json.RawMessage(c.doc), c.path, c.value)
		if err != nil {
			got = []byte(err.Error())
		}
		var have, want any
		if json.Unmarshal(got, &have) != nil || json.Unmarshal([]byte(c.want), &want) != nil {
			have, want = strings.HasPrefix(string(got), c.want), true
		}
		if !reflect.DeepEqual(have, want) {
			t.Errorf("%s=%s: %s, want %s", c.path, c.value, got, c.want)
		}
	}
	got, err := Unset(json.RawMessage(one), "if_version")
	if err != nil || strings.Contains(string(got), "if_version") {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := Unset(json.RawMessage(one), "nothing"); err == nil {
		t.Error("a member that is not there was removed")
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"":              "there is nothing",
		"# only this":   "there is nothing",
		"{\n\"key\":1}": "collection: must not be empty",
		"# c\n{\"collection\":\"c\",\n\"key\":1,\n\"set\":{\"a\":tru}}": "line 4: set.a: want true",
		`[{"collection":"c"}]`: "members[0].mutation.key",
		`[1]`:                  "line 1: [0]: want an object",
		`{"collection":"dlq","key":1,"delete":true}`: "collection",
	} {
		_, err := Parse([]byte(text))
		var wrong *TextError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := Parse([]byte("  # this is no comment\n" + one)); err == nil {
		t.Error("a comment that is indented was passed")
	}
}

// FuzzParse: what is read is a write whose JSON form reads as the same.
func FuzzParse(f *testing.F) {
	for _, text := range []string{one, "[" + one + "," + one + "]", "# c\n" + one + "\n# d", `{"collection":"c","key":[1,"a",{"$bytes":"AA=="}],"delete":true,"set":{}}`,
		`[{"statement":{"collection":"c","key":1,"text":"DELETE FROM \"c\" WHERE \"id\" = $1","parameter_oids":[20],"role":"r","search_path":"","parameters":["1"]}},` + one + `]`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		rec, err := Parse(text)
		if err != nil {
			var wrong *TextError
			var invalid *mutation.InvalidError
			if !errors.As(err, &wrong) && !errors.As(err, &invalid) || wrong != nil && wrong.Line > 1+strings.Count(string(text), "\n") {
				t.Fatalf("%v", err)
			}
			return
		}
		single, group := formsOf(rec)
		l := Letter{Whole: &Whole{Mutation: single, Group: group}}
		if s := rec.GetStatement(); s != nil {
			l.Statement = jsonform.AppendStatement(nil, s)
		}
		again, err := l.Text()
		if errors.Is(err, ErrNoForm) && rec.GetGroup() != nil && len(rec.GetGroup().GetMembers()) == 0 {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse(again)
		if err != nil || !proto.Equal(back, rec) {
			t.Fatalf("%s became %s: %v", text, again, err)
		}
	})
}

func FuzzSet(f *testing.F) {
	f.Add(one, "total", "5")
	f.Add("["+one+"]", "0.set.items.0.price", `{"$decimal":"1"}`)
	f.Fuzz(func(t *testing.T, doc, path, value string) {
		rec, err := jsonform.DecodeMutation([]byte(doc))
		if err != nil || rec == nil {
			return
		}
		out, err := Set(json.RawMessage(doc), path, value)
		if err == nil && !json.Valid(out) {
			t.Fatalf("%s=%s in %s: %s", path, value, doc, out)
		}
	})
}

func TestMatchCode(t *testing.T) {
	for _, c := range []struct {
		filter, code string
		want         bool
	}{{"", "", true}, {"23", "23505", true}, {"23505", "23505", true}, {"23503", "23505", false}, {"23", "42P01", false}, {"2", "23505", false}, {"23", "", false}, {"42p01", "42P01", true}} {
		f, err := ParseFilter(url.Values{"code": {c.filter}})
		if err != nil {
			t.Fatal(err)
		}
		d := state.DeadLetter{Kind: state.Rejected, Details: map[string]string{"sqlstate": c.code}}
		if got, err := f.Match(&d); err != nil || got != c.want {
			t.Errorf("%q selects %q: %v, %v", c.filter, c.code, got, err)
		}
	}
}
