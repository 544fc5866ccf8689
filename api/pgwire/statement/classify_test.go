package statement

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestClassify(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "empty nothing nothing",
		" -- nothing":                   "empty nothing nothing",
		"SELECT * FROM t":               "select named nothing",
		"((SELECT 1))":                  "select named nothing",
		"VALUES (1)":                    "select named nothing",
		"SELECT 1 FOR UPDATE":           "select named named",
		"SELECT 1 INTO x":               "select named named",
		"SELECT a FOR share":            "select named named",
		"SELECT f(x for 3)":             "select named nothing",
		"WITH a AS (SELECT 1) SELECT 1": "select named nothing",
		"WITH a AS (DELETE FROM t RETURNING 1) SELECT 1":            "select named named",
		"INSERT INTO t SELECT 1":                                    "insert named target",
		"UPDATE a.b.c SET a = 1":                                    "update named named",
		"MERGE INTO t USING s ON true WHEN MATCHED THEN DO NOTHING": "merge named named",
		"TRUNCATE t":                                       "truncate nothing named",
		"TRUNCATE t CASCADE":                               "truncate nothing anything",
		"COPY t FROM STDIN":                                "copy nothing target",
		"COPY s.t (a, b) FROM STDIN":                       "copy nothing target",
		"COPY t TO STDOUT":                                 "copy named nothing",
		"COPY (SELECT 1) TO STDOUT":                        "copy named named",
		"LOCK TABLE t":                                     "lock named named",
		"CREATE TABLE x (a int)":                           "schema named named",
		"CREATE TEMP TABLE x (a int)":                      "schema named named",
		"CREATE UNIQUE INDEX ON x(a)":                      "schema named named",
		"CREATE VIEW v AS SELECT 1":                        "schema anything anything",
		"DROP TABLE t":                                     "schema named named",
		"DROP TABLE t CASCADE":                             "schema anything anything",
		"ALTER TABLE ALL IN TABLESPACE x SET TABLESPACE y": "schema anything anything",
		"VACUUM":                           "schema anything anything",
		"EXPLAIN INSERT INTO t VALUES (1)": "explain named nothing",
		"EXPLAIN ANALYZE INSERT INTO t VALUES (1)":   "explain named target",
		"EXPLAIN (ANALYZE, COSTS off) DELETE FROM t": "explain named target",
		"CALL p()":                           "call anything anything",
		"DO $$ BEGIN END $$":                 "call anything anything",
		"BEGIN ISOLATION LEVEL SERIALIZABLE": "begin nothing nothing",
		"START TRANSACTION":                  "begin nothing nothing",
		"COMMIT AND CHAIN":                   "commit nothing nothing chain",
		"END":                                "commit nothing nothing",
		"ROLLBACK":                           "rollback nothing nothing",
		"ROLLBACK WORK AND CHAIN":            "rollback nothing nothing chain",
		"ROLLBACK TO SAVEPOINT s":            "rollback to nothing nothing s",
		"ROLLBACK PREPARED 'x'":              "two-phase nothing nothing",
		"PREPARE TRANSACTION 'x'":            "two-phase nothing nothing",
		"SAVEPOINT \"S\"":                    "savepoint nothing nothing S",
		"RELEASE SAVEPOINT s":                "release nothing nothing s",
		"RELEASE savepoint":                  "release nothing nothing savepoint",
		"PREPARE p (int) AS SELECT $1":       "prepare nothing nothing p",
		"EXECUTE p(1)":                       "execute anything anything p",
		"DEALLOCATE PREPARE p":               "deallocate nothing nothing p",
		"DEALLOCATE ALL":                     "deallocate nothing nothing",
		"DEALLOCATE \"all\"":                 "deallocate nothing nothing all",
		"DISCARD ALL":                        "discard nothing nothing all",
		"DECLARE c CURSOR FOR SELECT 1":      "declare named named c",
		"FETCH ALL FROM c":                   "declare anything anything all",
		"CLOSE c":                            "close nothing nothing c",
		"LISTEN x":                           "listen nothing nothing x",
		"NOTIFY x, 'y'":                      "notify nothing nothing x",
		"nonsense":                           "other anything anything",
		"SELECT U&\"t\"":                     "other anything anything",
		"START ME UP":                        "other anything anything",
		"/* open":                            "other anything anything",
		"SELECT '\xff'":                      "other anything anything",
	} {
		got := Parse(text, false).Statements
		if len(got) != 1 {
			t.Errorf("%s: %d statements", text, len(got))
			continue
		}
		said := fmt.Sprintf("%v %v %v", got[0].Kind, got[0].Reads, got[0].Writes)
		if got[0].Object != "" {
			said += " " + got[0].Object
		}
		if got[0].Chain {
			said += " chain"
		}
		if said != want {
			t.Errorf("%s: %s, want %s", text, said, want)
		}
	}
}

// TestTags: what only begins or ends a transaction is told from what says more.
func TestTags(t *testing.T) {
	for text, want := range map[string]string{
		"begin": "BEGIN", "BEGIN WORK;": "BEGIN", "BEGIN TRANSACTION": "BEGIN", "START TRANSACTION": "START TRANSACTION",
		"COMMIT": "COMMIT", "END TRANSACTION": "COMMIT", "ROLLBACK": "ROLLBACK", "ABORT WORK": "ROLLBACK",
		"BEGIN READ ONLY": "", "BEGIN WORK TRANSACTION": "", "START TRANSACTION ISOLATION LEVEL SERIALIZABLE": "", "START ME": "",
		"COMMIT AND CHAIN": "", "COMMIT AND NO CHAIN": "", "COMMIT PREPARED 'x'": "", "ROLLBACK TO a": "", "ROLLBACK WORK TO SAVEPOINT a": "",
		"PREPARE TRANSACTION 'x'": "", "SAVEPOINT a": "", "SELECT 1": "",
	} {
		if got := Parse(text, false).Statements[0].Tag; got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	s := Parse(`SELECT "A".b, lower(C) FROM s.View1 "A" WHERE x ~* 'hidden' AND b <> 3`, false).Statements[0]
	for _, want := range []string{"A", "b", "c", "s", "view1", "lower", "~*", "<>"} {
		if !slices.Contains(s.Names, want) {
			t.Errorf("%q is not among %q", want, s.Names)
		}
	}
	if slices.Contains(s.Names, "hidden") || !slices.IsSorted(s.Names) {
		t.Errorf("names are %q", s.Names)
	}
	long := strings.Repeat("ä", 40)
	if s := Parse(`SELECT * FROM `+long, false).Statements[0]; !slices.Contains(s.Names, strings.Repeat("ä", 31)) {
		t.Errorf("a name longer than PostgreSQL's is %q", s.Names)
	}
}

func TestSeveral(t *testing.T) {
	got := Parse(`;; BEGIN; INSERT INTO t VALUES ('a;b', 1); COMMIT ;`, false)
	var kinds []Kind
	for _, s := range got.Statements {
		kinds = append(kinds, s.Kind)
	}
	if want := []Kind{Empty, Empty, Begin, Insert, Commit}; !slices.Equal(kinds, want) {
		t.Errorf("kinds are %v, want %v", kinds, want)
	}
	if w := got.Statements[3].Write; w == nil || w.Rows[0][1].N != 1 || got.Literals[0].Value != "a;b" {
		t.Errorf("the insert is %+v, literals %+v", w, got.Literals)
	}
	body := Parse("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; COMMIT", false)
	if len(body.Statements) != 1 || body.Statements[0].Writes != Anything {
		t.Errorf("a function's body is %d statements", len(body.Statements))
	}
}

func TestSettings(t *testing.T) {
	for text, want := range map[string]string{
		"SET walproxy.ack = 'logged'":        "walproxy.ack [logged]",
		"SET LOCAL WALPROXY.Ack TO off":      "walproxy.ack [off] local",
		"SET SESSION statement_timeout = -1": "statement_timeout [-1]",
		"SET search_path TO a, \"B\", 'c'":   "search_path [a B c]",
		"SET TIME ZONE 'UTC'":                "time zone [UTC]",
		"SET search_path TO DEFAULT":         "search_path []",
		"SET ROLE x":                         "role [x]",
		"SET SESSION AUTHORIZATION DEFAULT":  "session authorization []",
		"SET TRANSACTION READ ONLY":          "transaction []",
		"SHOW walproxy.why":                  "walproxy.why []",
		"SHOW TIME ZONE":                     "time zone []",
		"RESET ALL":                          "all []",
		"RESET search_path":                  "search_path []",
		"SET session = 'x'":                  "session [x]",
		"SET x":                              "none",
		"SET x = 1 2":                        "none",
		"SET x = f(1)":                       "none",
		"SHOW a b":                           "none",
	} {
		got := Parse(text, false)
		s := got.Statements[0].Setting
		said := "none"
		if s != nil {
			said = fmt.Sprintf("%s %s", s.Name, got.Strings(s))
			if s.Local {
				said += " local"
			}
		}
		if said != want {
			t.Errorf("%s: %s, want %s", text, said, want)
		}
	}
}

func TestBackslashes(t *testing.T) {
	for text, readable := range map[string]bool{
		`INSERT INTO t VALUES ('a\', 1)`:   false,
		`INSERT INTO t VALUES (E'a\\', 1)`: true,
		`INSERT INTO t VALUES ('a', 1)`:    true,
	} {
		if got := Parse(text, true); got.Readable != readable {
			t.Errorf("%s: readable %v", text, got.Readable)
		}
	}
}
