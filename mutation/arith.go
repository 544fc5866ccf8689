package mutation

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// add returns the exact sum of a field and a number; see Apply. reason says why
// there is none.
func add(old, v *walproxyv1.Value) (sum *walproxyv1.Value, reason string) {
	switch a := old.GetKind().(type) {
	case *walproxyv1.Value_Int64:
		if b, ok := v.GetKind().(*walproxyv1.Value_Int64); ok {
			return addInt64(a.Int64, b.Int64)
		}
	case *walproxyv1.Value_Double:
		switch b := v.GetKind().(type) {
		case *walproxyv1.Value_Double:
			return addDouble(a.Double, b.Double)
		case *walproxyv1.Value_Int64:
			return addDouble(a.Double, float64(b.Int64))
		}
	case *walproxyv1.Value_Decimal:
		switch b := v.GetKind().(type) {
		case *walproxyv1.Value_Decimal:
			return addDecimal(a.Decimal, b.Decimal)
		case *walproxyv1.Value_Int64:
			return addDecimal(a.Decimal, strconv.FormatInt(b.Int64, 10))
		}
	}
	return nil, fmt.Sprintf("the field is %s; %s cannot be added to it", KindName(old), KindName(v))
}

func addInt64(a, b int64) (sum *walproxyv1.Value, reason string) {
	if b > 0 && a > math.MaxInt64-b || b < 0 && a < math.MinInt64-b {
		return nil, fmt.Sprintf("%d + %d overflows int64", a, b)
	}
	return Int64Value(a + b), ""
}

func addDouble(a, b float64) (sum *walproxyv1.Value, reason string) {
	s := a + b
	if math.IsNaN(s) || math.IsInf(s, 0) {
		return nil, fmt.Sprintf("%v + %v is not finite", a, b)
	}
	return DoubleValue(s), ""
}

func addDecimal(a, b string) (sum *walproxyv1.Value, reason string) {
	s, reason := addDecimals(a, b)
	if reason != "" {
		return nil, reason
	}
	return DecimalValue(s), ""
}

// concat returns a followed by b.
func concat(a, b *walproxyv1.Value) (whole *walproxyv1.Value, reason string) {
	switch x := a.GetKind().(type) {
	case *walproxyv1.Value_String_:
		if y, ok := b.GetKind().(*walproxyv1.Value_String_); ok {
			return StringValue(x.String_ + y.String_), ""
		}
	case *walproxyv1.Value_Bytes:
		if y, ok := b.GetKind().(*walproxyv1.Value_Bytes); ok {
			return BytesValue(slices.Concat(x.Bytes, y.Bytes)), ""
		}
	case *walproxyv1.Value_List_:
		if y, ok := b.GetKind().(*walproxyv1.Value_List_); ok {
			return ListValue(slices.Concat(x.List.GetValues(), y.List.GetValues())...), ""
		}
	}
	return nil, fmt.Sprintf("%s and %s cannot be joined", KindName(a), KindName(b))
}
