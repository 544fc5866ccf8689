package rpc

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func readItems(in io.Reader, lines bool, most int) (items []string, err error) {
	r := itemReader{in: bufio.NewReaderSize(in, 16), most: most, lines: lines}
	for {
		item, err := r.next()
		if err != nil {
			return items, err
		}
		items = append(items, string(item))
	}
}

func TestItems(t *testing.T) {
	for _, c := range []struct {
		in    string
		lines bool
		want  []string
	}{
		{`[]`, false, nil},
		{" [ ] \n", false, nil},
		{`[{"a":1},{"b":[1,{"c":"],}"}]}]`, false, []string{`{"a":1}`, `{"b":[1,{"c":"],}"}]}`}},
		{"[\n {\"a\":\"\\\"]\\\\\"} ,\t2 , \"x\" ]", false, []string{`{"a":"\"]\\"}`, `2`, `"x"`}},
		{"{\"a\":1}\n\n  {\"b\":2}  \r\n", true, []string{`{"a":1}`, `{"b":2}`}},
		{"{\"a\":1}\n{\"b\":2}", true, []string{`{"a":1}`, `{"b":2}`}},
		{"", true, nil},
		{"\n\n", true, nil},
	} {
		for name, in := range map[string]io.Reader{
			"whole": strings.NewReader(c.in), "bytewise": iotest.OneByteReader(strings.NewReader(c.in)),
		} {
			got, err := readItems(in, c.lines, 100)
			if !errors.Is(err, io.EOF) || !slices.Equal(got, c.want) {
				t.Errorf("%s %q: got %q, %v; want %q", name, c.in, got, err, c.want)
			}
		}
	}
}

func TestBrokenItems(t *testing.T) {
	var syntax *syntaxError
	for _, in := range []string{`{}`, `[] x`, `[{}}`, `3`} {
		if items, err := readItems(strings.NewReader(in), false, 100); !errors.As(err, &syntax) {
			t.Errorf("%q: got %q, %v", in, items, err)
		}
	}
	for _, in := range []string{``, `[`, `[{}`, `[{},`, `[{"a":1`, `["`} {
		items, err := readItems(strings.NewReader(in), false, 100)
		if !errors.Is(err, io.ErrUnexpectedEOF) || len(items) > 1 {
			t.Errorf("%q: got %q, %v", in, items, err)
		}
	}
	// A connection that breaks in mid-line delivers no half line.
	in := io.MultiReader(strings.NewReader("{\"a\":1}\n{\"b\":"), iotest.ErrReader(io.ErrUnexpectedEOF))
	items, err := readItems(in, true, 100)
	if !errors.Is(err, io.ErrUnexpectedEOF) || !slices.Equal(items, []string{`{"a":1}`}) {
		t.Errorf("broken connection: got %q, %v", items, err)
	}
	long := `"` + strings.Repeat("x", 48) + `"` // 50 bytes
	for _, lines := range []bool{true, false} {
		text := long
		if !lines {
			text = "[" + long + "]"
		}
		if items, err := readItems(strings.NewReader(text), lines, 50); !errors.Is(err, io.EOF) || len(items) != 1 {
			t.Errorf("lines=%v: exactly the limit: got %q, %v", lines, items, err)
		}
		if items, err := readItems(strings.NewReader(text), lines, 49); !errors.Is(err, errItemTooLarge) {
			t.Errorf("lines=%v: one over the limit: got %q, %v", lines, items, err)
		}
	}
}

// FuzzItems: an array that encoding/json takes is cut into what encoding/json
// sees in it, and no item is larger than the limit.
func FuzzItems(f *testing.F) {
	f.Add(`[{"a":"\\\""},[1,2],"]"]`, false)
	f.Add("{}\n{}\n", true)
	f.Add(`[1 2]`, false)
	f.Fuzz(func(t *testing.T, in string, lines bool) {
		items, err := readItems(strings.NewReader(in), lines, 64)
		for _, item := range items {
			if len(item) > 64 {
				t.Fatalf("item of %d bytes", len(item))
			}
		}
		var want []json.RawMessage
		if lines || !errors.Is(err, io.EOF) || json.Unmarshal([]byte(in), &want) != nil {
			return
		}
		got := make([]json.RawMessage, len(items))
		for i, item := range items {
			got[i] = json.RawMessage(item)
		}
		if !slices.EqualFunc(got, want, func(a, b json.RawMessage) bool { return string(a) == string(b) }) {
			t.Fatalf("%q: got %q, want %q", in, got, want)
		}
	})
}
