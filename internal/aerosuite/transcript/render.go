package transcript

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// render writes what an op of an answer holds, so that it can be read and that
// two are equal only if they say the same.
func render(op *codec.Op) string {
	p := value.Particle{Type: op.Particle, Data: op.Value}
	v, err := p.Value()
	if err != nil {
		return fmt.Sprintf("%s=%d:%x", op.Name, op.Particle, op.Value)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s=", op.Name)
	renderValue(&b, v)
	return b.String()
}

func renderValue(b *strings.Builder, v value.Value) {
	switch v.Kind() {
	case value.Nil:
		b.WriteString("nil")
	case value.False, value.True:
		b.WriteString(strconv.FormatBool(v.Bool()))
	case value.NegInt, value.Int:
		b.WriteString(strconv.FormatInt(v.Int64(), 10))
	case value.Double:
		fmt.Fprintf(b, "%gf", v.Double())
	case value.String:
		b.WriteString(strconv.Quote(v.Text()))
	case value.List:
		renderList(b, v)
	case value.Map:
		renderMap(b, v)
	default:
		fmt.Fprintf(b, "%d:%d:%x", v.Kind(), v.Flags(), v.Text())
	}
}

func renderList(b *strings.Builder, v value.Value) {
	b.WriteString("[" + order(v))
	for i, item := range v.Items() {
		if i > 0 {
			b.WriteByte(' ')
		}
		renderValue(b, item)
	}
	b.WriteByte(']')
}

// renderMap writes maps in the order of their keys, as they are decoded: the rule
// "maps".
func renderMap(b *strings.Builder, v value.Value) {
	b.WriteString("{" + order(v))
	for i, p := range v.Pairs() {
		if i > 0 {
			b.WriteByte(' ')
		}
		renderValue(b, p.Key)
		b.WriteByte(':')
		renderValue(b, p.Value)
	}
	b.WriteByte('}')
}

func order(v value.Value) string {
	if v.Flags() == value.Unordered {
		return ""
	}
	return fmt.Sprintf("(%d) ", v.Flags())
}

// String tells what is asked, for people.
func (r *request) String() string {
	if r.message == nil {
		return fmt.Sprintf("info %q", r.names)
	}
	m := r.message
	var b strings.Builder
	fmt.Fprintf(&b, "info %02x %02x %02x, generation %d, ttl %d, fields", m.Info1, m.Info2, m.Info3, m.Generation, m.TTL)
	for _, f := range m.Fields {
		fmt.Fprintf(&b, " %d:%.60x", f.Type, f.Data)
	}
	for i := range m.Ops {
		fmt.Fprintf(&b, ", op %d %s", m.Ops[i].Type, renderAsked(&m.Ops[i]))
	}
	return b.String()
}

// renderAsked is render for what clients send: an operation on a list or map, or an
// expression, is a value as well.
func renderAsked(op *codec.Op) string {
	if op.Particle == value.ParticleBlob {
		if v, err := value.Decode(op.Value); err == nil {
			var b strings.Builder
			renderValue(&b, v)
			return fmt.Sprintf("%s: %.300s", op.Name, b.String())
		}
	}
	return fmt.Sprintf("%.300s", render(op))
}
