package behind

import (
	"errors"
	"fmt"
	"time"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/value"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/mutation"
)

// errKey: the key is null, or of a value that no mutation can name.
var errKey = errors.New("the key cannot be named")

// key is the row's, as a mutation's of the collection would be canonical: so both
// are locked, ordered and applied as one row's.
func (b *binder) key(values []bound) (*walproxyv1.Key, error) {
	parts := make([]*walproxyv1.Key, 0, len(b.Table.KeyColumns))
	for _, c := range b.Table.KeyColumns {
		var part *walproxyv1.Key
		for i := range values {
			if v := &values[i]; v.column == c && v.part != updated && v.raw != nil {
				part = keyPart(c, v.datum)
			}
		}
		if part == nil {
			return nil, fmt.Errorf("%w: column %s", errKey, c.Name)
		}
		parts = append(parts, part)
	}
	key := parts[0]
	if len(parts) > 1 {
		key = mutation.Composite(parts...)
	}
	return mutation.CanonicalKey(key, b.Table.KeyType)
}

// keyPart is one column of a key in the form that sinks/postgres reads; nil: the value
// has none.
func keyPart(c *catalogue.Column, d value.Datum) *walproxyv1.Key {
	t := c.Type.Plain()
	if t.Kind == catalogue.EnumType {
		return mutation.String(d.Text)
	}
	switch t.Name {
	case "int2", "int4", "int8":
		return mutation.Int64(d.Int)
	case "text", "varchar", "uuid":
		return mutation.String(d.Text)
	case "bytea":
		return mutation.Bytes(d.Bytes)
	case "date":
		if day, ok := moment(d, microsPerDay); ok {
			return mutation.String(day.Format(time.DateOnly))
		}
	case "timestamptz":
		if at, ok := moment(d, 1); ok {
			return mutation.String(string(jsonform.AppendTime(nil, at)))
		}
	}
	return nil
}

// moment is a time in the years that a key can have; unit in microseconds.
func moment(d value.Datum, unit int64) (time.Time, bool) {
	const days = 3_000_000 // since 2000, about as many as until 9999
	if limit := days * microsPerDay / unit; !d.Timed || d.Int > limit || d.Int < -limit {
		return time.Time{}, false
	}
	at := time.UnixMicro(epoch.UnixMicro() + d.Int*unit).UTC()
	return at, at.Year() >= 1 && at.Year() <= 9999
}

const microsPerDay = 86_400_000_000
