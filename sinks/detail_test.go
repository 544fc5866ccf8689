package sinks

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"unicode/utf8"
)

type detailed map[string]string

func (d detailed) Error() string { return "the store said no" }

func (d detailed) Details() map[string]string { return d }

func TestDetailsOf(t *testing.T) {
	said := detailed{"sqlstate": "23505", "constraint": "orders_pkey", "hint": "", "detail": strings.Repeat("ü", 100)}
	for _, c := range []struct {
		name  string
		err   error
		limit int
		want  map[string]string
	}{
		{"none", errors.New("plain"), 1000, nil},
		{"no error", nil, 1000, nil},
		{"nothing said", detailed{"hint": ""}, 1000, nil},
		{"all", said, 1000, map[string]string{"sqlstate": "23505", "constraint": "orders_pkey", "detail": strings.Repeat("ü", 100)}},
		{"wrapped and marked", fmt.Errorf("LSN 3: %w", WithOutcome(Rejected, said)), 1000,
			map[string]string{"sqlstate": "23505", "constraint": "orders_pkey", "detail": strings.Repeat("ü", 100)}},
		// sqlstate takes 13 bytes, constraint 21, detail the other 9: its name and one rune.
		{"cut", said, 43, map[string]string{"sqlstate": "23505", "constraint": "orders_pkey", "detail": "ü"}},
		{"no room", said, 3, nil},
		{"not UTF-8", detailed{"a\xff": "b\xff"}, 100, map[string]string{"a\uFFFD": "b\uFFFD"}},
	} {
		got := DetailsOf(c.err, c.limit)
		if !maps.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		bytes := 0
		for name, value := range got {
			bytes += len(name) + len(value)
			if !utf8.ValidString(name) || !utf8.ValidString(value) {
				t.Errorf("%s: %q: %q is not UTF-8", c.name, name, value)
			}
		}
		if bytes > c.limit {
			t.Errorf("%s: %d bytes, want at most %d", c.name, bytes, c.limit)
		}
	}
}
