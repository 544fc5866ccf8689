package mutation

import (
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestFromAny(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("x", 3600))
	for _, c := range []struct{ in, want any }{
		{nil, nil}, {true, true}, {1, int64(1)}, {int8(-1), int64(-1)}, {uint32(7), int64(7)}, {uint64(math.MaxInt64), int64(math.MaxInt64)},
		{float32(1.5), 1.5}, {2.5, 2.5}, {Decimal("1.50"), Decimal("1.50")}, {"s", "s"}, {[]byte{0}, []byte{0}}, {at, at.UTC()},
		{[]any{1, "x", nil}, []any{int64(1), "x", nil}},
		{map[string]any{"a": []any{}}, map[string]any{"a": []any{}}},
		{Int64Value(3), int64(3)},
	} {
		v, err := FromAny(c.in)
		if err != nil {
			t.Errorf("FromAny(%v): %v", c.in, err)
			continue
		}
		if got := ToAny(v); !reflect.DeepEqual(got, c.want) {
			t.Errorf("ToAny(FromAny(%#v)) = %#v, want %#v", c.in, got, c.want)
		}
	}
	loop := map[string]any{}
	loop["self"] = loop
	for _, c := range []struct {
		in    any
		field string
	}{
		{struct{}{}, "value"}, {uint64(math.MaxUint64), "value"}, {math.NaN(), "value"}, {Decimal("x"), "value"}, {"\xff", "value"},
		{map[string]any{"a": []any{1, make(chan int)}}, "value.a[1]"},
		{loop, "value" + strings.Repeat(".self", MaxDepth)},
	} {
		_, err := FromAny(c.in)
		checkInvalid(t, err, c.field)
	}
	_, err := Set("c", String("k"), map[string]any{"a": func() {}})
	checkInvalid(t, err, "fields.a")
}

func TestDecimalSyntax(t *testing.T) {
	for _, s := range []string{"0", "-0", "+1", "1.", ".5", "-12.50", "1e5", "1E-1000", "007", strings.Repeat("9", MaxDecimalBytes)} {
		if reason := checkDecimal(s); reason != "" {
			t.Errorf("%q: %s", s, reason)
		}
	}
	for _, s := range []string{"", "-", ".", "e5", "1e", "1e+", "1,5", "1.2.3", "1e5x", " 1", "NaN", "Infinity", "0x10", "１",
		"1e1001", "1e-99999999999999999999", strings.Repeat("9", MaxDecimalBytes+1)} {
		if reason := checkDecimal(s); reason == "" {
			t.Errorf("%q is accepted", s)
		}
	}
}

// Sums are exact: math/big's rationals agree.
func TestAddDecimalsExact(t *testing.T) {
	gen := rapid.StringMatching(`[+-]?[0-9]{1,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,2})?`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		sum, reason := addDecimals(a, b)
		if reason != "" {
			t.Fatalf("%s + %s: %s", a, b, reason)
		}
		x, _ := new(big.Rat).SetString(a)
		y, _ := new(big.Rat).SetString(b)
		z, ok := new(big.Rat).SetString(sum)
		if !ok || z.Cmp(x.Add(x, y)) != 0 {
			t.Fatalf("%s + %s = %s, want %s", a, b, sum, x)
		}
	})
	if sum, reason := addDecimals("9e1000", "9e1000"); reason == "" {
		t.Errorf("9e1000 + 9e1000 = %s, beyond the limits", sum)
	}
	if sum, reason := addDecimals("1e1000", "1e-1000"); reason == "" {
		t.Errorf("2,001 digits are accepted: %.20s", sum)
	}
}
