package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// rowTypes are the columns of a row, with the types of a value and of an array.
var rowTypes = []struct {
	name, typ  string
	oid, array uint32
}{
	{"id", "int8", 20, 1016}, {"name", "text", 25, 1009}, {"body", "text", 25, 1009},
	{"amount", "float8", 701, 1022}, {"at", "timestamptz", 1184, 1185}, {"version", "int8", 20, 1016},
}

// BenchmarkForms writes the rows of BenchmarkPostgres by each form of statement
// that could do it, from values that are encoded already, on one connection: what
// counts is the server's time per row. fill is the table's fillfactor: with room
// in its pages an update is HOT and no index is touched.
func BenchmarkForms(b *testing.B) {
	cluster := pgtest.New(b, pgtest.Options{Settings: serverSettings})
	for _, rows := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("rows=%d/write=insert", rows), func(b *testing.B) {
			compare(b, cluster, insertForms, rowsDDL, 1, rows, nil)
		})
		for _, fill := range []int{100, 50} {
			b.Run(fmt.Sprintf("rows=%d/write=upsert/fill=%d", rows, fill), func(b *testing.B) {
				compare(b, cluster, upsertForms, fmt.Sprintf("%s WITH (fillfactor = %d)", rowsDDL, fill), 1, rows, nil)
			})
		}
	}
}

var (
	list     = named("%s", 0)
	fromList = fmt.Sprintf("(SELECT %s) AS s", numbered("unnest($%[1]d) AS %[2]s"))
	fromFrom = fmt.Sprintf("unnest(%s) AS s(%s)", numbered("$%[1]d"), list)
	update   = "UPDATE rows AS t SET " + named("%[1]s = s.%[1]s", 1)
	merge    = " AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET " + named("%[1]s = s.%[1]s", 1) +
		" WHEN NOT MATCHED THEN INSERT (" + list + ") VALUES (" + named("s.%s", 0) + ")"
	mergeArrays = "MERGE INTO rows AS t USING " + strings.TrimSuffix(fromList, " AS s") + merge
	samekey     = " WHERE t.id = s.id"
)

var insertForms = []contender{
	{method: "copy", share: 1, open: form(copyRows("rows"))},
	{method: "single", share: 4, open: form(singles(insertSQL + "VALUES (" + numbered("$%[1]d") + ")"))},
	{method: "values", share: 1, open: form(values(insertSQL + "%s"))},
	{method: "unnest-from", share: 1, open: form(arrays(insertSQL + "SELECT " + named("s.%s", 0) + " FROM " + fromFrom))},
	{method: "unnest-list", share: 1, open: form(arrays(insertSQL + "SELECT " + named("s.%s", 0) + " FROM " + fromList))},
	{method: "unnest-conflict", share: 1, open: form(arrays(insertSQL + "SELECT " + named("s.%s", 0) + " FROM " + fromList + upsertSQL))},
	{method: "merge", share: 1, open: form(arrays(mergeArrays))},
	{method: "temp", share: 1, open: form(staged(insertSQL + "SELECT " + list + " FROM staged"))},
}

var upsertForms = []contender{
	{method: "copy", share: 1, open: form(copyRows("rows"))}, // new rows: the measure of the others
	{method: "single", share: 4, existing: true, open: form(singles(insertSQL + "VALUES (" + numbered("$%[1]d") + ")" + upsertSQL))},
	{method: "values", share: 1, existing: true, open: form(values(insertSQL + "%s" + upsertSQL))},
	{method: "unnest-from", share: 1, existing: true, open: form(arrays(insertSQL + "SELECT " + named("s.%s", 0) + " FROM " + fromFrom + upsertSQL))},
	{method: "unnest-list", share: 1, existing: true, open: form(arrays(insertSQL + "SELECT " + named("s.%s", 0) + " FROM " + fromList + upsertSQL))},
	{method: "update", share: 1, existing: true, open: form(arrays(update + " FROM " + fromList + samekey))},
	{method: "update-count", share: 1, existing: true, open: form(arrays("WITH u AS (" + update + " FROM " + fromList + samekey + " RETURNING 1) SELECT count(*) FROM u"))},
	{method: "merge", share: 1, existing: true, open: form(arrays(mergeArrays))},
	{method: "merge-anywhere", share: 1, existing: true, open: ordered(arrays(mergeArrays), anywhere)},
	{method: "merge-sorted", share: 1, existing: true, open: ordered(arrays(mergeArrays), sorted)},
	{method: "merge-any", share: 1, existing: true, open: form(hashed(arrays(within("t.id = ANY ($1)"))))},
	{method: "merge-range", share: 1, existing: true, open: form(hashed(ranged(within("t.id BETWEEN $7 AND $8"))))},
	{method: "temp-conflict", share: 1, existing: true, open: form(staged(insertSQL + "SELECT " + list + " FROM staged" + upsertSQL))},
	{method: "temp-update", share: 1, existing: true, open: form(staged(update + " FROM staged AS s" + samekey))},
	{method: "temp-merge", share: 1, existing: true, open: form(staged("MERGE INTO rows AS t USING staged" + merge))},
	{method: "delete-copy", share: 1, existing: true, open: form(deleteCopy)},
}

// within is the MERGE with another condition on the rows that there are.
func within(condition string) string {
	return strings.Replace(mergeArrays, " WHEN MATCHED", " AND "+condition+" WHEN MATCHED", 1)
}

// hashed finds rows by one scan of the index instead of a lookup each.
func hashed(write func(s *session, rows [][][]byte)) func(s *session, rows [][][]byte) {
	return func(s *session, rows [][][]byte) {
		if len(s.prepared) == 0 {
			s.exec("SET enable_hashjoin = on; SET enable_nestloop = off; SET enable_bitmapscan = off")
		}
		write(s, rows)
	}
}

// ranged is arrays with the first and the last key behind them, rows being in order.
func ranged(sql string) func(s *session, rows [][][]byte) {
	return func(s *session, rows [][][]byte) {
		s.transaction(statement{sql, append(types(true), 20, 20), append(arraysOf(rows), rows[0][0], rows[len(rows)-1][0])})
	}
}

// named is format for each column's name from the first on, with commas.
func named(format string, first int) string {
	var items []string
	for _, c := range rowTypes[first:] {
		items = append(items, fmt.Sprintf(format, c.name))
	}
	return strings.Join(items, ", ")
}

// numbered is format for each column's parameter $1 and name $2, with commas.
func numbered(format string) string {
	var items []string
	for i, c := range rowTypes {
		items = append(items, fmt.Sprintf(format, i+1, c.name))
	}
	return strings.Join(items, ", ")
}

// encoded is rowOf as binary values.
func encoded(i int) [][]byte {
	number := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	return [][]byte{
		number(uint64(i)), fmt.Appendf(nil, "name %09d", i), []byte(body), number(math.Float64bits(float64(i) / 8)),
		number(uint64(time.Unix(1_700_000_000+int64(i), 0).Sub(epoch).Microseconds())), number(uint64(i + 1)),
	}
}

// session is a connection with the statements it has prepared.
type session struct {
	b        *testing.B
	conn     *pgconn.PgConn
	prepared map[string]string
}

// form makes a contender of what writes encoded rows in one transaction.
func form(write func(s *session, rows [][][]byte)) func(b *testing.B, dsn string, conns, per int) func(from, to int) {
	return ordered(write, func([]int, int) {})
}

// anywhere is no order, sorted the same with each transaction's rows in the order of
// their keys.
func anywhere(order []int, _ int) {
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
}

func sorted(order []int, per int) {
	anywhere(order, per)
	for part := range slices.Chunk(order, per) {
		slices.Sort(part)
	}
}

// ordered is form with the rows in the order that arrange makes of 0, 1, 2 ...
func ordered(write func(s *session, rows [][][]byte), arrange func(order []int, per int)) func(b *testing.B, dsn string, conns, per int) func(from, to int) {
	return func(b *testing.B, dsn string, _, per int) func(from, to int) {
		s := &session{b: b, conn: pgtest.Connect(b, dsn).PgConn(), prepared: map[string]string{}}
		s.exec("SET plan_cache_mode = force_generic_plan; SET jit = off; SET enable_seqscan = off; SET enable_material = off; SET enable_hashjoin = off; SET enable_mergejoin = off; " +
			"CREATE TEMPORARY TABLE staged (LIKE rows) ON COMMIT DELETE ROWS")
		order := make([]int, b.N)
		for i := range order {
			order[i] = i
		}
		arrange(order, per)
		rows := make([][][]byte, b.N)
		for i, row := range order {
			rows[i] = encoded(row)
		}
		return func(from, to int) {
			for ; from < to; from += per {
				write(s, rows[from:min(from+per, to)])
			}
		}
	}
}

func (s *session) exec(sql string) {
	if _, err := s.conn.Exec(s.b.Context(), sql).ReadAll(); err != nil {
		s.b.Fatal(err)
	}
}

// statement is one of a pipeline.
type statement struct {
	sql    string
	types  []uint32
	params [][]byte
}

// pipe runs statements in one round trip, prepared once.
func (s *session) pipe(statements ...statement) {
	p := s.conn.StartPipeline(s.b.Context())
	answers := 1
	for _, st := range statements {
		name, ok := s.prepared[st.sql]
		if !ok {
			name = fmt.Sprintf("s%d", len(s.prepared))
			s.prepared[st.sql] = name
			p.SendPrepare(name, st.sql, st.types)
			answers++
		}
		p.SendQueryPrepared(name, st.params, []int16{1}, nil)
		answers++
	}
	err := p.Sync()
	for i := 0; i < answers && err == nil; i++ {
		var result any
		result, err = p.GetResults()
		if reader, ok := result.(*pgconn.ResultReader); ok && err == nil {
			_, err = reader.Close()
		}
	}
	if closeErr := p.Close(); err != nil || closeErr != nil {
		s.b.Fatal(err, closeErr)
	}
}

func (s *session) transaction(statements ...statement) {
	s.pipe(append(append([]statement{{sql: "BEGIN"}}, statements...), statement{sql: "COMMIT"})...)
}

func types(arrays bool) (oids []uint32) {
	for _, c := range rowTypes {
		if arrays {
			oids = append(oids, c.array)
		} else {
			oids = append(oids, c.oid)
		}
	}
	return oids
}

func singles(sql string) func(s *session, rows [][][]byte) {
	return func(s *session, rows [][][]byte) {
		var statements []statement
		for _, row := range rows {
			statements = append(statements, statement{sql, types(false), row})
		}
		s.transaction(statements...)
	}
}

// values: the parameters of one statement are 65,535 at most.
func values(format string) func(s *session, rows [][][]byte) {
	return func(s *session, rows [][][]byte) {
		var all []statement
		for len(rows) > 0 {
			n := min(len(rows), 1000)
			st := statement{}
			var items []string
			for i, row := range rows[:n] {
				var item []string
				for j, c := range rowTypes {
					p := fmt.Sprintf("$%d", i*len(rowTypes)+j+1)
					if i == 0 {
						p += "::" + c.typ
					}
					item = append(item, p)
				}
				items = append(items, "("+strings.Join(item, ", ")+")")
				st.params, st.types = append(st.params, row...), append(st.types, types(false)...)
			}
			st.sql = fmt.Sprintf(format, "VALUES "+strings.Join(items, ", "))
			all, rows = append(all, st), rows[n:]
		}
		s.transaction(all...)
	}
}

func arrays(sql string) func(s *session, rows [][][]byte) {
	return func(s *session, rows [][][]byte) { s.transaction(statement{sql, types(true), arraysOf(rows)}) }
}

// arraysOf is a binary array per column.
func arraysOf(rows [][][]byte) [][]byte {
	params := make([][]byte, len(rowTypes))
	for j, c := range rowTypes {
		buf := make([]byte, 20, 20+len(rows)*(8+len(rows[0][j])))
		binary.BigEndian.PutUint32(buf, 1)
		binary.BigEndian.PutUint32(buf[8:], c.oid)
		binary.BigEndian.PutUint32(buf[12:], uint32(len(rows)))
		binary.BigEndian.PutUint32(buf[16:], 1)
		for _, row := range rows {
			buf = binary.BigEndian.AppendUint32(buf, uint32(len(row[j])))
			buf = append(buf, row[j]...)
		}
		params[j] = buf
	}
	return params
}

// copyRows is COPY in binary.
func copyRows(table string) func(s *session, rows [][][]byte) {
	return func(s *session, rows [][][]byte) {
		buf := append(make([]byte, 0, 256*len(rows)), "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)
		for _, row := range rows {
			buf = binary.BigEndian.AppendUint16(buf, uint16(len(row)))
			for _, v := range row {
				buf = binary.BigEndian.AppendUint32(buf, uint32(len(v)))
				buf = append(buf, v...)
			}
		}
		buf = append(buf, 0xff, 0xff)
		if _, err := s.conn.CopyFrom(s.b.Context(), bytes.NewReader(buf), "COPY "+table+" ("+list+") FROM STDIN BINARY"); err != nil {
			s.b.Fatal(err)
		}
	}
}

// staged is COPY into a temporary table and a statement that takes it from there.
func staged(sql string) func(s *session, rows [][][]byte) {
	return func(s *session, rows [][][]byte) {
		s.exec("BEGIN")
		copyRows("staged")(s, rows)
		s.pipe(statement{sql: sql}, statement{sql: "COMMIT"})
	}
}

// deleteCopy replaces rows: others who wait for one find it deleted, so it is for
// comparison only.
func deleteCopy(s *session, rows [][][]byte) {
	s.pipe(statement{sql: "BEGIN"}, statement{"DELETE FROM rows AS t USING (SELECT unnest($1) AS id) AS s WHERE t.id = s.id", types(true)[:1], arraysOf(rows)[:1]})
	copyRows("rows")(s, rows)
	s.exec("COMMIT")
}
