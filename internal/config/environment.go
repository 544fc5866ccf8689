package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/parser"
)

const prefix = "WALPROXY_"

// applyEnvironment sets what variables of the form WALPROXY_A__B say.
//
// A variable whose first part is no key of ours is left alone: Kubernetes
// injects WALPROXY_PORT and the like for a service of that name. Within a
// section of ours an unknown name is a fault.
func applyEnvironment(c *Config, environ []string) error {
	d := decoder{origin: &c.origin}
	environ = slices.Clone(environ)
	slices.Sort(environ) // WALPROXY_SINKS before WALPROXY_SINKS__MAIN__...
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok || value == "" { // an empty variable says nothing
			continue
		}
		parts := strings.Split(strings.ToLower(rest), "__")
		if !slices.Contains(keysOf(reflect.TypeFor[Config]()), parts[0]) {
			continue
		}
		d.place = &place{variable: name}
		d.descend(reflect.ValueOf(c).Elem(), parts, "", value)
	}
	return collect(d.faults)
}

// descend follows parts from v and sets what it finds there.
func (d *decoder) descend(v reflect.Value, parts []string, key, value string) {
	if len(parts) == 0 {
		d.origin.set(key, *d.place)
		d.variable(v, key, value)
		return
	}
	name := parts[0]
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.descend(v.Elem(), parts, key, value)
	case reflect.Struct:
		field, ok := fieldByKey(v, name)
		if !ok {
			d.refuse(join(key, name), "unknown key"+suggestion(v, name))
			return
		}
		d.descend(field, parts[1:], join(key, name), value)
	case reflect.Map:
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		for _, k := range v.MapKeys() { // a name with capitals in the file
			if strings.EqualFold(k.String(), name) {
				name = k.String()
			}
		}
		item := reflect.New(v.Type().Elem()).Elem()
		if old := v.MapIndex(reflect.ValueOf(name)); old.IsValid() {
			item.Set(old)
		}
		d.descend(item, parts[1:], join(key, name), value)
		v.SetMapIndex(reflect.ValueOf(name), item)
	default:
		d.refuse(join(key, name), "unknown key")
	}
}

func (d *decoder) refuse(key, reason string) {
	d.origin.set(key, *d.place)
	d.faults = append(d.faults, d.origin.fault(key, "%s", reason))
}

// variable sets v from the text of a variable: scalars as they are, anything
// else is YAML.
func (d *decoder) variable(v reflect.Value, key, text string) {
	switch v.Kind() {
	case reflect.Struct, reflect.Map, reflect.Slice, reflect.Pointer:
	default:
		if err := d.set(v, key, text); err != nil {
			d.refuse(key, err.Error())
		}
		return
	}
	file, err := parser.ParseBytes([]byte(text), 0)
	if err != nil {
		d.refuse(key, syntaxFault("", err).Reason)
		return
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		d.refuse(key, fmt.Sprintf("want YAML, found %q", text))
		return
	}
	v.SetZero()
	d.value(v, file.Docs[0].Body, key)
}
