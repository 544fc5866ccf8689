package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// decoder sets a Config from YAML nodes. It goes on after a fault.
type decoder struct {
	origin  *origin
	environ []string // that ${NAME} is from
	place   *place   // of everything, when a variable is decoded
	faults  []Fault
}

// decodeFile reads a whole file into c.
func decodeFile(c *Config, name string, content []byte, environ []string) error {
	c.origin.file = name
	file, err := parser.ParseBytes(content, 0)
	if err != nil {
		return &Error{Faults: []Fault{syntaxFault(name, err)}}
	}
	d := decoder{origin: &c.origin, environ: environ}
	docs := slices.DeleteFunc(file.Docs, func(doc *ast.DocumentNode) bool { return doc.Body == nil })
	if len(docs) > 1 {
		return &Error{Faults: []Fault{{Source: name, Reason: "holds more than one YAML document"}}}
	}
	if len(docs) == 1 {
		d.value(reflect.ValueOf(c).Elem(), docs[0].Body, "")
	}
	return collect(d.faults)
}

func syntaxFault(name string, err error) Fault {
	f := Fault{Source: name, Reason: "not YAML: " + firstLine(err.Error())}
	if y, ok := err.(yaml.Error); ok { //nolint:errorlint // the parser returns it bare
		f.Reason = y.GetMessage()
		if t := y.GetToken(); t != nil && t.Position != nil {
			f.Line, f.Column = t.Position.Line, t.Position.Column
		}
	}
	return f
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func (d *decoder) fault(node ast.Node, key, format string, args ...any) {
	d.note(node, key)
	d.faults = append(d.faults, d.origin.fault(key, format, args...))
}

// note remembers where key was said.
func (d *decoder) note(node ast.Node, key string) {
	if d.place != nil {
		d.origin.set(key, *d.place)
		return
	}
	if t := node.GetToken(); t != nil && t.Position != nil {
		d.origin.set(key, place{line: t.Position.Line, column: t.Position.Column})
	}
}

// value sets v from node.
func (d *decoder) value(v reflect.Value, node ast.Node, key string) {
	if key != "" && node != nil {
		d.note(node, key)
	}
	switch node.(type) {
	case nil, *ast.NullNode:
		return // the default
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		d.fault(node, key, "anchors, aliases and tags are not supported")
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(v.Elem(), node, key)
	case reflect.Struct:
		d.pairs(node, key, func(name, key string, pair *ast.MappingValueNode) {
			field, ok := fieldByKey(v, name)
			if !ok {
				d.fault(pair.Key, key, "unknown key%s", suggestion(v, name))
				return
			}
			d.value(field, pair.Value, key)
		})
	case reflect.Map:
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		d.pairs(node, key, func(name, key string, pair *ast.MappingValueNode) {
			item := reflect.New(v.Type().Elem()).Elem()
			if old := v.MapIndex(reflect.ValueOf(name)); old.IsValid() {
				item.Set(old)
			}
			d.note(pair.Key, key)
			d.value(item, pair.Value, key)
			v.SetMapIndex(reflect.ValueOf(name), item)
		})
	case reflect.Slice:
		d.list(v, node, key)
	default:
		d.scalar(v, node, key)
	}
}

// pairs calls f for each pair of a mapping.
func (d *decoder) pairs(node ast.Node, parent string, f func(name, key string, pair *ast.MappingValueNode)) {
	var pairs []*ast.MappingValueNode
	switch n := node.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		d.fault(node, parent, "want keys and values, found %s", kindOf(node))
		return
	}
	seen := map[string]bool{}
	for _, pair := range pairs {
		name := pair.Key.GetToken().Value
		key := join(parent, name)
		if seen[name] {
			d.fault(pair.Key, key, "stands twice")
			continue
		}
		seen[name] = true
		f(name, key, pair)
	}
}

func (d *decoder) list(v reflect.Value, node ast.Node, key string) {
	seq, ok := node.(*ast.SequenceNode)
	if !ok {
		d.fault(node, key, "want a list, found %s", kindOf(node))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
	for i, item := range seq.Values {
		d.value(v.Index(i), item, fmt.Sprintf("%s[%d]", key, i))
	}
}

func (d *decoder) scalar(v reflect.Value, node ast.Node, key string) {
	var text string
	switch n := node.(type) {
	case *ast.LiteralNode:
		text = n.Value.Value
	case *ast.StringNode:
		text = n.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		text = n.GetToken().Value
	default:
		d.fault(node, key, "want %s, found %s", wants(v), kindOf(node))
		return
	}
	if err := d.set(v, key, text); err != nil {
		d.fault(node, key, "%s", err)
	}
}

// setScalar parses text as v's type.
func setScalar(v reflect.Value, text string) error {
	switch v.Interface().(type) {
	case Size:
		s, err := ParseSize(text)
		return setNumber(v, int64(s), err)
	case Duration:
		s, err := ParseDuration(text)
		return setNumber(v, int64(s), err)
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("want true or false, found %q", text)
		}
		v.SetBool(text == "true")
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			err = fmt.Errorf("want a whole number, found %q", text)
		}
		return setNumber(v, int64(n), err)
	default:
		return fmt.Errorf("cannot be set from %q", text)
	}
	return nil
}

// setNumber refuses an explicit 0: within it means "not said".
func setNumber(v reflect.Value, n int64, err error) error {
	if err == nil && n == 0 {
		err = errors.New("0 is not allowed; leave the key out for its default")
	}
	v.SetInt(n)
	return err
}

func wants(v reflect.Value) string {
	switch v.Interface().(type) {
	case Size:
		return "a size"
	case Duration:
		return "a duration"
	}
	return map[reflect.Kind]string{
		reflect.String: "text", reflect.Bool: "true or false", reflect.Int: "a whole number",
	}[v.Kind()]
}

func kindOf(node ast.Node) string {
	switch node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys and values"
	case *ast.SequenceNode:
		return "a list"
	}
	return strconv.Quote(node.GetToken().Value)
}

func fieldByKey(v reflect.Value, name string) (reflect.Value, bool) {
	t := v.Type()
	for i := range t.NumField() {
		if t.Field(i).IsExported() && t.Field(i).Tag.Get("yaml") == name {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if t.Field(i).IsExported() {
			keys = append(keys, t.Field(i).Tag.Get("yaml"))
		}
	}
	return keys
}

func suggestion(v reflect.Value, name string) string {
	keys := keysOf(v.Type())
	for _, k := range keys {
		if strings.EqualFold(strings.ReplaceAll(k, "_", ""), strings.NewReplacer("_", "", "-", "").Replace(name)) {
			return fmt.Sprintf("; did you mean %q?", k)
		}
	}
	if like := nearest(keys, name); like != "" {
		return fmt.Sprintf("; did you mean %q?", like)
	}
	slices.Sort(keys)
	return "; known here: " + strings.Join(keys, ", ")
}

func join(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "." + name
}
