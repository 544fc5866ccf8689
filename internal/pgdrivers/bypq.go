package pgdrivers

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/lib/pq"
)

func runPQ(ctx context.Context, mode string, at Target, to io.Writer) error {
	url := at.url()
	if mode == "pq-binary" {
		url += "&binary_parameters=yes"
	}
	db, err := sql.Open("postgres", url)
	if err != nil {
		return err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return errors.Join(err, db.Close())
	}
	err = do(ctx, &byPQ{conn: conn}, at.Walproxy, to, saidPQ)
	return errors.Join(err, conn.Close(), db.Close())
}

func saidPQ(err error) (string, bool) {
	if errors.Is(err, errNotHere) {
		return "not by this driver", true
	}
	if e, ok := errors.AsType[*pq.Error](err); ok {
		return fmt.Sprintf("ERROR %s %s", e.Code, e.Message), true
	}
	return "refused by the driver", strings.HasPrefix(err.Error(), "no RowsAffected available")
}

var errNotHere = errors.New("pgdrivers: not by this driver")

type byPQ struct {
	conn *sql.Conn
	tx   *sql.Tx
}

type pqDoer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

func (d *byPQ) in() pqDoer {
	if d.tx != nil {
		return d.tx
	}
	return d.conn
}

// plain are arguments as database/sql takes them.
func plain(args []any) []any {
	out := make([]any, len(args))
	for i, v := range args {
		switch v := v.(type) {
		case []string:
			out[i] = pq.Array(v)
		case json.RawMessage:
			out[i] = string(v)
		default:
			out[i] = v
		}
	}
	return out
}

func affected(r sql.Result, err error) (string, error) {
	if err != nil {
		return "", err
	}
	n, err := r.RowsAffected()
	return fmt.Sprint(n), err
}

func (d *byPQ) simple(ctx context.Context, sql string) (string, error) {
	return affected(d.in().ExecContext(ctx, sql))
}

func (d *byPQ) exec(ctx context.Context, sql string, args []any) (string, error) {
	return affected(d.in().ExecContext(ctx, sql, plain(args)...))
}

func (d *byPQ) query(ctx context.Context, sql string, args []any) (_ string, err error) {
	rows, err := d.in().QueryContext(ctx, sql, plain(args)...)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns, err := rows.Columns()
	if err != nil {
		return "", err
	}
	var lines []string
	for rows.Next() {
		row, places := make([]any, len(columns)), make([]any, len(columns))
		for i := range row {
			places[i] = &row[i]
		}
		if err := rows.Scan(places...); err != nil {
			return "", err
		}
		lines = append(lines, shown(row))
	}
	return strings.Join(lines, "; "), rows.Err()
}

// batch prepares: it is what database/sql has.
func (d *byPQ) batch(ctx context.Context, sql string, rows [][]any) (_ string, err error) {
	st, err := d.in().PrepareContext(ctx, sql)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	for _, row := range rows {
		if _, err := st.ExecContext(ctx, plain(row)...); err != nil {
			return "", err
		}
	}
	return fmt.Sprint(len(rows)), nil
}

func (d *byPQ) turn(ctx context.Context, what string) (err error) {
	if what == "begin" {
		d.tx, err = d.conn.BeginTx(ctx, nil)
		return err
	}
	tx := d.tx
	d.tx = nil
	if what == "commit" {
		return tx.Commit()
	}
	return tx.Rollback()
}

// copyIn is in a transaction: the driver wants one.
func (d *byPQ) copyIn(ctx context.Context, copySQL, data string) (_ string, err error) {
	tx, err := d.conn.BeginTx(ctx, nil)
	if err != nil {
		return "", err
	}
	st, err := tx.PrepareContext(ctx, copySQL)
	if err != nil {
		return "", errors.Join(err, tx.Rollback())
	}
	for line := range strings.Lines(data) {
		var args []any
		for _, cell := range strings.Split(strings.TrimSuffix(line, "\n"), "\t") {
			args = append(args, cell)
			if cell == `\N` {
				args[len(args)-1] = nil
			}
		}
		if _, err := st.ExecContext(ctx, args...); err != nil {
			return "", errors.Join(err, tx.Rollback())
		}
	}
	_, err = st.ExecContext(ctx)
	if err := errors.Join(err, st.Close()); err != nil {
		return "", errors.Join(err, tx.Rollback())
	}
	return "copied", tx.Commit()
}

func (d *byPQ) copyOut(context.Context, string) (string, error) { return "", errNotHere }
