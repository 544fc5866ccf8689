package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/sinks"
)

// newPlanner makes the planner of a sink whose options are filled in.
func newPlanner(Options) (planner, error) { return noPlanner{}, nil }

// noPlanner moves checkpoints and has no data statements yet.
type noPlanner struct{}

func (noPlanner) refresh(context.Context, *pgconn.PgConn) error { return nil }

func (noPlanner) prepare(context.Context, *pgconn.PgConn, *sinks.Batch) error { return nil }

func (noPlanner) stage(context.Context, link, *sinks.Batch) ([]sinks.Result, error) {
	return nil, sinks.WithOutcome(sinks.Halt, errors.New("sink postgres: records cannot be applied yet"))
}

func (noPlanner) laneGroup(string) string { return "" }
