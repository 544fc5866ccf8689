package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Changed lists the keys whose values differ between two configurations that are
// valid, in order. Lists, and TLS, whose parts belong together, are one key.
func Changed(a, b *Config) []string {
	var keys []string
	changed(&keys, reflect.ValueOf(*a), reflect.ValueOf(*b), "")
	slices.Sort(keys)
	return keys
}

func changed(keys *[]string, a, b reflect.Value, key string) {
	if a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil() {
		a, b = a.Elem(), b.Elem()
	}
	switch {
	case a.Kind() == reflect.Struct && a.Type() != reflect.TypeFor[TLS]():
		for i := range a.NumField() {
			if f := a.Type().Field(i); f.IsExported() {
				changed(keys, a.Field(i), b.Field(i), join(key, f.Tag.Get("yaml")))
			}
		}
	case a.Kind() == reflect.Map && a.Type().Elem().Kind() == reflect.Struct:
		names := map[string]bool{}
		for _, m := range []reflect.Value{a, b} {
			for _, k := range m.MapKeys() {
				names[k.String()] = true
			}
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			x, y := a.MapIndex(reflect.ValueOf(name)), b.MapIndex(reflect.ValueOf(name))
			if a.Type().Elem() == reflect.TypeFor[Collection]() { // without one a collection has what it says by default
				x, y = orZero(x, a.Type().Elem()), orZero(y, a.Type().Elem())
			}
			if !x.IsValid() || !y.IsValid() {
				*keys = append(*keys, join(key, name))
				continue
			}
			changed(keys, x, y, join(key, name))
		}
	case !reflect.DeepEqual(a.Interface(), b.Interface()):
		*keys = append(*keys, strings.TrimSuffix(key, "."))
	}
}

func orZero(v reflect.Value, t reflect.Type) reflect.Value {
	if v.IsValid() {
		return v
	}
	return reflect.Zero(t)
}
