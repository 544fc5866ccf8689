package postgres

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// mapping is how the records of one collection lie in a table.
//
// A document table has the columns of documentColumns: the fields are one jsonb
// and version, end and event count stand beside them. In any other table each
// field is a column, and what has no column there is in walproxy's own table
// "record".
type mapping struct {
	collection string
	prefix     int // length of mutation.AppendCollection
	table      *table
	document   bool
	key        []*column
	fields     []*column          // of a mapped table, without key, version and overflow
	byField    map[string]*column // the same by name
	version    *column            // nil: in table record
	overflow   *column            // nil: unknown fields are rejected
	prefixed   string             // the unknown fields that are not; "": all
	events     *eventTable        // nil: events are in walproxy's own table

	group   string   // the table's lane group
	effects *effects // of its writes on other rows; nil: none
	flags   *flags

	shapes struct {
		sync.Mutex
		byID map[string]*shape
	}
}

// flags of a collection: whether a record of it may have an end, or events. Only
// the stream's owner writes these: a flag is read from the store behind the
// claim and raised before the first such write is sent, so while it is down a
// blind write need not look at the record it meets.
type flags struct {
	expiring  atomic.Bool
	streaming atomic.Bool
	recorded  atomic.Bool // there may be rows of it in table record
	noted     atomic.Bool // in table expiring, by this process
	hope      hope        // that sets make new rows
	alone     hope        // that nobody else inserts the rows of a MERGE
}

// documentColumns are a document table's, by which one is recognised.
var documentColumns = []string{"key", "doc", "version", "updated_at", "expires_at", "event_count"}

// isDocument: exactly these columns, and the key is the primary key.
func (t *table) isDocument() bool {
	if len(t.columns) != len(documentColumns) || len(t.primary) != 1 || t.primary[0].name != "key" {
		return false
	}
	for _, name := range documentColumns {
		c := t.byName[name]
		if c == nil {
			return false
		}
		want := map[string]uint32{"doc": oidJSONB, "version": oidInt8, "updated_at": oidTimestamptz, "expires_at": oidTimestamptz, "event_count": oidInt8}
		if oid, typed := want[name]; typed && c.base != oid {
			return false
		}
	}
	return true
}

// halt is an error that a person has to mend.
func halt(format string, args ...any) error {
	return sinks.WithOutcome(sinks.Halt, fmt.Errorf("sink postgres: "+format, args...))
}

// newMapping fits a collection to its table.
func newMapping(collection string, t *table, o Collection) (*mapping, error) {
	m := &mapping{collection: collection, table: t, byField: map[string]*column{}, prefix: len(mutation.AppendCollection(nil, collection))}
	m.shapes.byID = map[string]*shape{}
	fail := func(format string, args ...any) (*mapping, error) {
		return nil, halt("collection %q, table %s: %s", collection, t, fmt.Sprintf(format, args...))
	}
	if t.refused != "" {
		return fail("it %s", t.refused)
	}
	if m.key = t.primary; len(o.Key) > 0 {
		m.key = nil
		for _, name := range o.Key {
			c := t.byName[name]
			if c == nil {
				return fail("key column %q does not exist", name)
			}
			m.key = append(m.key, c)
		}
		if len(m.key) != len(t.primary) || slices.ContainsFunc(m.key, func(c *column) bool { return !slices.Contains(t.primary, c) }) {
			return fail("the key %s is not the primary key, in any order", strings.Join(o.Key, ", "))
		}
	}
	if len(m.key) == 0 {
		return fail("it has no primary key")
	}
	for _, c := range m.key {
		if c.unsafeKey != "" {
			return fail("key column %q: %s, so that two keys could be one row", c.name, c.unsafeKey)
		}
		if c.generated || c.always {
			return fail("key column %q is generated always", c.name)
		}
	}
	if m.document = t.isDocument(); m.document {
		return m, nil
	}
	special := func(name, what string, oid uint32) (*column, error) {
		c := t.byName[name]
		switch {
		case c == nil:
			return nil, fmt.Errorf("%s column %q does not exist", what, name)
		case c.base != oid || c.generated:
			return nil, fmt.Errorf("%s column %q is %s", what, name, c.typeName)
		}
		return c, nil
	}
	var err error
	if o.VersionColumn != "" {
		if m.version, err = special(o.VersionColumn, "version", oidInt8); err != nil {
			return fail("%v; want a bigint", err)
		}
	}
	if o.OverflowColumn != "" {
		if m.overflow, err = special(o.OverflowColumn, "overflow", oidJSONB); err != nil {
			return fail("%v; want jsonb", err)
		}
	}
	if o.RecordColumn != "" && m.overflow != nil {
		return fail("it has an overflow column, which takes what a record column would")
	}
	if o.RecordColumn != "" {
		if m.overflow, err = special(o.RecordColumn, "record", oidJSONB); err != nil {
			return fail("%v; want jsonb", err)
		}
		m.prefixed = recordPrefix
	}
	for _, c := range t.columns {
		if c != m.version && c != m.overflow && !slices.Contains(m.key, c) {
			m.fields = append(m.fields, c)
			m.byField[c.name] = c
		}
	}
	return m, nil
}

// unchanged are the commands that end the transaction if one of the collection's
// tables is not as it was read.
func (m *mapping) unchanged(schema string) []command {
	commands := []command{m.table.unchanged(schema)}
	if m.events != nil {
		commands = append(commands, m.events.table.unchanged(schema))
	}
	return commands
}

// beside reports whether writes keep the record's row in table record.
func (m *mapping) beside() bool {
	return !m.document && (m.version == nil || m.flags.expiring.Load() || m.flags.streaming.Load())
}

// folds reports whether several writes of one record may become one: nothing of
// the table can refuse one of them, or make of it something else.
func (m *mapping) folds() bool {
	return m.document && !m.table.ordered && !m.table.triggers && !m.table.unique
}

// matches reports whether a pattern fits. A prefix and "*" also fits names with a
// slash, and every pattern itself.
func matches(pattern, collection string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(collection, prefix) {
		return true
	}
	ok, _ := path.Match(pattern, collection) // an error: newPlanner refused it
	return ok || pattern == collection
}

// several reports whether a pattern is one of many collections.
func several(pattern string) bool {
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '\\':
			i++ // escaped
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// collection returns the first entry that fits the collection.
func (o Options) collection(name string) Collection {
	for _, c := range o.Collections {
		if matches(c.Pattern, name) {
			return c
		}
	}
	return Collection{Pattern: name}
}

// parseName splits a table's name, [schema.]table, as SQL would: without quotes
// it is folded to lower case.
func parseName(text string) (schema, name string, err error) {
	var parts []string
	rest := text
	for {
		var part string
		if quoted, ok := strings.CutPrefix(rest, `"`); ok {
			end := 0
			for ; end < len(quoted); end++ {
				if quoted[end] == '"' {
					if !strings.HasPrefix(quoted[end+1:], `"`) {
						break
					}
					end++
				}
			}
			if end >= len(quoted) {
				return "", "", fmt.Errorf("table %q: a quote is not closed", text)
			}
			part, rest = strings.ReplaceAll(quoted[:end], `""`, `"`), quoted[end+1:]
		} else {
			end := strings.IndexAny(rest, `."`)
			if end < 0 {
				end = len(rest)
			}
			part, rest = strings.ToLower(rest[:end]), rest[end:]
		}
		if part == "" {
			return "", "", fmt.Errorf("table %q: an empty name", text)
		}
		parts = append(parts, part)
		if rest == "" {
			break
		}
		if rest[0] != '.' {
			return "", "", fmt.Errorf("table %q: unexpected %q", text, rest)
		}
		rest = rest[1:]
	}
	switch len(parts) {
	case 1:
		return "", parts[0], nil
	case 2:
		return parts[0], parts[1], nil
	}
	return "", "", fmt.Errorf("table %q: want table or schema.table", text)
}
