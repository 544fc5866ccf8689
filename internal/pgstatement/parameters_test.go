package pgstatement

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestParametersRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 40).Draw(t, "n")
		formats, values := make([]int16, n), make([][]byte, n)
		for i := range n {
			formats[i] = rapid.Int16Range(0, 1).Draw(t, "format")
			if rapid.Bool().Draw(t, "value") {
				values[i] = append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bytes")...)
			}
		}
		encoded := AppendParameters([]byte("before"), formats, values)[len("before"):]
		gotFormats, gotValues, err := Parameters(encoded)
		if err != nil || !slices.Equal(gotFormats, formats) || !slices.EqualFunc(gotValues, values, func(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }) {
			t.Fatalf("%v %q became %v %q (%v)", formats, values, gotFormats, gotValues, err)
		}
		for cut := range encoded {
			if _, _, err := Parameters(encoded[:cut]); err == nil {
				t.Fatalf("%d of %d bytes are read", cut, len(encoded))
			}
		}
	})
}

func FuzzParameters(f *testing.F) {
	f.Add(AppendParameters(nil, []int16{0, 1, 0}, [][]byte{[]byte("a"), nil, {}}))
	f.Add([]byte{1, 0xff, 0xff, 3})
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, encoded []byte) {
		formats, values, err := Parameters(encoded)
		if err != nil {
			return
		}
		again, valuesAgain, err := Parameters(AppendParameters(nil, formats, values))
		if err != nil || !slices.Equal(again, formats) || !slices.EqualFunc(values, valuesAgain, bytes.Equal) {
			t.Fatalf("%v %q became %v %q (%v)", formats, values, again, valuesAgain, err)
		}
	})
}
