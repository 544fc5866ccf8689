package pgdrivers

import (
	"context"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// DDL makes the tables of the programme: items and pairs, which may be written behind;
// assumed, whose rows may be assumed; and plain.
//
//go:embed programme/ddl.sql
var DDL string

//go:embed programme/steps.tsv
var stepsText string

// step is a line of programme/steps.tsv.
type step struct {
	what, name, sql string
	args            []string   // as "type:value"
	rows            [][]string // of a batch
}

func steps() (list []step) {
	for line := range strings.Lines(stepsText) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		switch {
		case strings.HasPrefix(line, "#"):
		case fields[0] == "+":
			last := &list[len(list)-1]
			last.rows = append(last.rows, fields[1:])
		default:
			s := step{what: fields[0]}
			fields = append(fields[1:], "", "")
			s.name, s.sql, s.args = fields[0], fields[1], fields[2:max(2, len(fields)-2)]
			list = append(list, s)
		}
	}
	return list
}

// values are arguments as a Go program has them.
func values(args []string) (list []any, err error) {
	for _, arg := range args {
		v, err := value(arg[0], arg[2:])
		if err != nil {
			return nil, fmt.Errorf("pgdrivers: argument %q: %w", arg, err)
		}
		list = append(list, v)
	}
	return list, nil
}

func value(kind byte, text string) (any, error) {
	switch kind {
	case '0':
		return nil, nil
	case 'i':
		return strconv.ParseInt(text, 10, 64)
	case 'f':
		return strconv.ParseFloat(text, 64)
	case 'b':
		return strconv.ParseBool(text)
	case 'x':
		return hex.DecodeString(text)
	case 'd':
		return time.Parse(time.DateOnly, text)
	case 't':
		return time.Parse(time.RFC3339Nano, text)
	case 'j':
		return json.RawMessage(text), nil
	case 'a':
		return strings.Split(text, ","), nil
	}
	return text, nil
}

// copied are the lines of a COPY.
func copied(args []string) string {
	var b strings.Builder
	for _, arg := range args {
		b.WriteString(strings.ReplaceAll(arg[2:], "|", "\t") + "\n")
	}
	return b.String()
}

// doer is a driver in Go.
type doer interface {
	simple(ctx context.Context, sql string) (string, error)
	exec(ctx context.Context, sql string, args []any) (string, error)
	query(ctx context.Context, sql string, args []any) (string, error)
	batch(ctx context.Context, sql string, rows [][]any) (string, error)
	turn(ctx context.Context, what string) error // begin, commit, rollback
	copyIn(ctx context.Context, sql, data string) (string, error)
	copyOut(ctx context.Context, sql string) (string, error)
}

// do is the programme by a driver in Go. Errors of the server are part of what is
// printed; said returns them as text, and false for others.
func do(ctx context.Context, d doer, walproxy bool, to io.Writer, said func(error) (string, bool)) error {
	for _, s := range steps() {
		text, err := doStep(ctx, d, s, walproxy)
		if err != nil {
			known := false
			if text, known = said(err); !known {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
		if _, err := fmt.Fprintf(to, "%s: %s\n", s.name, text); err != nil {
			return err
		}
	}
	return nil
}

func doStep(ctx context.Context, d doer, s step, walproxy bool) (string, error) {
	args, err := values(s.args)
	if s.what == "copyin" {
		return d.copyIn(ctx, s.sql, copied(s.args))
	}
	if err != nil {
		return "", err
	}
	switch s.what {
	case "simple":
		return d.simple(ctx, s.sql)
	case "exec":
		return d.exec(ctx, s.sql, args)
	case "own":
		if !walproxy {
			return "", nil
		}
		return d.query(ctx, s.sql, args)
	case "query":
		return d.query(ctx, s.sql, args)
	case "begin", "commit", "rollback":
		return s.what, d.turn(ctx, s.what)
	case "copyout":
		return d.copyOut(ctx, s.sql)
	case "batch":
		var rows [][]any
		for _, r := range s.rows {
			row, err := values(r)
			if err != nil {
				return "", err
			}
			rows = append(rows, row)
		}
		return d.batch(ctx, s.sql, rows)
	}
	return "", fmt.Errorf("pgdrivers: unknown step %q", s.what)
}
