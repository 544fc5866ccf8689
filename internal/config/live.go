package config

import (
	"reflect"
	"slices"
	"strings"
)

// live are the keys that can change while walproxy runs; * is a name.
var live = []string{
	"admin.hosts", "admin.max_connections", "admin.tls", "admin.tokens",
	"aerowire.max_connections", "aerowire.tls",
	"api.hosts", "api.max_body_bytes", "api.max_connections", "api.max_inflight_bytes", "api.max_item_bytes", "api.tls", "api.tokens",
	"logging.level", "logging.sampling.disabled", "logging.sampling.every", "logging.sampling.first", "logging.sampling.thereafter",
	"pgwire.max_connections", "pgwire.max_database_connections", "pgwire.max_user_connections",
	"routes",
	"sinks.*.apply_timeout", "sinks.*.batch.bytes", "sinks.*.batch.latency", "sinks.*.batch.linger", "sinks.*.batch.records",
	"sinks.*.collections.*.lane_group", "sinks.*.collections.*.on_reject", "sinks.*.collections.*.own_lanes",
	"sinks.*.dead_letters.age", "sinks.*.dead_letters.bytes", "sinks.*.halt_retry", "sinks.*.hold_after", "sinks.*.lanes",
	"sinks.*.max_lag_bytes", "sinks.*.retain",
}

// Live reports whether a key of Changed can change while walproxy runs, for all that
// the key alone says.
func Live(key string) bool { return slices.Contains(live, general(key)) }

// general has * for the names in a key: of a sink, and of collections, which may have
// dots.
func general(key string) string {
	rest, ok := strings.CutPrefix(key, "sinks.")
	if !ok {
		return key
	}
	_, rest, _ = strings.Cut(rest, ".")
	if of, ok := strings.CutPrefix(rest, "collections."); ok {
		rest = "collections.*" + of[max(strings.LastIndex(of, "."), 0):]
	}
	return "sinks.*." + rest
}

// Merged is now with what next says of some of the keys of Changed, or what is wrong
// with that: *Error. Neither is changed.
func Merged(now, next *Config, keys []string) (*Config, error) {
	out := *now // origin and all
	merge(keys, reflect.ValueOf(&out).Elem(), reflect.ValueOf(*next), "")
	out.origin = next.origin
	return &out, collect(out.faults())
}

// merge sets what keys name of out, a copy, to what b has.
func merge(keys []string, out, b reflect.Value, key string) {
	below := func(of string) bool { return of == key || key == "" || strings.HasPrefix(of, key+".") }
	switch {
	case !slices.ContainsFunc(keys, below):
	case slices.Contains(keys, key):
		out.Set(b)
	case out.Kind() == reflect.Pointer:
		copied := reflect.New(out.Type().Elem())
		copied.Elem().Set(out.Elem())
		merge(keys, copied.Elem(), b.Elem(), key)
		out.Set(copied)
	case out.Kind() == reflect.Struct:
		for i := range out.NumField() {
			if f := out.Type().Field(i); f.IsExported() {
				merge(keys, out.Field(i), b.Field(i), join(key, f.Tag.Get("yaml")))
			}
		}
	case out.Kind() == reflect.Map:
		copied := reflect.MakeMap(out.Type())
		for _, m := range []reflect.Value{out, b} {
			for _, name := range m.MapKeys() {
				at := join(key, name.String())
				was, is := out.MapIndex(name), b.MapIndex(name)
				if !was.IsValid() && !slices.ContainsFunc(keys, func(of string) bool { return strings.HasPrefix(of, at+".") }) {
					continue
				}
				item := reflect.New(out.Type().Elem()).Elem()
				if was.IsValid() {
					item.Set(was)
				}
				if !is.IsValid() {
					is = reflect.Zero(out.Type().Elem())
				}
				merge(keys, item, is, at)
				copied.SetMapIndex(name, item)
			}
		}
		out.Set(copied)
	}
}

// Unread is why routes cannot take the place of others while walproxy runs: a collection
// that would be read from another sink, which need not have what there is of it, however
// it was routed lately. It is empty if there is none.
func Unread(was, is []Route) string {
	var wild, wildBefore []string // patterns that are not one name
	for _, r := range is {
		for _, p := range r.Collections {
			if wildcards(p) > 0 {
				wild = append(wild, p)
				continue
			}
			if reason := unread(p, routeOf(was, p), routeOf(is, p)); reason != "" {
				return reason
			}
		}
	}
	for _, r := range was {
		for _, p := range r.Collections {
			if wildcards(p) > 0 {
				wildBefore = append(wildBefore, p)
			} else if reason := unread(p, routeOf(was, p), routeOf(is, p)); reason != "" {
				return reason
			}
		}
	}
	// Of two patterns that may share names: the first that takes all of either decides.
	for i, p := range wild {
		for j, q := range wildBefore {
			if slices.Contains(wild[:i], q) || slices.Contains(wildBefore[:j], p) || !mayShare(p, q) {
				continue
			}
			if reason := unread(p, byPattern(was, q), byPattern(is, p)); reason != "" {
				return reason
			}
		}
	}
	return ""
}

func unread(what string, was, is *Route) string {
	if was == nil || is == nil || was.Sinks[0] == is.Sinks[0] {
		return ""
	}
	return "reads of " + what + " would go from sink " + was.Sinks[0] + " to " + is.Sinks[0] +
		", which need not have what there is: that needs a restart; behind " + was.Sinks[0] + " it can be now"
}

// routeOf is the first that takes a collection; nil: none.
func routeOf(routes []Route, collection string) *Route {
	i := slices.IndexFunc(routes, func(r Route) bool { return r.takes(collection) })
	if i < 0 {
		return nil
	}
	return &routes[i]
}

func byPattern(routes []Route, pattern string) *Route {
	i := slices.IndexFunc(routes, func(r Route) bool { return slices.Contains(r.Collections, pattern) })
	return &routes[i]
}

// mayShare reports whether a name may match both patterns: not if they begin otherwise.
func mayShare(p, q string) bool {
	p, q = p[:strings.IndexAny(p, `*?[\`)], q[:strings.IndexAny(q, `*?[\`)]
	return strings.HasPrefix(p, q) || strings.HasPrefix(q, p)
}
