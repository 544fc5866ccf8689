package behind

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// forms are ways to write values of a type; several may be of one.
type forms struct {
	definition string
	collection mutation.KeyType
	draw       func(r *rand.Rand) (format int16, value []byte)
}

func texts(choices ...string) func(r *rand.Rand) (int16, []byte) {
	return func(r *rand.Rand) (int16, []byte) { return 0, []byte(choices[r.IntN(len(choices))]) }
}

var keyForms = []forms{
	{"int4", mutation.KeyString, func(r *rand.Rand) (int16, []byte) {
		n := r.IntN(40) - 20
		switch r.IntN(3) {
		case 0:
			return 1, binary.BigEndian.AppendUint32(nil, uint32(n))
		case 1:
			return 0, fmt.Appendf(nil, " %+05d ", n)
		}
		return 0, fmt.Append(nil, n)
	}},
	{"int8", mutation.KeyInt64, func(r *rand.Rand) (int16, []byte) {
		n := int64(r.IntN(20)) << 40
		if r.IntN(2) == 0 {
			return 1, binary.BigEndian.AppendUint64(nil, uint64(n))
		}
		return 0, fmt.Append(nil, n)
	}},
	{"text", mutation.KeyString, texts("a", "A", "a ", " a", "ä", "a\u0308", "it's", "\x01")},
	{"varchar(3)", mutation.KeyString, texts("abc", "abc ", "abc   ", "ab", "ab ", "ab  ", "äöü", "äöü ")},
	{"bytea", mutation.KeyBytes, func(r *rand.Rand) (int16, []byte) {
		b := []byte{byte(r.IntN(3)), 0xff}
		switch r.IntN(3) {
		case 0:
			return 1, b
		case 1:
			return 0, fmt.Appendf(nil, `\x%X`, b)
		}
		return 0, fmt.Appendf(nil, `\%03o\377`, b[0])
	}},
	{"uuid", mutation.KeyString, func(r *rand.Rand) (int16, []byte) {
		id := uuid.UUID{0xab, 0xcd, 14: 1, 15: byte(r.IntN(9))}
		switch r.IntN(4) {
		case 0:
			return 1, id[:]
		case 1:
			return 0, fmt.Appendf(nil, "{%X}", id[:])
		case 2:
			return 0, fmt.Appendf(nil, "%X-%x", id[:2], id[2:])
		}
		return 0, []byte(id.String())
	}},
	{"date", mutation.KeyString, func(r *rand.Rand) (int16, []byte) {
		day := time.Date(1999, 12, 20+r.IntN(30), 0, 0, 0, 0, time.UTC)
		if r.IntN(2) == 0 {
			return 1, binary.BigEndian.AppendUint32(nil, uint32(int32((day.Unix()-946684800)/86400)))
		}
		return 0, []byte(day.Format(time.DateOnly))
	}},
	{"timestamptz", mutation.KeyString, func(r *rand.Rand) (int16, []byte) {
		at := time.Date(1999, 12, 31, 22+r.IntN(4), 30, 0, 1000*r.IntN(2)*500_000, time.UTC)
		switch r.IntN(4) {
		case 0:
			return 1, binary.BigEndian.AppendUint64(nil, uint64(at.UnixMicro()-946684800_000_000))
		case 1:
			return 0, []byte(at.In(time.FixedZone("", 5*3600+1800)).Format("2006-01-02 15:04:05.999999-07:00"))
		case 2:
			return 0, []byte(at.In(time.FixedZone("", -3*3600)).Format("2006-01-02T15:04:05.000000-07"))
		}
		return 0, []byte(at.Format(time.RFC3339Nano))
	}},
	{"mood", mutation.KeyString, texts("sad", "ok")},
}

// TestKeysAreRows: two writes have one key exactly if PostgreSQL has one row for
// them; and the key is canonical.
func TestKeysAreRows(t *testing.T) {
	ddl := "CREATE TYPE mood AS ENUM ('sad', 'ok');"
	var tables []catalogue.Declared
	for i, f := range keyForms {
		ddl += fmt.Sprintf("CREATE TABLE k%d (k %s PRIMARY KEY); CREATE TABLE p%d (v int DEFAULT 1, k %s, other int8, PRIMARY KEY (other, k));", i, f.definition, i, f.definition)
		tables = append(tables, catalogue.Declared{Name: fmt.Sprintf("k%d", i), KeyType: f.collection},
			catalogue.Declared{Name: fmt.Sprintf("p%d", i), KeyType: mutation.KeyComposite, Key: []string{"k", "other"}})
	}
	r := newRig(t, ddl, tables...)
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for i, f := range keyForms {
		known := map[string]bool{}
		for range 60 {
			format, value := f.draw(random)
			single := attempt{sql: fmt.Sprintf("INSERT INTO k%d (k) VALUES ($1)", i), formats: []int16{format}, values: [][]byte{value}}
			r.insertKey(single, f.collection, known)
			other := fmt.Append(nil, random.IntN(2))
			r.insertKey(attempt{sql: fmt.Sprintf("INSERT INTO p%d (k, other) VALUES ($1, $2)", i), formats: []int16{format, 0}, values: [][]byte{value, other}}, mutation.KeyComposite, known)
			// What names the row in a WHERE has the key that wrote it.
			if f.definition == "varchar(3)" && len(value) > 3 {
				continue // compared uncut, it is in no row
			}
			_, rows, _, why := r.judge(attempt{sql: fmt.Sprintf("DELETE FROM k%d WHERE k = $1", i), formats: []int16{format}, values: [][]byte{value}})
			if why != nil {
				t.Errorf("%s: %q in WHERE: %v", f.definition, value, why)
			} else if id := encoded(t, f.collection, fmt.Sprintf("k%d", i), rows[0].Key); !known[id] {
				t.Errorf("%s: %q in WHERE is the key %v, which no insert had", f.definition, value, rows[0].Key)
			}
		}
	}
}

func encoded(t *testing.T, kind mutation.KeyType, collection string, key *walproxyv1.Key) string {
	t.Helper()
	canonical, err := mutation.CanonicalKey(key, kind)
	if err != nil {
		t.Fatal(err)
	}
	id := string(mutation.AppendKey(nil, collection, key))
	if id != string(mutation.AppendKey(nil, collection, canonical)) {
		t.Errorf("key %v is not canonical", key)
	}
	return id
}

func (r *rig) insertKey(a attempt, kind mutation.KeyType, known map[string]bool) {
	r.t.Helper()
	plan, rows, refusal, why := r.judge(a)
	if refusal != nil || why != nil {
		r.t.Errorf("%s %q: %v %v", a.sql, a.values, refusal, why)
		return
	}
	id := encoded(r.t, kind, plan.Table.Collection, rows[0].Key)
	_, err := r.direct(a)
	if duplicate := err != nil && err.Code == "23505"; duplicate != known[id] || err != nil && !duplicate {
		r.t.Errorf("%s %q: key %v, known: %v, but the server says %v", a.sql, a.values, rows[0].Key, known[id], err)
	}
	known[id] = true
}
