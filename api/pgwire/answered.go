package pgwire

import "context"

// answered is a statement that the endpoint answers itself.
type answered struct {
	// columns of its rows, all text; nil: it returns none.
	columns []string
	// run is called for each execution, by the goroutine that attends to the client,
	// while nothing of the session's is under way. A failure is told, and the session
	// goes on.
	run func(ctx context.Context) (rows [][]string, tag string, err *failure)
}
