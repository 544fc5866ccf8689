package sinks

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
)

// Detailed is an error that can say in parts what a store said. A dead letter
// keeps them beside its reason; for Postgres they are named sqlstate, message,
// detail, hint, constraint, table and column.
type Detailed interface {
	error
	// Details may be called more than once. Parts that are empty are left out.
	Details() map[string]string
}

// DetailsOf returns the parts of the first Detailed error in err's tree that are
// not empty, nil if there are none. Names and values are valid UTF-8 and take at
// most limit bytes together: short parts are taken first, what no longer fits is
// cut.
func DetailsOf(err error, limit int) map[string]string {
	detailed, ok := errors.AsType[Detailed](err)
	if !ok {
		return nil
	}
	parts := detailed.Details()
	var kept map[string]string
	names := slices.SortedFunc(maps.Keys(parts), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(parts[a]), len(parts[b])), strings.Compare(a, b))
	})
	for _, name := range names {
		value := strings.ToValidUTF8(parts[name], "\uFFFD")
		clean := strings.ToValidUTF8(name, "\uFFFD")
		if value == "" || len(clean) >= limit {
			continue
		}
		limit -= len(clean)
		if len(value) > limit {
			value = strings.ToValidUTF8(value[:limit], "")
		}
		limit -= len(value)
		if value == "" {
			continue
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[clean] = value
	}
	return kept
}
