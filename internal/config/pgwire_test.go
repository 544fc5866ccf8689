package config

import (
	"slices"
	"testing"
)

func TestParseUpstream(t *testing.T) {
	for text, want := range map[string][]UpstreamAddress{
		"postgres://db":                   {{"tcp", "db:5432"}},
		"postgresql://db:1/":              {{"tcp", "db:1"}},
		"postgres://a:1,b,c:3?port=2":     {{"tcp", "a:1"}, {"tcp", "b:2"}, {"tcp", "c:3"}},
		"postgres://[::1]:1,[::2]/":       {{"tcp", "[::1]:1"}, {"tcp", "[::2]:5432"}},
		"postgres:///?host=/run/pg":       {{"unix", "/run/pg/.s.PGSQL.5432"}},
		"postgres://%2Frun%2Fpg:1":        {{"unix", "/run/pg/.s.PGSQL.1"}},
		"postgres://db/?host=/a b&port=2": {{"tcp", "db:2"}, {"unix", "/a b/.s.PGSQL.2"}},
	} {
		u, err := ParseUpstream(text)
		if err != nil || !slices.Equal(u.Addresses, want) {
			t.Errorf("%s: %v, %v; want %v", text, u.Addresses, err, want)
		}
	}
	for _, text := range []string{"", "db", "mysql://db", "postgres://", "postgres://a,,b", "postgres://a:x", "postgres://%zz", "postgres://a?sslcert=x", "postgres://a?%zz=1"} {
		if u, err := ParseUpstream(text); err == nil {
			t.Errorf("%q: taken as %+v", text, u)
		}
	}
}
