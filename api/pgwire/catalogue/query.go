package catalogue

import (
	"fmt"
	"strings"
)

// quote writes a string constant that means the same with every setting.
func quote(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return `E'` + strings.ReplaceAll(s, `\`, `\\`) + `'`
	}
	return "'" + s + "'"
}

// declaredValues are the declared tables as rows of a VALUES list.
func declaredValues(tables []Declared) string {
	rows := make([]string, len(tables))
	for i, t := range tables {
		rows[i] = fmt.Sprintf("(%d, %s::name, %s::name)", i, quote(t.Schema), quote(t.Name))
	}
	return "(VALUES " + strings.Join(rows, ", ") + ") d(i, schema, name)"
}

// declaredSQL: the oids of those that exist.
const declaredSQL = `(SELECT c.oid FROM %s JOIN pg_catalog.pg_namespace n ON n.nspname = d.schema
 JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = d.name)`

// signatureSQL changes with whatever the other queries here read: every change
// of a schema writes a row version of one of these tables.
const signatureSQL = `SELECT pg_catalog.string_agg(s, ',') FROM (
 SELECT count(*) || ' ' || coalesce(sum(xmin::text::int8 + oid::int8), 0) AS s FROM pg_catalog.pg_class WHERE relkind IN ('r','p','v','m','f','S') AND relpersistence <> 't'
 UNION ALL SELECT count(*) || ' ' || coalesce(sum(xmin::text::int8), 0) FROM pg_catalog.pg_attribute WHERE attrelid IN %[1]s AND attnum > 0
 UNION ALL SELECT count(*) || ' ' || coalesce(sum(xmin::text::int8), 0) FROM pg_catalog.pg_attrdef WHERE adrelid IN %[1]s
 UNION ALL SELECT count(*) || ' ' || coalesce(sum(xmin::text::int8), 0) FROM pg_catalog.pg_index WHERE indrelid IN %[1]s
 UNION ALL SELECT count(*) || ' ' || coalesce(sum(xmin::text::int8 + oid::int8), 0) FROM pg_catalog.pg_constraint
 UNION ALL SELECT count(*) || ' ' || coalesce(sum(xmin::text::int8 + ascii(tgenabled::text)), 0) FROM pg_catalog.pg_trigger
 UNION ALL SELECT count(*) || ' ' || coalesce(sum(xmin::text::int8), 0) FROM pg_catalog.pg_inherits
 UNION ALL SELECT count(*) || ' ' || coalesce(sum(xmin::text::int8 + oid::int8), 0) FROM pg_catalog.pg_proc WHERE oid >= 16384
 UNION ALL SELECT count(*) || ' ' || coalesce(sum(xmin::text::int8 + oid::int8), 0) FROM pg_catalog.pg_operator WHERE oid >= 16384
 UNION ALL SELECT count(*) || ' ' || coalesce(sum(xmin::text::int8 + oid::int8), 0) FROM pg_catalog.pg_cast WHERE oid >= 16384
 UNION ALL SELECT count(*) || ' ' || coalesce(sum(xmin::text::int8 + oid::int8), 0) FROM pg_catalog.pg_type WHERE oid >= 16384 AND typtype IN ('d','e')
 UNION ALL SELECT count(*) || ' ' || coalesce(sum(xmin::text::int8 + oid::int8), 0) FROM pg_catalog.pg_enum
 UNION ALL SELECT count(*) || ' ' || coalesce(sum(xmin::text::int8 + oid::int8), 0) FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
 UNION ALL SELECT count(*) || ' ' || coalesce(sum(xmin::text::int8), 0) FROM pg_catalog.pg_auth_members
 UNION ALL SELECT count(*) || ' ' || coalesce(sum(oid::int8 + rolsuper::int), 0) FROM pg_catalog.pg_roles
) x`

// tablesSQL: what is said of a declared table as a whole.
const tablesSQL = `SELECT d.i, c.oid, c.relkind, c.relpersistence, c.relrowsecurity, c.relhasrules, pg_catalog.getdatabaseencoding(),
 EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = ANY (p.parts) AND NOT t.tgisinternal AND t.tgenabled <> 'D'),
 EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND (k.conrelid = ANY (p.parts) OR k.confrelid = ANY (p.parts))),
 EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.contype = 'c' AND k.conrelid = ANY (p.parts)),
 EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = ANY (p.parts) AND (k.contype = 'x' OR k.condeferrable)),
 c.relkind <> 'p' AND EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid OR h.inhrelid = c.oid)
FROM %[1]s JOIN pg_catalog.pg_namespace n ON n.nspname = d.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = d.name
CROSS JOIN LATERAL (SELECT pg_catalog.array_agg(x) || c.oid AS parts FROM (SELECT relid::oid FROM pg_catalog.pg_partition_tree(c.oid)) q(x)) p`

const columnsSQL = `SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attidentity, a.attgenerated,
 coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid), ''), coalesce(co.collisdeterministic, true),
 CASE WHEN a.attidentity <> '' THEN coalesce(pg_catalog.pg_get_serial_sequence(c.oid::pg_catalog.regclass::text, a.attname), '') ELSE '' END
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
WHERE a.attrelid IN %[1]s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum`

const typesSQL = `WITH RECURSIVE ty AS (
 SELECT t.* FROM pg_catalog.pg_type t WHERE t.oid IN (SELECT atttypid FROM pg_catalog.pg_attribute WHERE attrelid IN %[1]s AND attnum > 0)
 UNION SELECT t.* FROM pg_catalog.pg_type t JOIN ty ON t.oid = ty.typbasetype OR t.oid = ty.typelem AND ty.typcategory = 'A'
) SELECT ty.oid, n.nspname, ty.typname, pg_catalog.format_type(ty.oid, NULL), ty.typtype, ty.typcategory, ty.typbasetype, ty.typtypmod,
 ty.typnotnull, CASE WHEN ty.typcategory = 'A' AND ty.typdelim = ',' THEN ty.typelem ELSE 0 END,
 EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.contypid = ty.oid AND k.contype = 'c'), ty.typdefault IS NOT NULL
FROM ty JOIN pg_catalog.pg_namespace n ON n.oid = ty.typnamespace`

const labelsSQL = `SELECT enumtypid, enumlabel FROM pg_catalog.pg_enum ORDER BY enumtypid, enumsortorder`

const keysSQL = `SELECT i.indrelid, c.relname, i.indkey::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE i.indisprimary AND i.indrelid IN %[1]s`

const privilegesSQL = `SELECT c.oid, r.rolname, pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT')::int
 + 2 * pg_catalog.has_table_privilege(r.oid, c.oid, 'INSERT')::int + 4 * pg_catalog.has_table_privilege(r.oid, c.oid, 'UPDATE')::int
 + 8 * pg_catalog.has_table_privilege(r.oid, c.oid, 'DELETE')::int
FROM pg_catalog.pg_roles r CROSS JOIN pg_catalog.pg_class c
WHERE c.oid IN %[1]s AND r.rolname !~ '^pg_' AND pg_catalog.has_schema_privilege(r.oid, c.relnamespace, 'USAGE')
 AND pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE') LIMIT 100000`

// sequencesSQL: the sequences of names, with who may draw from them.
const sequencesSQL = `SELECT s.name, n.nspname, c.oid, c.relfilenode, coalesce(r.rolname, '')
FROM (VALUES %s) s(name) JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(s.name) JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_roles r ON r.rolname !~ '^pg_' AND pg_catalog.has_sequence_privilege(r.oid, c.oid, 'USAGE, UPDATE')
WHERE c.relkind = 'S' LIMIT 100000`

// namesakesSQL: every relation with the name of a declared one.
const namesakesSQL = `SELECT n.nspname, c.relname, c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname IN (SELECT d.name FROM %[1]s) AND c.relkind IN ('r','p','v','m','f','S','c','i','I','t') AND c.relpersistence <> 't'`

// familySQL: parents and children of declared tables, by inheritance and
// partitioning; any number of steps up, then down.
const familySQL = `WITH RECURSIVE up AS (
 SELECT o AS declared, o AS oid FROM %[1]s q(o)
 UNION SELECT up.declared, h.inhparent FROM up JOIN pg_catalog.pg_inherits h ON h.inhrelid = up.oid
), down AS (
 SELECT * FROM up UNION SELECT down.declared, h.inhrelid FROM down JOIN pg_catalog.pg_inherits h ON h.inhparent = down.oid
) SELECT DISTINCT down.declared, c.relname FROM down JOIN pg_catalog.pg_class c ON c.oid = down.oid`

// kinSQL: what foreign keys join with declared tables, in any number of steps,
// their families included.
const kinSQL = `WITH RECURSIVE edge AS (
 SELECT conrelid AS a, confrelid AS b FROM pg_catalog.pg_constraint WHERE contype = 'f'
 UNION SELECT confrelid, conrelid FROM pg_catalog.pg_constraint WHERE contype = 'f'
 UNION SELECT inhparent, inhrelid FROM pg_catalog.pg_inherits UNION SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits
), kin AS (
 SELECT o AS declared, o AS oid FROM %[1]s q(o) UNION SELECT kin.declared, edge.b FROM kin JOIN edge ON edge.a = kin.oid
) SELECT DISTINCT kin.declared, c.relname FROM kin JOIN pg_catalog.pg_class c ON c.oid = kin.oid`

// opaqueFunctions: what may read any table. Those of PostgreSQL itself are in
// builtinOpaque; of the extensions, those whose functions compute and nothing
// else are harmless.
const opaqueFunctions = `opaque AS (SELECT p.oid, p.proname FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
 LEFT JOIN pg_catalog.pg_depend y ON y.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND y.objid = p.oid AND y.deptype = 'e'
 LEFT JOIN pg_catalog.pg_extension e ON y.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND e.oid = y.refobjid
 WHERE p.oid >= 16384 AND l.lanname <> 'internal' AND coalesce(e.extname, '') NOT IN ('citext', 'hstore', 'ltree', 'pg_trgm',
 'uuid-ossp', 'pgcrypto', 'btree_gin', 'btree_gist', 'intarray', 'unaccent', 'fuzzystrmatch', 'cube', 'earthdistance', 'isn', 'seg', 'vector'))`

// opaqueSQL: names behind which may be any table: for readers "r", for writers "w".
// "*": whoever does anything.
const opaqueSQL = `WITH ` + opaqueFunctions + `
SELECT 'r', c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND (c.relkind IN ('v', 'm', 'f') OR c.relrowsecurity OR c.relhasrules)
UNION SELECT 'w', c.relname FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'
UNION SELECT 'w', pc.relname FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_inherits h ON h.inhrelid = t.tgrelid
 JOIN pg_catalog.pg_class pc ON pc.oid = h.inhparent WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'
UNION SELECT CASE WHEN a.attgenerated = 'v' THEN 'r' ELSE 'w' END, c.relname FROM pg_catalog.pg_depend y JOIN opaque o ON o.oid = y.refobjid
 JOIN pg_catalog.pg_attrdef d ON d.oid = y.objid JOIN pg_catalog.pg_class c ON c.oid = d.adrelid
 JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
 WHERE y.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND y.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
UNION SELECT 'w', c.relname FROM pg_catalog.pg_depend y JOIN opaque o ON o.oid = y.refobjid
 JOIN pg_catalog.pg_constraint k ON k.oid = y.objid
 JOIN pg_catalog.pg_class c ON c.oid = k.conrelid OR k.contypid <> 0 AND c.oid IN (SELECT attrelid FROM pg_catalog.pg_attribute WHERE atttypid = k.contypid)
 WHERE y.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND y.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
UNION SELECT 'w', c.relname FROM pg_catalog.pg_depend y JOIN opaque o ON o.oid = y.refobjid
 JOIN pg_catalog.pg_index i ON i.indexrelid = y.objid JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
 WHERE y.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND y.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
UNION SELECT 'r', proname FROM opaque
UNION SELECT 'r', p.proname FROM pg_catalog.pg_aggregate a JOIN pg_catalog.pg_proc p ON p.oid = a.aggfnoid
 JOIN opaque o ON o.oid IN (a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn)
UNION SELECT 'r', o.oprname FROM pg_catalog.pg_operator o JOIN opaque p ON p.oid = o.oprcode
UNION SELECT CASE WHEN k.castcontext = 'e' THEN 'r' ELSE '*' END, t.typname FROM pg_catalog.pg_cast k JOIN opaque p ON p.oid = k.castfunc
 JOIN pg_catalog.pg_type t ON t.oid = k.casttarget`

// builtinOpaque are PostgreSQL's own functions that run a query given as text, or
// read a table named by one.
var builtinOpaque = []string{"query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "table_to_xml", "table_to_xmlschema",
	"table_to_xml_and_xmlschema", "schema_to_xml", "schema_to_xmlschema", "schema_to_xml_and_xmlschema", "database_to_xml",
	"database_to_xmlschema", "database_to_xml_and_xmlschema", "cursor_to_xml", "cursor_to_xmlschema", "ts_stat", "ts_rewrite"}
