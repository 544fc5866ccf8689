package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/sinks"
)

// Rebase implements sinks.Rebaser. While another process owns the stream that the
// store belongs to its error is *OwnedError, marked Retry.
func (s *Sink) Rebase(ctx context.Context, owner string, from, to sinks.Checkpoint) error {
	if len(to.Lanes) < 1 || len(to.Lanes) > maxLanes {
		return sinks.WithOutcome(sinks.Halt, fmt.Errorf("rebase: lanes: %d, want 1 to %d", len(to.Lanes), maxLanes))
	}
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	err = s.onConn(ctx, s.applyPool, func(conn *pgx.Conn) error {
		if err := s.migrate(ctx, conn); err != nil {
			return err
		}
		stored, err := s.standing(ctx, conn)
		if err != nil {
			return err
		}
		lock := sinks.Claim{Stream: to.Stream, Owner: owner}
		if len(stored.Lanes) > 0 {
			lock.Stream = stored.Stream // its owner may be alive
		}
		if err := s.owner.take(ctx, lock); err != nil {
			return err
		}
		return s.inTransaction(ctx, conn, func(tx *pgx.Conn) error { return s.rebase(ctx, tx, owner, from, to) })
	})
	if err != nil {
		return s.closedOr(s.classify(err, false))
	}
	return nil
}

// standing is the checkpoint, without lanes if there is none.
func (s *Sink) standing(ctx context.Context, conn *pgx.Conn) (sinks.Checkpoint, error) {
	stored, err := s.checkpoint(ctx, conn)
	if errors.Is(err, sinks.ErrNoCheckpoint) {
		return sinks.Checkpoint{}, nil
	}
	return stored.Checkpoint, err
}

// rebase waits, by the row locks, for batches of the old owner that are under way.
func (s *Sink) rebase(ctx context.Context, tx *pgx.Conn, owner string, from, to sinks.Checkpoint) error {
	for _, lock := range []string{"SELECT FROM %s.store FOR UPDATE", "SELECT FROM %s.lane ORDER BY lane FOR UPDATE"} {
		if _, err := tx.Exec(ctx, fmt.Sprintf(lock, s.schema)); err != nil {
			return err
		}
	}
	stored, err := s.standing(ctx, tx)
	switch {
	case err != nil:
		return err
	case stored.SamePlace(to):
		return nil
	case !stored.SamePlace(from):
		return sinks.ErrMoved
	}
	// Where no row says what the epoch was, the clock is above all there were.
	var epoch int64
	err = tx.QueryRow(ctx, fmt.Sprintf(`SELECT 1 + coalesce(greatest((SELECT max(epoch) FROM %[1]s.store WHERE stream IS NOT NULL),
		(SELECT max(epoch) FROM %[1]s.lane)), extract(epoch FROM now())::bigint)`, s.schema)).Scan(&epoch)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("DELETE FROM %s.lane", s.schema)); err != nil {
		return err
	}
	for lane, p := range to.Lanes {
		_, err := tx.Exec(ctx, fmt.Sprintf("INSERT INTO %s.lane (lane, incarnation, lsn, epoch) VALUES ($1, $2::uuid, $3, $4)", s.schema),
			lane, p.Incarnation.String(), int64(p.LSN), epoch)
		if err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, fmt.Sprintf(`INSERT INTO %s.store AS s (one, stream, epoch, lanes, owner, claimed_at) VALUES (true, $1::uuid, $2, $3, $4, now())
		ON CONFLICT (one) DO UPDATE SET stream = excluded.stream, epoch = excluded.epoch, lanes = excluded.lanes,
			owner = excluded.owner, claimed_at = excluded.claimed_at`, s.schema), to.Stream.String(), epoch, len(to.Lanes), owner)
	return err
}
