package pgwire

import (
	"context"

	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// answered is a statement that the endpoint answers itself.
type answered struct {
	// columns of its rows, all text; nil: it returns none.
	columns []string
	// run is called for each execution, by the goroutine that attends to the client,
	// while nothing of the session's is under way. A failure is told, and the session
	// goes on.
	run func(ctx context.Context) (rows [][]string, tag string, err *failure)
}

// own returns how a statement is answered here; nil: it is not. Where it is not
// alone in its query, or other statements stand before the same Sync, all of it
// goes to PostgreSQL.
func (x *attended) own(text statement.Text, st *statement.Statement) *answered { return nil }
