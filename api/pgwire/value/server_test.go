package value

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func connect(t *testing.T, dsn string) *pgconn.PgConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
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
	return conn
}

func query(conn *pgconn.PgConn) catalogue.Query {
	return func(ctx context.Context, sql string) ([][]string, error) { return pgtest.Texts(ctx, conn, sql) }
}

// columns are tried with values made of the texts.
var columns = []struct {
	definition string
	texts      []string
	// counts: fewer of a verdict mean that the test does not try what it should.
	alwaysGood bool // no text is bad but for its encoding
}{
	{"bool", []string{"t", "false", " yes ", "of", "o", "2", "", "TRUE", "tru e", "on"}, false},
	{"int2", []string{"1", "-32768", "32767", "32768", " 5 ", "+7", "x", "", "-", "1 2", "99999x", "1.0", "0x10", "1_0", "--1", "007"}, false},
	{"int4", []string{"1", "-2147483648", "2147483648", " 5\t", "+7", "x", "", "99999999999999999999", "1e5", "12a", "0b1"}, false},
	{"int8", []string{"1", "-9223372036854775808", "9223372036854775808", "9223372036854775807", "", "- 1", "1 "}, false},
	{"float4", []string{"1.5", "-1e38", "1e39", "1e-50", "NaN", "inf", "-Infinity", "x", "", "1e", "1.", ".5", ".", "1e-46", "0x1p3", "1 2", "infinit", "+nan", "0e999"}, false},
	{"float8", []string{"1.5", "-1e308", "1e309", "1e-400", "nan", "+inf", "infinity ", "x", "", "1e+", "1.5.5", "1e-320", "nan(x)", "1e400x", "-0.0"}, false},
	{"numeric", []string{"1.5", "-1e10", "NaN", "x", "", "1e", "1.5.5", ".5", "5.", "1 ", "1e1001", "inf", "1_0", "1e5x", "--1", "0.000"}, false},
	{"numeric(5,2)", []string{"1.5", "999.99", "999.995", "1000", "-999.994", "0.001", "1e2", "1e3", "NaN", "99999999", "0.005", "-0.004"}, false},
	{"numeric(2,4)", []string{"0.001", "0.0099", "0.00995", "0.01", "1", "0.00994", "0", "0.00005", "1e-9"}, false},
	{"numeric(3)", []string{"999", "999.4", "999.5", "1000", "0.5", "0.4", "-999.5", "-12"}, false},
	{"numeric(3,-2)", []string{"12345", "99949", "99950", "49", "50", "1e5", "1e4"}, false},
	{"text", []string{"", "abc", "ünï", "it's", "\\x", strings.Repeat("long ", 100)}, true},
	{"varchar", []string{"", "abc", "ünï"}, true},
	{"varchar(3)", []string{"", "abc", "abcd", "abc  ", "äöü", "äöüß", "ab  c", "  a  "}, false},
	{"char(3)", []string{"", "abc", "abcd", "abc  ", "äöüß", "   "}, false},
	{"bytea", []string{"", `\x`, `\x00ff`, `\x0`, `\xzz`, `\x 00 ff`, `\x0 0`, "abc", `a\\b`, `\001`, `\400`, `\9`, `\`, `\xä0`, "\\x00\n11"}, false},
	{"uuid", []string{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC999C0B4EF8BB6D6BB9BD380A11", "{a0eebc99-9c0b4ef8-bb6d6bb9bd380a11}", "a0eebc99-", "x", "", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
		"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-", "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11", "a0eebc9-99c0b-4ef8-bb6d-6bb9bd380a11"}, false},
	{"date", []string{"2020-02-29", "2021-02-29", "0001-01-01", "9999-12-31", "infinity", "-infinity", "0000-01-01", "2020-13-01", "now", "1/2/2020", "x", "", "2020-1-1", "2021-04-31", "2020-01-32", "2020-00-10", "2020-01-00", "0000-13-01"}, false},
	{"time", []string{"12:34", "12:34:56", "23:59:59.999999", "24:00:00", "25:00", "12:60", "x", "12:34:56.1234567", "00:00:00.1"}, true},
	{"time(2)", []string{"12:34:56.789", "23:59:59.999999"}, true},
	{"timestamp", []string{"2020-02-29 12:34:56", "2020-02-29T12:34:56.123456", "2020-02-29", "2020-02-29 12:34:56+05", "infinity", "2020-02-30 00:00", "2020-02-29 ", "now", "2020-02-29 12:34:56Z", "2020-02-29 24:00", "2020-02-29 12:34:56 +05:30"}, true},
	{"timestamptz", []string{"2020-02-29 12:34:56", "2020-02-29T12:34:56.123456Z", "2020-02-29", "2020-02-29 12:34:56+05", "-infinity", "2020-02-29 12:34:56-15:59", "2020-02-29 12:34+0530", "2020-02-29 12:34:56+16", "2020-02-29T12:34Z", "0001-01-01 00:00:00+15:59", "2020-02-29 12:34:56-1"}, true},
	{"timestamptz(0)", []string{"2020-02-29 12:34:56.7", "9999-12-31 23:59:59.9"}, true},
	{"interval", []string{"1 day", "2 hours 3 minutes", "01:02:03", "1 year 2 mons 3 days 04:05:06.7", "P1D", "-1 day", "1 day 2 days", "x", "", "1 hour 01:00:00", "9999 years", "99:59:59"}, true},
	{"json", []string{`{}`, `{"a": [1, 2.5e10, null, "x\u00e4"]}`, `[`, ``, `{"a" 1}`, `01`, `"\u0000"`, `"\ud800"`, "\"\n\"", `nul`, ` 1 `, `1 2`, `"\x"`, `-`, strings.Repeat("[", 50) + strings.Repeat("]", 50)}, true},
	{"jsonb", []string{`{}`, `{"a": [1, 2.5, null, "xä"]}`, `[`, ``, `{"a" 1}`, `01`, `"\u0000"`, `"\ud800"`, "\"\n\"", `nul`, ` 1 `, `1 2`, `1e400000`, `{"a":1,"a":2}`}, true},
	{"inet", []string{"127.0.0.1", "10.0.0.1/8", "::1", "fe80::1/64", "10.1", "g y", "", "1.2.3.4/33", "1.2.3.256", "::ffff:1.2.3.4", "zz", "1.2.3.4/08", "01.2.3.4", "fe80::1%eth0"}, false},
	{"cidr", []string{"0x0a", "10.0.0.0/8", "10.0.0.1/8", "::/0", "1.2.3.4", "10", "x", "fe80::1/64"}, false},
	{"mood", []string{"sad", "ok", "it's", "Sad", "", "sad ", "x"}, false},
	{"int4[]", []string{"{}", "{1,2}", "{ 1 , 2 }", "{x}", "{99999999999}", "{1,}", "{NULL}", `{"1"}`, "{{1},{2}}", "[0:1]={1,2}", "1", "{1", "{1}}", `{""}`, "{1 2}"}, false},
	{"text[]", []string{"{}", `{a,"b c","d\"e",f g}`, `{"null",NULL}`, "{a,,b}", `{a"b}`, "{ äö }", `{"a\\b"}`, `{"a"b}`}, true},
	{"varchar(2)[]", []string{"{ab,cd}", "{abc}", `{"ab ","a"}`, `{"ab  "}`}, false},
	{"uuid[]", []string{"{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "{x}"}, false},
	{"mood[]", []string{"{sad,ok}", "{x}"}, false},
	{"short", []string{"abc", "abcd", "", "abc "}, false},
	{"whole", []string{"1", "99999999999", "x"}, false},
}

// TestAsServer: whatever is said of a value, a real server says, too.
func TestAsServer(t *testing.T) {
	dsn := pgtest.Shared(t).Database(t)
	setup := connect(t, dsn)
	ddl := "CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s'); CREATE DOMAIN short AS varchar(3); CREATE DOMAIN whole AS int;"
	var declared []catalogue.Declared
	for i, c := range columns {
		name := fmt.Sprintf("t%d", i)
		ddl += fmt.Sprintf("CREATE UNLOGGED TABLE %s (v %s);", name, c.definition)
		declared = append(declared, catalogue.Declared{Schema: "public", Name: name})
	}
	if _, err := query(setup)(t.Context(), ddl); err != nil {
		t.Fatal(err)
	}
	known, err := catalogue.Load(t.Context(), query(setup), declared)
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i, c := range columns {
		t.Run(c.definition, func(t *testing.T) {
			t.Parallel()
			s := &side{conn: connect(t, dsn), table: fmt.Sprintf("t%d", i), column: known.Tables[i].Column("v"), random: rand.New(rand.NewPCG(seed, uint64(i)))}
			s.prepare(t)
			s.run(t, Text, s.texts(c.texts))
			good, bad := s.good, s.bad
			if good == 0 || bad == 0 && !c.alwaysGood {
				t.Errorf("of texts %d were good and %d bad: want some of each", good, bad)
			}
			s.run(t, Binary, s.binaries(t, c.texts))
			if s.good == good {
				t.Error("of binaries none was good")
			}
			t.Logf("%d good, %d bad, %d unknown", s.good, s.bad, s.unknown)
		})
	}
}

// side compares what is said of the values of one column.
type side struct {
	conn               *pgconn.PgConn
	table              string
	column             *catalogue.Column
	random             *rand.Rand
	good, bad, unknown int
}

func (s *side) prepare(t *testing.T) {
	t.Helper()
	if s.random.IntN(2) == 0 { // no answer may depend on these
		if _, err := query(s.conn)(t.Context(), "SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'sql_standard'; SET TimeZone = 'Asia/Kathmandu'"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.conn.Prepare(t.Context(), "put", "INSERT INTO "+s.table+" VALUES ($1)", nil); err != nil {
		t.Fatal(err)
	}
}

// texts are the seeds and, of each, some with a few bytes changed.
func (s *side) texts(seeds []string) [][]byte {
	var values [][]byte
	for _, seed := range seeds {
		values = append(values, []byte(seed))
		for range 8 {
			values = append(values, s.mutate([]byte(seed), "0123456789+-.eE \t\n:xXabfnuNT{}[]\",'\\/_Z\x00\xff\xc3\xed\xa0"))
		}
	}
	return values
}

func (s *side) mutate(value []byte, alphabet string) []byte {
	value = slices.Clone(value)
	for range 1 + s.random.IntN(2) {
		b := alphabet[s.random.IntN(len(alphabet))]
		at := s.random.IntN(len(value) + 1)
		switch {
		case at == len(value) || s.random.IntN(3) == 0:
			value = slices.Insert(value, at, b)
		case s.random.IntN(2) == 0:
			value[at] = b
		default:
			value = slices.Delete(value, at, at+1)
		}
	}
	return value
}

// binaries are what the server itself makes of the texts it takes, and changes of it.
func (s *side) binaries(t *testing.T, seeds []string) [][]byte {
	t.Helper()
	var values [][]byte
	for _, seed := range seeds {
		r := s.conn.ExecParams(t.Context(), "SELECT $1::text::"+s.column.Type.Plain().Display, [][]byte{[]byte(seed)}, nil, nil, []int16{Binary}).Read()
		if _, refused := errors.AsType[*pgconn.PgError](r.Err); refused {
			continue
		} else if r.Err != nil {
			t.Fatal(r.Err)
		}
		value := r.Rows[0][0]
		values = append(values, value)
		for range 8 {
			values = append(values, s.mutate(value, "\x00\x01\x02\x7f\x80\xff\xc3 a1{\"}"))
		}
		if s.column.Type.Plain().Kind == catalogue.BaseType && len(value) == 8 { // a number or a moment: all of its range
			values = append(values, binary.BigEndian.AppendUint64(nil, s.random.Uint64()), binary.BigEndian.AppendUint64(nil, s.random.Uint64()>>8))
		}
	}
	return values
}

func (s *side) run(t *testing.T, format int16, values [][]byte) {
	t.Helper()
	for _, value := range values {
		if err := s.compare(t.Context(), format, value); err != nil {
			t.Errorf("format %d, value %q: %v", format, value, err)
		}
	}
}

func (s *side) compare(ctx context.Context, format int16, value []byte) error {
	d, verdict, said := Input(s.column.Type, format, slices.Clone(value), []string{"public"})
	if verdict == Good {
		_, verdict, said = Assign(d, s.column.Type, s.column.Type, s.column.Modifier)
	}
	return s.check(ctx, "put", format, value, verdict, said)
}

func (s *side) check(ctx context.Context, prepared string, format int16, value []byte, verdict Verdict, said *Error) error {
	if value == nil {
		value = []byte{} // which is no null
	}
	err := s.conn.ExecPrepared(ctx, prepared, [][]byte{value}, []int16{format}, nil).Read().Err
	refusal, refused := errors.AsType[*pgconn.PgError](err)
	if err != nil && !refused {
		return err
	}
	switch verdict {
	case Unknown:
		s.unknown++
		return nil
	case Good:
		s.good++
		if refused {
			return fmt.Errorf("good, but the server says %w", refusal)
		}
		return nil
	}
	s.bad++
	said = said.At(1)
	if !refused {
		return fmt.Errorf("bad (%w), but the server takes it", said)
	}
	if refusal.Code != said.Code || refusal.Message != said.Message || refusal.Detail != said.Detail || refusal.Hint != said.Hint {
		return fmt.Errorf("%w %q %q, but the server says %w %q %q", said, said.Detail, said.Hint, refusal, refusal.Detail, refusal.Hint)
	}
	return nil
}

// TestAssignAsServer: a parameter of one type for a column of another.
func TestAssignAsServer(t *testing.T) {
	dsn := pgtest.Shared(t).Database(t)
	conn := connect(t, dsn)
	targets := []string{"int2", "int4", "int8", "float4", "float8", "numeric", "numeric(4,1)", "text", "varchar(3)", "char(2)", "timestamp", "timestamptz", "timestamp(3)", "date", "bool", "jsonb", "short"}
	ddl := "CREATE DOMAIN short AS varchar(3);"
	var declared []catalogue.Declared
	for i, target := range targets {
		ddl += fmt.Sprintf("CREATE UNLOGGED TABLE t%d (v %s);", i, target)
		declared = append(declared, catalogue.Declared{Schema: "public", Name: fmt.Sprintf("t%d", i)})
	}
	if _, err := query(conn)(t.Context(), ddl); err != nil {
		t.Fatal(err)
	}
	known, err := catalogue.Load(t.Context(), query(conn), declared)
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string][]string{"int2": {"1", "-5", "32767"}, "int4": {"1", "40000", "-2147483648"}, "int8": {"1", "3000000000", "-1", "999"}, "float4": {"1.5", "NaN", "1e38"},
		"float8": {"1.5", "1e39", "1e-40", "0", "-7"}, "numeric": {"1.5", "40000", "9999.95"}, "text": {"abc", "abcd", "ab  ", ""}, "varchar": {"abcd", "ab"},
		"date": {"2020-01-01", "infinity"}, "timestamp": {"2020-01-01 01:02:03.456789", "0001-01-01"}, "timestamptz": {"2020-01-01"}, "json": {"{}"}, "bool": {"t"}}
	judged := 0
	for i, target := range targets {
		for source, texts := range sources {
			from := ByName(source)
			name := target + " from " + source
			s := &side{conn: conn, column: known.Tables[i].Column("v")}
			_, refused := conn.Prepare(t.Context(), name, fmt.Sprintf("INSERT INTO t%d VALUES ($1)", i), []uint32{from.OID})
			for _, text := range texts {
				d, verdict, said := Input(from, Text, []byte(text), nil)
				if verdict == Good {
					_, verdict, said = Assign(d, from, s.column.Type, s.column.Modifier)
				}
				if refused != nil {
					if verdict != Unknown {
						t.Errorf("%s is %v, but the server says %v", name, verdict, refused)
					}
					continue
				}
				if err := s.check(t.Context(), name, Text, []byte(text), verdict, said); err != nil {
					t.Errorf("%s, value %q: %v", name, text, err)
				}
			}
			judged += s.good + s.bad
		}
	}
	if judged < 60 {
		t.Errorf("only %d values were judged", judged)
	}
}
