package pgtest

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"
)

// Texts runs statements of the simple protocol and returns the rows of the last one
// as PostgreSQL writes them; NULL is empty.
func Texts(ctx context.Context, conn *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 {
		return nil, err
	}
	var rows [][]string
	for _, raw := range results[len(results)-1].Rows {
		row := make([]string, len(raw))
		for i, v := range raw {
			row[i] = string(v)
		}
		rows = append(rows, row)
	}
	return rows, nil
}
