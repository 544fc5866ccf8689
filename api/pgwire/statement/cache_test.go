package statement

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
)

func TestCacheIgnoresLiterals(t *testing.T) {
	c := NewCache(1 << 20)
	first := c.Parse("INSERT INTO t VALUES (1, 'a')", false)
	second := c.Parse("insert into  T values (22, 'b''c') -- x", false)
	if first.Statements[0] != second.Statements[0] {
		t.Error("a text that differs in literals was parsed again")
	}
	if second.Literals[0].Value != "22" || second.Literals[1].Value != "b'c" {
		t.Errorf("literals are %+v", second.Literals)
	}
	for _, other := range []string{
		"INSERT INTO t VALUES (1.5, 'a')", "INSERT INTO t VALUES (1, $1)", "INSERT INTO \"T\" VALUES (1, 'a')",
		"INSERT INTO t VALUES (-1, 'a')", "INSERT INTO t VALUES ('1', 'a')", "INSERT INTO t VALUES (1, \"a\")",
	} {
		if c.Parse(other, false).Statements[0] == first.Statements[0] {
			t.Errorf("%s has the shape of another", other)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	const bytesMax = 64 << 10
	c := NewCache(bytesMax)
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			for i := range 2000 {
				c.Parse(fmt.Sprintf("INSERT INTO t%d_%d (a, b) VALUES ($1, $2)", worker, i), false)
				if n := c.Bytes(); n > bytesMax {
					t.Errorf("%d bytes in the cache", n)
					return
				}
			}
		})
	}
	group.Wait()
	if c.Len() < 10 {
		t.Errorf("only %d shapes are kept", c.Len())
	}
	before := c.Len()
	c.Parse("SELECT "+strings.Repeat("a, ", keptTextBytes), false)
	if c.Len() != before {
		t.Error("a long text is kept")
	}
	recent := c.Parse("INSERT INTO t3_1999 (a, b) VALUES ($1, $2)", false).Statements[0]
	if again := c.Parse("INSERT INTO t3_1999 (a, b) VALUES ($1, $2)", false).Statements[0]; again != recent {
		t.Error("the last one used is not kept")
	}
}

func TestLongText(t *testing.T) {
	got := Parse("INSERT INTO t VALUES ('"+strings.Repeat("x", MaxTextBytes)+"')", false)
	if got.Readable || got.Statements[0].Writes != Anything {
		t.Errorf("a text beyond the limit is %+v", got.Statements[0])
	}
	// What overflows the stack of other parsers.
	for _, text := range []string{"SELECT " + strings.Repeat("(", 500_000), "SELECT 1" + strings.Repeat("+1", 500_000),
		"INSERT INTO t VALUES (" + strings.Repeat("(", 500_000), "SELECT " + strings.Repeat("NOT ", 250_000), strings.Repeat("/*", 500_000),
		strings.Repeat("EXPLAIN ", 100_000), strings.Repeat("PREPARE a AS ", 50_000), "EXPLAIN " + strings.Repeat("((", 400_000)} {
		Parse(text, false)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range seeds {
		f.Add(text, false)
	}
	f.Add(manyIntegers, false)
	f.Add("SET x = -1, 'a'; SHOW walproxy.why", true)
	f.Add("SELECT 'a\\', $$b$$, $1, U&\"x\", E'\\u00e4', 1.e5..2", true)
	cache := NewCache(1 << 20)
	f.Fuzz(func(t *testing.T, text string, backslashes bool) {
		plain := Parse(text, backslashes)
		var recent Recent
		for range 2 {
			cache.ParseAfter(&recent, text, backslashes)
		}
		for _, like := range []string{text, otherDigits(text, 1), otherDigits(text, 3)} {
			if list := recent.Like([]byte(like), backslashes); list == nil {
				continue
			} else if other := Parse(like, backslashes); !other.Readable || !reflect.DeepEqual(list, other.Statements) {
				t.Fatalf("%q is like %q, but it is %+v instead of %+v", like, text, other.Statements, list)
			}
		}
		for range 2 { // new to the cache, and known to it
			if cached := cache.Parse(text, backslashes); !reflect.DeepEqual(cached, plain) {
				t.Fatalf("%q:\n%+v from the cache\n%+v without", text, cached, plain)
			}
		}
		for _, s := range plain.Statements {
			if (s.Write != nil) != (s.Why == Eligible) {
				t.Fatalf("%q: a write %v, but %v", text, s.Write != nil, s.Why)
			}
			if s.Write == nil {
				continue
			}
			for _, row := range s.Write.Rows {
				for _, v := range row {
					if v.Source == Constant && v.N >= len(plain.Literals) || v.Source == Parameter && (v.N < 1 || v.N > s.Write.Parameters) {
						t.Fatalf("%q: value %+v of %d literals", text, v, len(plain.Literals))
					}
				}
			}
		}
	})
}

// otherDigits has each digit of a text n times, as another one.
func otherDigits(text string, n int) string {
	var b []byte
	for i := range len(text) {
		if d := text[i]; isDigit(d) {
			b = append(b, bytes.Repeat([]byte{'0' + (d-'0'+3)%10}, n)...)
		} else {
			b = append(b, d)
		}
	}
	return string(b)
}

// manyIntegers is a text that is short, with more of them than are remembered.
var manyIntegers = "SELECT a FROM t WHERE a IN (" + strings.Repeat("1, ", recentNumbers) + "1)"

// TestRecent: a text is like the one before where its integers alone are others.
func TestRecent(t *testing.T) {
	t.Parallel()
	c := NewCache(1 << 20)
	var r Recent
	const text = "SELECT a, 'b' FROM t1 WHERE a = 1 AND c IN (22, 333);"
	for range 2 {
		c.ParseAfter(&r, text, false)
	}
	for like, want := range map[string]bool{
		text: true,
		"SELECT a, 'b' FROM t1 WHERE a = 1234567 AND c IN (0, 3);":                            true,
		"SELECT a, 'b' FROM t2 WHERE a = 1 AND c IN (22, 333);":                               false,
		"SELECT a, 'c' FROM t1 WHERE a = 1 AND c IN (22, 333);":                               false,
		"SELECT a, 'b' FROM t1 WHERE a = 1.5 AND c IN (22, 333);":                             false,
		"SELECT a, 'b' FROM t1 WHERE a = 1e5 AND c IN (22, 333);":                             false,
		"SELECT a, 'b' FROM t1 WHERE a = x AND c IN (22, 333);":                               false,
		"SELECT a, 'b' FROM t1 WHERE a = 1 AND c IN (22, 333); ":                              false,
		"SELECT a, 'b' FROM t1 WHERE a =  AND c IN (22, 333);":                                false,
		"SELECT a, 'b' FROM t1 WHERE a = 1 AND c IN (22":                                      false,
		"SELECT a, 'b' FROM t1 WHERE a = " + strings.Repeat("9", 20) + " AND c IN (22, 333);": false,
		"": false,
	} {
		if list := r.Like([]byte(like), false); (list != nil) != want {
			t.Errorf("%q: %v", like, list)
		}
	}
	if r.Like([]byte(text), true) != nil {
		t.Error("with backslashes that escape it may be another one")
	}
	for _, other := range []string{ // that are not remembered
		manyIntegers,
		"SELECT a FROM t WHERE a = 1 AND b = 0x1F",
		"SELECT a FROM t WHERE a = 1 AND b = '" + strings.Repeat("x", recentBytes) + "'",
	} {
		for range 2 {
			c.ParseAfter(&r, other, false)
		}
		for _, like := range []string{other, "SELECT 1", ""} {
			if list := r.Like([]byte(like), false); list != nil {
				t.Errorf("behind %q, %q: %v", other, like, list)
			}
		}
		if list := r.Like([]byte(text), false); list != nil && !reflect.DeepEqual(list, Parse(text, false).Statements) {
			t.Errorf("behind %q: %v", other, list)
		}
		c.ParseAfter(&r, text, false)
	}
}

func BenchmarkParse(b *testing.B) {
	texts := map[string]string{
		"parameters": `INSERT INTO "orders" ("id", "customer", "total", "note", "created") VALUES ($1, $2, $3, $4, $5)`,
		"literals":   `INSERT INTO orders (id, customer, total, note, created) VALUES (42, 'ann', 12.50, E'it\'s', '2026-01-01'::timestamptz)`,
		"select":     `SELECT o.id, o.total, c.name FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id = $1 AND c.active ORDER BY o.created DESC LIMIT 10`,
	}
	for name, text := range texts {
		b.Run(name+"/cached", func(b *testing.B) {
			c := NewCache(1 << 20)
			b.ReportAllocs()
			for b.Loop() {
				c.Parse(text, false)
			}
		})
		b.Run(name+"/new", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Parse(text, false)
			}
		})
	}
}
