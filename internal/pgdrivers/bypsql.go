package pgdrivers

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var parameter = regexp.MustCompile(`\$\d+`)

// literals puts arguments into a text.
func literals(sql string, args []string) string {
	return parameter.ReplaceAllStringFunc(sql, func(p string) string {
		n, err := strconv.Atoi(p[1:])
		if err != nil || n > len(args) {
			return p
		}
		kind, text := args[n-1][0], args[n-1][2:]
		switch kind {
		case '0':
			return "NULL"
		case 'i', 'f', 'm', 'b':
			return text
		case 'x':
			return `'\x` + text + "'"
		case 'a':
			return "'{\"" + strings.ReplaceAll(text, ",", `","`) + "\"}'"
		}
		return "'" + strings.ReplaceAll(text, "'", "''") + "'"
	})
}

// psqlScript is the programme for psql.
func psqlScript(at Target) string {
	var b strings.Builder
	for _, s := range steps() {
		if s.what == "own" && !at.Walproxy {
			continue
		}
		fmt.Fprintf(&b, "\\echo %s:\n", s.name)
		switch s.what {
		case "begin", "commit", "rollback":
			fmt.Fprintf(&b, "%s;\n", s.what)
		case "copyin":
			fmt.Fprintf(&b, "%s;\n%s\\.\n", s.sql, copied(s.args))
		case "batch": // in one message
			var list []string
			for _, row := range s.rows {
				list = append(list, literals(s.sql, row))
			}
			fmt.Fprintf(&b, "%s;\n", strings.Join(list, "\\; "))
		default:
			fmt.Fprintf(&b, "%s;\n", literals(s.sql, s.args))
		}
	}
	if at.Describe {
		b.WriteString("\\echo described:\n\\d items\n")
	}
	b.WriteString("SELECT name FROM plain \\gdesc\n")
	return b.String()
}

// pgbenchScript writes with variables: literals in the simple protocol, parameters of
// statements without a name or with one in the others.
const pgbenchScript = `\set id :client_id * 1000 + random(1, 3)
\set n random(1, 100)
INSERT INTO items (id, name, n) VALUES (:id, 'by pgbench', :n) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n;
UPDATE assumed SET n = :n WHERE id = :id;
SELECT n FROM items WHERE id = :id;
BEGIN;
UPDATE items SET n = n - 1 WHERE id = :id;
END;
`
