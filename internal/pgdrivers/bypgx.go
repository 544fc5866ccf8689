package pgdrivers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var pgxModes = map[string]pgx.QueryExecMode{
	"pgx":                pgx.QueryExecModeCacheStatement,
	"pgx-cache-describe": pgx.QueryExecModeCacheDescribe,
	"pgx-describe-exec":  pgx.QueryExecModeDescribeExec,
	"pgx-exec":           pgx.QueryExecModeExec,
	"pgx-simple":         pgx.QueryExecModeSimpleProtocol,
}

func runPGX(ctx context.Context, mode string, at Target, to io.Writer) error {
	c, err := pgx.ParseConfig(at.url())
	if err != nil {
		return err
	}
	c.DefaultQueryExecMode = pgxModes[mode]
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, &byPGX{conn: conn}, at.Walproxy, to, saidPGX), conn.Close(ctx))
}

func saidPGX(err error) (string, bool) {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return fmt.Sprintf("ERROR %s %s", e.Code, e.Message), true
	}
	// What pgx's own encoding refuses does not reach a server.
	return "refused by the driver", !pgconn.Timeout(err) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF)
}

type byPGX struct {
	conn *pgx.Conn
	tx   pgx.Tx
}

func (d *byPGX) simple(ctx context.Context, sql string) (string, error) {
	results, err := d.conn.PgConn().Exec(ctx, sql).ReadAll()
	var tags []string
	for _, r := range results {
		tags = append(tags, r.CommandTag.String())
	}
	return strings.Join(tags, ","), err
}

func (d *byPGX) exec(ctx context.Context, sql string, args []any) (string, error) {
	tag, err := d.conn.Exec(ctx, sql, args...)
	return tag.String(), err
}

func (d *byPGX) query(ctx context.Context, sql string, args []any) (string, error) {
	rows, err := d.conn.Query(ctx, sql, args...)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var lines []string
	for rows.Next() {
		row, err := rows.Values()
		if err != nil {
			return "", err
		}
		lines = append(lines, shown(row))
	}
	return strings.Join(lines, "; "), rows.Err()
}

func shown(row []any) string {
	cells := make([]string, len(row))
	for i, v := range row {
		if b, ok := v.([]byte); ok {
			v = string(b)
		}
		if cells[i] = fmt.Sprint(v); v == nil {
			cells[i] = "NULL"
		}
	}
	return strings.Join(cells, "|")
}

func (d *byPGX) batch(ctx context.Context, sql string, rows [][]any) (string, error) {
	b := &pgx.Batch{}
	for _, row := range rows {
		b.Queue(sql, row...)
	}
	err := d.conn.SendBatch(ctx, b).Close()
	return fmt.Sprint(len(rows)), err
}

func (d *byPGX) turn(ctx context.Context, what string) (err error) {
	switch what {
	case "begin":
		d.tx, err = d.conn.Begin(ctx)
	case "commit":
		err = d.tx.Commit(ctx)
	default:
		err = d.tx.Rollback(ctx)
	}
	return err
}

func (d *byPGX) copyIn(ctx context.Context, sql, data string) (string, error) {
	tag, err := d.conn.PgConn().CopyFrom(ctx, strings.NewReader(data), sql)
	if err != nil {
		return "", err
	}
	// As applications do it: binary, with the columns' types asked for first.
	n, err := d.conn.CopyFrom(ctx, pgx.Identifier{"items"}, []string{"id", "name", "n"}, pgx.CopyFromRows([][]any{{102, "by CopyFrom", 3}}))
	return fmt.Sprint(tag, " ", n), err
}

func (d *byPGX) copyOut(ctx context.Context, sql string) (string, error) {
	var b bytes.Buffer
	_, err := d.conn.PgConn().CopyTo(ctx, &b, sql)
	return flat(b.String()), err
}

// flat is the text of a COPY in one line.
func flat(text string) string { return strings.NewReplacer("\t", "|", "\n", ";").Replace(text) }
