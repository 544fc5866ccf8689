package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/semaphore"
)

// Inspector asks the sink's database about itself, on one connection of its own, which
// is made when it is needed and again when it is lost.
type Inspector struct {
	config *pgx.ConnConfig

	busy *semaphore.Weighted // one: held during a query, and waited for no longer than who asks can
	conn *pgx.Conn           // nil: none
}

// Inspector returns a new one. The caller closes it; it does not depend on the sink.
func (s *Sink) Inspector() *Inspector {
	return &Inspector{config: s.owner.config, busy: semaphore.NewWeighted(1)}
}

// Query runs one statement as a simple query and returns its rows in text, a null as
// "". Calls may be concurrent; they wait for each other. After an error the session
// may be another one.
func (i *Inspector) Query(ctx context.Context, sql string) ([][]string, error) {
	if err := i.busy.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer i.busy.Release(1)
	if i.conn == nil || i.conn.IsClosed() {
		conn, err := pgx.ConnectConfig(ctx, i.config)
		if err != nil {
			return nil, err
		}
		i.conn = conn
	}
	results, err := i.conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 {
		return nil, err
	}
	var rows [][]string
	for _, values := range results[len(results)-1].Rows {
		row := make([]string, len(values))
		for i, v := range values {
			row[i] = string(v)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// Close ends the connection. It waits for a query that runs.
func (i *Inspector) Close() {
	_ = i.busy.Acquire(context.Background(), 1) // never fails without an end
	defer i.busy.Release(1)
	if i.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = i.conn.Close(ctx) // nothing is under way
	}
}
