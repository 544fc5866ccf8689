package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// table is what the catalogue says of one table.
type table struct {
	oid     uint32
	schema  string
	name    string
	columns []*column // in the table's order, dropped ones left out
	byName  map[string]*column
	primary []*column // of the primary key, in its order

	signature string // changes with whatever a statement here depends on
	refused   string // why nothing can be written to it, or ""

	// A row of the table can be judged, by constraint or trigger, by what other
	// rows hold, so statements keep the order of the log:
	ordered bool // records keep their order; several go in one statement if alike
	rowwise bool // ... and each is a statement of its own
	unique  bool // a unique index besides the primary key, or an exclusion
	// references are the other tables that foreign keys join it with.
	references []uint32
	defers     bool // a constraint that waits for the commit

	merges bool // MERGE can be used: PostgreSQL 15, and no partitions
	draws  bool // a column gets its value from a sequence

	checked  bool // CHECK constraints or domains
	triggers bool // what is stored may differ from what was written
}

// column of a table.
type column struct {
	name      string
	codec     *codec
	cast      string // behind a parameter, "::int4", or ""
	selects   string // the expression to read it with, after the table's alias
	notNull   bool
	hasValue  bool   // its default is not null
	kept      bool   // identity or a sequence's: a set that does not name it keeps it
	generated bool   // GENERATED ALWAYS AS (...) STORED
	always    bool   // GENERATED ALWAYS AS IDENTITY
	unsafeKey string // why it cannot be part of a key, or ""
	typeName  string
	exact     bool // see codec.exact
	base      uint32
	modifier  int // of base: varchar(3), timestamptz(0); -1: none
	number    int
	enums     uint32 // the type of its arrays, of an enum; else 0
}

// isInteger: its values are those of an integer type itself.
func (c *column) isInteger() bool {
	return c.cast == "" && (c.base == oidInt2 || c.base == oidInt4 || c.base == oidInt8)
}

func (t *table) String() string { return t.schema + "." + t.name }

// quoted is the table's name in a statement.
func (t *table) quoted() string { return quote(t.schema) + "." + quote(t.name) }

// signatureSQL changes when somebody alters the table $1: every change
// to a name, column, default, index, constraint or trigger writes a new row
// version of the catalogue. Five index scans; it runs behind the data statements of each
// batch, whose locks keep the tables from changing any more.
const signatureSQL = `pg_catalog.concat_ws(',',
 (SELECT sum(xmin::text::int8) FROM pg_catalog.pg_attribute WHERE attrelid = ($1)[1] AND attnum > 0),
 (SELECT xmin FROM pg_catalog.pg_class WHERE oid = ($1)[1]),
 (SELECT coalesce(sum(xmin::text::int8), 0) FROM pg_catalog.pg_constraint WHERE conrelid = ($1)[1]),
 (SELECT coalesce(sum(xmin::text::int8), 0) FROM pg_catalog.pg_index WHERE indrelid = ($1)[1]),
 (SELECT coalesce(sum(xmin::text::int8 + ascii(tgenabled::text)), 0) FROM pg_catalog.pg_trigger WHERE tgrelid = ($1)[1]))`

const tableSQL = `SELECT n.nspname, c.relname, c.relkind::text,
 pg_catalog.row_security_active(c.oid)::text, c.relhasrules::text, ` + signatureSQL + `,
 (c.relkind = 'r' AND current_setting('server_version_num')::int >= 150000)::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1)`

const columnsSQL = `SELECT a.attnum::text, a.attname, a.atttypid::text, a.atttypmod::text, a.attnotnull::text,
 a.attidentity::text, a.attgenerated::text, coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid), ''),
 coalesce(co.collisdeterministic, true)::text, pg_catalog.format_type(a.atttypid, a.atttypmod)
FROM pg_catalog.pg_attribute a
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`

const typesSQL = `WITH RECURSIVE ty AS (
 SELECT t.* FROM pg_catalog.pg_type t WHERE t.oid IN (SELECT atttypid FROM pg_catalog.pg_attribute WHERE attrelid = ANY ($1) AND attnum > 0)
 UNION SELECT t.* FROM pg_catalog.pg_type t JOIN ty ON t.oid = ty.typbasetype OR t.oid = ty.typelem AND ty.typcategory = 'A'
) SELECT ty.oid::text, n.nspname, ty.typname, ty.typtype::text, ty.typcategory::text, ty.typbasetype::text,
 ty.typtypmod::text, ty.typelem::text, ty.typdelim::text, ty.typarray::text
FROM ty JOIN pg_catalog.pg_namespace n ON n.oid = ty.typnamespace`

// partsSQL is a table and its partitions.
const partsSQL = `SELECT ($1)[1] UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(($1)[1])`

const indexesSQL = `SELECT i.indisprimary::text, (i.indisunique OR i.indisexclusion)::text, i.indkey::text, (i.indrelid = ($1)[1])::text
FROM pg_catalog.pg_index i WHERE i.indrelid IN (` + partsSQL + `)`

const constraintsSQL = `SELECT contype::text, (conrelid = confrelid)::text, condeferrable::text,
 coalesce(pg_catalog.pg_partition_root(other), other)::oid::text
FROM pg_catalog.pg_constraint, LATERAL (SELECT CASE WHEN confrelid = ANY ($1) THEN conrelid ELSE confrelid END::regclass AS other) o
WHERE conrelid IN (` + partsSQL + `) OR confrelid = ANY ($1)`

const triggersSQL = `SELECT count(*)::text FROM pg_catalog.pg_trigger
WHERE tgrelid IN (` + partsSQL + `) AND NOT tgisinternal AND tgenabled <> 'D'`

// unchanged is a command that ends the transaction, with codeChanged, if the table
// is not as its catalogue was read.
func (t *table) unchanged(schema string) command {
	return command{
		sql:     fmt.Sprintf("SELECT %s.unchanged(%s, $2)", schema, signatureSQL),
		types:   []uint32{oidOidArray, oidText},
		params:  [][]byte{oidArray(t.oid), []byte(t.signature)},
		formats: binaryParams,
	}
}

// loadTable reads all about one table, from one round trip.
func loadTable(ctx context.Context, conn *pgconn.PgConn, oid uint32) (*table, error) {
	texts := []string{tableSQL, columnsSQL, typesSQL, indexesSQL, constraintsSQL, triggersSQL}
	commands := make([]command, len(texts))
	for i, sql := range texts {
		commands[i] = command{sql: sql, types: []uint32{oidOidArray}, params: [][]byte{oidArray(oid)}, formats: []int16{formatBinary}}
	}
	answers, err := runPipeline(ctx, conn, commands)
	if err != nil {
		return nil, fmt.Errorf("reading the catalogue: %w", err)
	}
	if len(answers[0].rows) == 0 {
		return nil, errStale // dropped since its name was resolved
	}
	row := texted(answers[0].rows[0])
	t := &table{oid: oid, schema: row[0], name: row[1], signature: row[5], merges: row[6] == "true", byName: map[string]*column{}}
	switch {
	case row[2] != "r" && row[2] != "p":
		t.refused = "is no table"
	case row[3] == "true":
		t.refused = "has row-level security that applies to this role, which would hide rows from it: use the table's owner or a role with BYPASSRLS"
	case row[4] == "true":
		t.refused = "has rules, which rewrite statements"
	}
	if err := t.readColumns(answers[1].rows, readTypes(answers[2].rows)); err != nil {
		return nil, err
	}
	t.readIndexes(answers[3].rows)
	t.readConstraints(answers[4].rows)
	if t.triggers = string(answers[5].rows[0][0]) != "0"; t.triggers {
		t.ordered, t.rowwise = true, true
	}
	return t, nil
}

func texted(row [][]byte) []string {
	texts := make([]string, len(row))
	for i, v := range row {
		texts[i] = string(v)
	}
	return texts
}

func (t *table) readColumns(rows [][][]byte, types pgTypes) error {
	for _, raw := range rows {
		row := texted(raw)
		number, err := strconv.Atoi(row[0])
		if err != nil {
			return err
		}
		oid, err := strconv.ParseUint(row[2], 10, 32)
		if err != nil {
			return err
		}
		modifier, err := strconv.Atoi(row[3])
		if err != nil {
			return err
		}
		defaults := row[7]
		c := &column{
			number: number, name: row[1], notNull: row[4] == "true", typeName: row[9],
			always: row[5] == "a", generated: row[6] != "",
			kept:     row[5] != "" || strings.Contains(defaults, "nextval("),
			hasValue: row[6] == "" && defaults != "" && !strings.HasPrefix(defaults, "NULL") || row[5] != "",
		}
		types.describe(c, uint32(oid), modifier)
		c.selects = quote(c.name)
		if !c.codec.binary {
			c.selects += "::pg_catalog.text"
		}
		if row[8] != "true" {
			c.unsafeKey = "its collation takes different texts for equal"
		}
		t.checked = t.checked || types[uint32(oid)].kind == "d"
		t.draws = t.draws || c.kept
		t.columns = append(t.columns, c)
		t.byName[c.name] = c
	}
	return nil
}

func (t *table) readIndexes(rows [][][]byte) {
	for _, raw := range rows {
		row := texted(raw)
		switch {
		case row[0] == "true" && row[3] == "true":
			for field := range strings.FieldsSeq(row[2]) {
				i := slices.IndexFunc(t.columns, func(c *column) bool { return strconv.Itoa(c.number) == field })
				if i >= 0 {
					t.primary = append(t.primary, t.columns[i])
				}
			}
		case row[0] != "true" && row[1] == "true":
			t.unique, t.ordered = true, true
		}
	}
}

func (t *table) readConstraints(rows [][][]byte) {
	for _, raw := range rows {
		row := texted(raw)
		switch row[0] {
		case "f":
			t.ordered = true
			t.rowwise = t.rowwise || row[1] == "true"
			t.references = append(t.references, parseOID(row[3]))
		case "c":
			t.checked = true
		}
		if row[2] == "true" {
			t.defers, t.ordered = true, true
		}
	}
}

// oidOidArray is the type of the parameter $1 above.
const oidOidArray = 1028

// oidArray is an oid[] in binary.
func oidArray(oids ...uint32) []byte {
	a := newArray(26, len(oids))
	for _, oid := range oids {
		a.fixed(uint64(oid), 4)
	}
	return a.bytes()
}
