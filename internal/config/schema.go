package config

import (
	"encoding/json"
	"fmt"
	"reflect"
)

// variable is a text that stands for something else.
const variable = `\$\{[A-Za-z_]`

// choices are the values of keys that take one of a few.
var choices = map[string][]string{
	"log.engine":                      {"tidwall", "native"},
	"pgwire.pool.mode":                {PoolSession, PoolTransaction},
	"api.tokens.rights":               {"read", "write", "admin"},
	"admin.tokens.rights":             {"read", "write", "admin"},
	"sinks.*.type":                    {TypePebble, TypePostgres, TypeAerospike},
	"sinks.*.collections.*.key_type":  {"string", "int64", "bytes", "composite"},
	"sinks.*.collections.*.on_reject": {"park_key", "skip", "halt"},
	"aerowire.deletes":                {askDeletes, LogDeletes},
	"logging.level":                   levels,
	"pgwire.transactions":             {TransactionsPass, TransactionsLog},
}

// Schema is a JSON Schema of the file, for editors. It knows keys and the forms of their
// values; what does not fit together Parse alone knows.
func Schema() ([]byte, error) {
	s := schemaOf(reflect.TypeFor[Config](), "")
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "walproxy"
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("configuration: schema: %w", err)
	}
	return append(out, '\n'), nil
}

func schemaOf(t reflect.Type, key string) map[string]any {
	switch t {
	case reflect.TypeFor[Size]():
		return map[string]any{"type": []string{"string", "integer", "null"}, "pattern": `^\s*(-?[0-9]+\s*([KMGT]i?B|kB|B)?\s*|.*\$\{.*)$`}
	case reflect.TypeFor[Duration]():
		return map[string]any{"type": []string{"string", "null"}, "pattern": `^\s*([-+]?([0-9.]+(ns|us|µs|ms|s|m|h))+\s*|.*\$\{.*)$`}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem(), key)
	case reflect.Struct:
		properties := map[string]any{}
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() {
				name := f.Tag.Get("yaml")
				properties[name] = schemaOf(f.Type, join(key, name))
			}
		}
		return map[string]any{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false}
	case reflect.Map:
		return map[string]any{"type": []string{"object", "null"}, "additionalProperties": schemaOf(t.Elem(), join(key, "*"))}
	case reflect.Slice:
		return map[string]any{"type": []string{"array", "null"}, "items": schemaOf(t.Elem(), key)}
	case reflect.Bool:
		return map[string]any{"type": []string{"boolean", "string", "null"}, "pattern": variable}
	case reflect.Int:
		return map[string]any{"type": []string{"integer", "string", "null"}, "pattern": variable}
	}
	s := map[string]any{"type": []string{"string", "number", "boolean", "null"}}
	if of := choices[key]; len(of) > 0 {
		some := []any{nil}
		for _, choice := range of {
			some = append(some, choice)
		}
		return map[string]any{"enum": some}
	}
	return s
}
