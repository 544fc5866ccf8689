package catalogue

import (
	"reflect"
	"slices"
	"strings"

	"github.com/walproxy/walproxy/api/pgwire/statement"
	"github.com/walproxy/walproxy/mutation"
)

// Declared is a table that its owner wants to write behind.
type Declared struct {
	Schema, Name string
	// Collection that its writes are logged under.
	Collection string
	// Key columns in the order of the collection's keys; none: the primary key's.
	Key     []string
	KeyType mutation.KeyType
	// Safe: its owner says that triggers, foreign keys and checks that are not
	// understood here do not stand in the way.
	Safe bool
}

// Snapshot is the catalogue at one moment.
type Snapshot struct {
	// Signature changes with everything that a snapshot depends on.
	Signature string
	// Tables are those declared, in their order, whether they can be written
	// behind or not.
	Tables []*Table
	// Sequences that columns of theirs draw from by default, by name as a regclass is
	// written.
	Sequences map[string]*Sequence

	relations map[statement.Name]*Table // nil: of a declared table's name, but not it
	reads     map[string][]*Table       // by a name of theirs, a child's, a parent's
	writes    map[string][]*Table       // ... or of what foreign keys join them with
	opaque    map[string]bool           // names behind which is anything, for who reads
	triggered map[string]bool           // ... and for who writes
	anything  bool                      // behind no name in particular
}

// Table is a declared table.
type Table struct {
	Declared
	OID     uint32 // 0: it does not exist
	Columns []*Column
	// Key columns in the order of the collection's keys.
	KeyColumns []*Column
	// PrimaryKey is the constraint's name.
	PrimaryKey string
	// Refused is why it cannot be written behind; Detail says more.
	Refused Refusal
	Detail  string
	// Partitioned: a row may find no partition.
	Partitioned bool

	byName     map[string]*Column
	privileges map[string]Privilege
}

// Column of a table, in its order; dropped ones are left out.
type Column struct {
	Number    int
	Name      string
	Type      *Type
	Modifier  int32 // pg_attribute.atttypmod; -1: none
	NotNull   bool
	Default   Default
	Generated bool // GENERATED ALWAYS AS (...)
	Always    bool // GENERATED ALWAYS AS IDENTITY
	Identity  bool // GENERATED .. AS IDENTITY: its sequence is drawn from whoever inserts
	// Deterministic: equal texts are the same bytes.
	Deterministic bool
}

// Type of a column.
type Type struct {
	OID          uint32
	Schema, Name string
	Display      string // as messages have it
	Kind         TypeKind
	Base         *Type    // of a domain
	BaseModifier int32    // of a domain
	NotNull      bool     // of a domain
	Checked      bool     // of a domain: it has CHECK constraints
	HasDefault   bool     // it gives one to columns that have none
	Element      *Type    // of an array
	Labels       []string // of an enum
}

// TypeKind is what a type is made of.
type TypeKind uint8

const (
	BaseType TypeKind = iota
	DomainType
	EnumType
	ArrayType
	OtherType // composite, range, ...
)

// Plain is the type itself, or what a domain is at its base.
func (t *Type) Plain() *Type {
	for t.Kind == DomainType {
		t = t.Base
	}
	return t
}

// DefaultKind is what a column without a value gets.
type DefaultKind uint8

const (
	// NoDefault: null.
	NoDefault DefaultKind = iota
	// ConstantDefault is the same whenever it is evaluated.
	ConstantDefault
	// FixableDefault is a function that is evaluated at the ack.
	FixableDefault
	// VolatileDefault is anything else.
	VolatileDefault
)

// Default of a column.
type Default struct {
	Kind       DefaultKind
	Expression string // as pg_get_expr has it
	Func       statement.Func
	Sequence   string // of NextValue, as a regclass is written
	Text       string // of a constant, what its type reads
}

// Sequence is one that a default draws from.
type Sequence struct {
	Name   string // as a regclass is written
	Schema string
	OID    uint32
	// File changes when it is restarted, but for setval.
	File uint32

	roles map[string]bool
}

// May reports whether a role surely may draw from it.
func (s *Sequence) May(role string) bool { return s.roles[role] }

// Privilege is what a role may do to a table.
type Privilege uint8

const (
	MaySelect Privilege = 1 << iota
	MayInsert
	MayUpdate
	MayDelete
)

// Alike reports that writes which were planned with s could have been planned with o:
// nothing of the declared tables differs, or which names mean them, whatever else of
// the schema does.
func (s *Snapshot) Alike(o *Snapshot) bool {
	return s.Signature == o.Signature || reflect.DeepEqual(s.Tables, o.Tables) && reflect.DeepEqual(s.Sequences, o.Sequences) &&
		reflect.DeepEqual(s.relations, o.relations)
}

// Column returns a column by its name; nil: there is none.
func (t *Table) Column(name string) *Column { return t.byName[name] }

// May reports whether a role surely has all of the privileges, and the use of the
// table's schema.
func (t *Table) May(role string, p Privilege) bool { return t.privileges[role]&p == p }

func (t *Table) String() string { return t.Schema + "." + t.Name }

// Resolve finds the declared table that a name means to a session; nil: none, or
// it cannot be said. path is the session's search_path, its parts without quotes.
// A session that may have temporary tables must not ask: they come first.
func (s *Snapshot) Resolve(name statement.Name, path []string, user string) *Table {
	if name.Schema != "" {
		return s.relations[name]
	}
	for _, schema := range path {
		if schema == "$user" {
			schema = user
		}
		if schema == "pg_temp" || strings.HasPrefix(schema, "pg_temp_") {
			return nil
		}
		if t, ok := s.relations[statement.Name{Schema: schema, Name: name.Name}]; ok {
			return t
		}
	}
	return nil
}

// Touched are the declared tables that a statement may touch: those it reads
// rows of (or writes), and those it writes, which is what a gate has to know.
// all: any of them.
func (s *Snapshot) Touched(st *statement.Statement) (reads, writes []*Table, all bool) {
	if st.Reads == statement.Anything || st.Writes == statement.Anything || s.anything && st.Reads|st.Writes != statement.Nothing {
		return s.Tables, s.Tables, true
	}
	for _, name := range st.Names {
		if s.opaque[name] || st.Writes == statement.Named && s.triggered[name] {
			return s.Tables, s.Tables, true
		}
		if st.Reads != statement.Nothing || st.Writes != statement.Nothing {
			reads = append(reads, s.reads[name]...)
		}
		if st.Writes == statement.Named {
			writes = append(writes, s.writes[name]...)
		}
	}
	if st.Writes == statement.Target {
		if s.triggered[st.Target.Name] {
			return s.Tables, s.Tables, true
		}
		writes = append(writes, s.writes[st.Target.Name]...)
	}
	return unique(append(reads, writes...)), unique(writes), false
}

func unique(tables []*Table) []*Table {
	tables = slices.Clone(tables)
	slices.SortFunc(tables, func(a, b *Table) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(tables)
}
