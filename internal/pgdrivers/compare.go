package pgdrivers

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Difference is an exchange that two servers answered differently.
type Difference struct {
	Driver               string
	Connection, Exchange int
	Sent                 []string
	Want, Have           []string
	// Rows: they differ in nothing but the number of rows that a command says it
	// wrote, 0 and 1: of a table whose rows are assumed.
	Rows bool
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: connection %d, exchange %d: %s\n  have %q\n  want %q", d.Driver, d.Connection, d.Exchange, strings.Join(d.Sent, " "), d.Have, d.Want)
}

// Compare tells where what one server answered is not what the other did. They may differ
// in the key for cancel requests, in where in PostgreSQL's source an error arose, and
// in the rows of queries of pg_type, which has walproxy's own tables, too. Everything
// else is the same, byte for byte: the databases are copies of one another.
func (t *Transcript) Compare(want, have Replayed) (list []Difference) {
	for i, connection := range t.Connections {
		for j := range connection {
			w, h := at(want, i, j), at(have, i, j)
			catalogue := slices.ContainsFunc(connection[j].Sent, func(m []byte) bool { return bytes.Contains(m, []byte("pg_type")) })
			wanted, got := lines(w, catalogue), lines(h, catalogue)
			if slices.Equal(wanted, got) {
				continue
			}
			d := Difference{Driver: t.Driver, Connection: i, Exchange: j, Want: wanted, Have: got, Rows: slices.Equal(assumed(wanted), got)}
			for _, m := range connection[j].Sent {
				d.Sent = append(d.Sent, fmt.Sprintf("%.200q", m))
			}
			list = append(list, d)
		}
	}
	return list
}

// Recorded tells where the answers are of other types than those that were recorded:
// then it is not the programme any more.
func (t *Transcript) Recorded(have Replayed) (list []Difference) {
	for i, connection := range t.Connections {
		for j, e := range connection {
			got := ""
			for _, m := range at(have, i, j) {
				got = kinds(got, m[0])
			}
			if got != e.Answer {
				list = append(list, Difference{Driver: t.Driver, Connection: i, Exchange: j, Want: []string{e.Answer}, Have: []string{got}})
			}
		}
	}
	return list
}

func at(r Replayed, i, j int) [][]byte {
	if i >= len(r) || j >= len(r[i]) {
		return nil
	}
	return r[i][j]
}

// lines are messages as they may be compared.
func lines(messages [][]byte, catalogue bool) (out []string) {
	for _, m := range messages {
		body := m[5:]
		switch {
		case m[0] == 'D' && catalogue:
			if n := len(out); n > 0 && out[n-1] == "D some" {
				continue
			}
			out = append(out, "D some")
		case m[0] == 'C' && catalogue:
			out = append(out, "C some")
		case m[0] == 'K':
			out = append(out, fmt.Sprintf("K of %d bytes", len(body)))
		case m[0] == 'E' || m[0] == 'N':
			out = append(out, told(m[0], body))
		default:
			out = append(out, fmt.Sprintf("%c %q", m[0], body))
		}
	}
	return out
}

// told is an error or a notice, without the place in the source.
func told(kind byte, body []byte) string {
	var fields []string
	for _, field := range strings.Split(string(body), "\x00") {
		if field != "" && !strings.Contains("FLR", field[:1]) {
			fields = append(fields, field)
		}
	}
	slices.Sort(fields)
	return fmt.Sprintf("%c %q", kind, fields)
}

// assumed is an answer as it is where rows are assumed.
func assumed(lines []string) []string {
	out := slices.Clone(lines)
	for i, line := range out {
		for _, tag := range []string{"UPDATE 0", "DELETE 0", "INSERT 0 0"} {
			if line == fmt.Sprintf("C %q", tag+"\x00") {
				out[i] = fmt.Sprintf("C %q", strings.TrimSuffix(tag, "0")+"1\x00")
			}
		}
	}
	return out
}
