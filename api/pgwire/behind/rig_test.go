package behind

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
	"github.com/walproxy/walproxy/internal/pgstatement"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// rig is a database with its catalogue and a session on it.
type rig struct {
	t       *testing.T
	dsn     string
	conn    *pgconn.PgConn
	session *Session
	known   *catalogue.Snapshot
	cache   *statement.Cache
	next    int64 // of sequences
}

func newRig(t *testing.T, ddl string, tables ...catalogue.Declared) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dsn := pgtest.Shared(t).Database(t)
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := conn.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	r := &rig{t: t, dsn: dsn, conn: conn, cache: statement.NewCache(1 << 20), next: 100,
		session: &Session{Role: pgtest.Superuser, SearchPath: []string{"public"}, TimeZone: "UTC", Location: time.UTC}}
	r.must("SET TimeZone = 'UTC';" + ddl)
	for i := range tables {
		tables[i].Schema = "public"
		if tables[i].Collection == "" {
			tables[i].Collection = tables[i].Name
		}
	}
	if r.known, err = catalogue.Load(t.Context(), r.query, tables); err != nil {
		t.Fatal(err)
	}
	for _, table := range r.known.Tables {
		if table.Refused != catalogue.Accepted {
			t.Fatalf("table %s: %v %s", table, table.Refused, table.Detail)
		}
	}
	return r
}

func (r *rig) query(ctx context.Context, sql string) ([][]string, error) {
	return pgtest.Texts(ctx, r.conn, sql)
}

func (r *rig) must(sql string) [][]string {
	r.t.Helper()
	rows, err := r.query(r.t.Context(), sql)
	if err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return rows
}

// attempt is one execution of a text.
type attempt struct {
	sql     string
	types   []uint32
	formats []int16
	values  [][]byte
}

// direct runs it as a client would.
func (r *rig) direct(a attempt) (tag string, refusal *pgconn.PgError) {
	r.t.Helper()
	var err error
	if len(a.values) == 0 {
		var results []*pgconn.Result
		results, err = r.conn.Exec(r.t.Context(), a.sql).ReadAll()
		if err == nil {
			tag = results[0].CommandTag.String()
		}
	} else {
		result := r.conn.ExecParams(r.t.Context(), a.sql, a.values, a.types, a.formats, nil).Read()
		err, tag = result.Err, result.CommandTag.String()
	}
	if err == nil {
		return tag, nil
	}
	refusal, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		r.t.Fatalf("%s: %v", a.sql, err)
	}
	return "", refusal
}

// judge plans and binds it.
func (r *rig) judge(a attempt) (*Plan, []Row, *Refusal, *Why) {
	r.t.Helper()
	text := r.cache.Parse(a.sql, false)
	if len(text.Statements) != 1 {
		r.t.Fatalf("%s: %d statements", a.sql, len(text.Statements))
	}
	plan, why := Prepare(r.known, text.Statements[0], a.types, r.session)
	if why != nil {
		return nil, nil, nil, why
	}
	rows, refusal, why := plan.Bind(r.session, &Execution{Text: text, SQL: a.sql, Formats: a.formats, Values: a.values, Now: time.Now(), Started: time.Now(), Clock: time.Now,
		UUID: uuid.NewRandom, Next: func(*catalogue.Sequence) (int64, bool) { r.next++; return r.next, true }})
	return plan, rows, refusal, why
}

// apply runs a row as a sink would, from its encoding.
func (r *rig) apply(p *Plan, row Row) (tag string, refusal *pgconn.PgError) {
	r.t.Helper()
	record := p.Record(row, r.session)
	if err := mutation.ValidateStatement(record); err != nil {
		r.t.Fatal(err)
	}
	formats, values, err := pgstatement.Parameters(record.GetParameters())
	if err != nil {
		r.t.Fatal(err)
	}
	result := r.conn.ExecParams(r.t.Context(), record.GetText(), values, record.GetParameterOids(), formats, nil).Read()
	if result.Err == nil {
		return result.CommandTag.String(), nil
	}
	refusal, ok := errors.AsType[*pgconn.PgError](result.Err)
	if !ok {
		r.t.Fatalf("%s: %v", record.GetText(), result.Err)
	}
	return "", refusal
}

// differs says what a client would see that is not as PostgreSQL has it.
func differs(got *Refusal, want *pgconn.PgError) string {
	if want == nil {
		return fmt.Sprintf("refused (%v), but the server takes it", got.Error)
	}
	var said []string
	compare := func(what, got, want string) {
		if got != want {
			said = append(said, fmt.Sprintf("%s %q, want %q", what, got, want))
		}
	}
	compare("code", got.Code, want.Code)
	compare("message", got.Message, want.Message)
	compare("detail", got.Detail, want.Detail)
	compare("column", got.Column, want.ColumnName)
	compare("position", fmt.Sprint(got.Position), fmt.Sprint(want.Position))
	table := ""
	if got.Table != nil {
		table = got.Table.Name
	}
	if want.Code == "23502" {
		compare("table", table, want.TableName)
	}
	return strings.Join(said, "; ")
}
