package mutation

import (
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// validateValue checks a value that lies depth lists and maps deep.
//
// NaN and the infinities are refused: JSON and several stores have none, and a
// record must read back the same everywhere.
func validateValue(path string, v *walproxyv1.Value, depth int) error {
	switch k := v.GetKind().(type) {
	case *walproxyv1.Value_Null:
		if k.Null != structpb.NullValue_NULL_VALUE {
			return &InvalidError{path, fmt.Sprintf("unknown null %d", k.Null)}
		}
	case *walproxyv1.Value_Bool, *walproxyv1.Value_Int64, *walproxyv1.Value_Bytes:
	case *walproxyv1.Value_Double:
		if math.IsNaN(k.Double) || math.IsInf(k.Double, 0) {
			return &InvalidError{path, fmt.Sprintf("%v is not a finite number", k.Double)}
		}
	case *walproxyv1.Value_Decimal:
		if reason := checkDecimal(k.Decimal); reason != "" {
			return &InvalidError{path, reason}
		}
	case *walproxyv1.Value_String_:
		if !utf8.ValidString(k.String_) {
			return &InvalidError{path, "is not valid UTF-8; use bytes"}
		}
	case *walproxyv1.Value_Timestamp:
		if err := k.Timestamp.CheckValid(); err != nil {
			return &InvalidError{path, "the timestamp lies outside the years 1 to 9999 or has bad nanoseconds"}
		}
	case *walproxyv1.Value_List_:
		if depth >= MaxDepth {
			return &InvalidError{path, fmt.Sprintf("nests deeper than %d", MaxDepth)}
		}
		for i, item := range k.List.GetValues() {
			// The path of an item is built only for an error: lists can be long.
			if err := validateValue("", item, depth+1); err != nil {
				return under(fmt.Sprintf("%s[%d]", path, i), err)
			}
		}
	case *walproxyv1.Value_Map_:
		if depth >= MaxDepth {
			return &InvalidError{path, fmt.Sprintf("nests deeper than %d", MaxDepth)}
		}
		return validateFields(path, k.Map.GetFields(), depth+1)
	default:
		return &InvalidError{path, "has no value"}
	}
	return nil
}

func validateFields(path string, fields map[string]*walproxyv1.Value, depth int) error {
	if len(fields) > MaxFields {
		return &InvalidError{path, fmt.Sprintf("has %d fields; at most %d", len(fields), MaxFields)}
	}
	for name, v := range fields {
		if reason := checkFieldName(name); reason != "" {
			return &InvalidError{path, reason}
		}
		if err := validateValue("", v, depth); err != nil {
			return under(path+"."+name, err)
		}
	}
	return nil
}

// under puts path in front of the field that err names.
func under(path string, err error) error {
	if e, ok := err.(*InvalidError); ok {
		return &InvalidError{path + e.Field, e.Reason}
	}
	return err
}

func checkFieldName(name string) string {
	switch {
	case name == "":
		return "a field name is empty"
	case len(name) > MaxFieldNameBytes:
		return fmt.Sprintf("field name %.40q... is %d bytes; at most %d", name, len(name), MaxFieldNameBytes)
	}
	return checkText("field name", name)
}

func checkText(what, s string) string {
	if !utf8.ValidString(s) {
		return fmt.Sprintf("%s %.40q is not valid UTF-8", what, s)
	}
	for _, b := range []byte(s) {
		if b == 0 {
			return fmt.Sprintf("%s %.40q contains a NUL", what, s)
		}
	}
	return ""
}

// checkExpiry: the Unix epoch is the lowest so that a time.Time of zero can
// stand for "never".
func checkExpiry(m *walproxyv1.Mutation) string {
	at := m.GetExpiresAt()
	switch {
	case at == nil:
		return ""
	case !at.IsValid():
		return "the timestamp lies outside the years 1 to 9999 or has bad nanoseconds"
	case at.AsTime().Before(time.Unix(0, 0)):
		return "lies before 1970"
	}
	return ""
}
