package postgres

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/sinks"
)

// planner turns the records of a batch into the statements of one transaction.
type planner interface {
	// refresh reads the catalogue. The sink calls it in Resume, behind the claim,
	// and after stage returned errStale, outside of a transaction; then it stages
	// the batch again.
	refresh(ctx context.Context, conn *pgconn.PgConn, resume bool) error
	// prepare makes sure that every collection of b has its table, creating it if
	// that is allowed; it mostly has nothing to do. Outside of a transaction.
	prepare(ctx context.Context, conn *pgconn.PgConn, b *sinks.Batch) error
	// stage runs the data statements of b; its last run commits. Results that are
	// not nil, or an error, mean that it has not committed (an error of the last
	// run: whatever that error means). All records Applied is nil, nil.
	stage(ctx context.Context, l link, b *sinks.Batch) ([]sinks.Result, error)
	// lookup returns the mapping of a collection for a reader; nil: it has no
	// table.
	lookup(ctx context.Context, conn *pgconn.PgConn, collection string) (*mapping, error)
	// mapping is what is known of a collection's table; nil: nothing.
	mapping(collection string) *mapping
	// expiring are the collections in use whose records can have an end.
	expiring() []string
	// laneGroup is sinks.Linker's.
	laneGroup(collection string) string
	// laneGroups are the tables of each lane group, sorted.
	laneGroups() map[string][]string
	// warnings are sinks.Description's.
	warnings() []string
}
