package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/sinks"
)

// maxLanes bounds what a claim may ask for.
const maxLanes = 1 << 16

// errUnclaimed: nobody has claimed the store yet; nothing is damaged.
var errUnclaimed = fmt.Errorf("%w: the store was never claimed", sinks.ErrNoCheckpoint)

// stored is the checkpoint as it is in the store.
type stored struct {
	sinks.Checkpoint
	owner string // of the last claim, for people
}

// wentBack reports that the store is at an earlier state than the one that b's
// owner saw: the epoch is lower, or one of its lanes is.
func (c stored) wentBack(b *sinks.Batch) bool {
	if c.Epoch != b.Epoch {
		return c.Epoch < b.Epoch
	}
	for _, m := range b.Moves {
		if !b.Relane && m.Lane < len(c.Lanes) && c.Lanes[m.Lane].LSN < m.From.LSN {
			return true
		}
	}
	return false
}

// checkpoint reads the store's checkpoint in one statement, so in one snapshot.
func (s *Sink) checkpoint(ctx context.Context, conn *pgx.Conn) (c stored, err error) {
	rows, err := conn.Query(ctx, fmt.Sprintf(`SELECT s.stream::text, s.epoch, s.lanes, s.owner, l.lane, l.incarnation::text, l.lsn
		FROM %[1]s.store s LEFT JOIN %[1]s.lane l ON true ORDER BY l.lane`, s.schema))
	if err != nil {
		return c, err
	}
	defer rows.Close()
	lanes, found := 0, false
	for rows.Next() {
		var stream, incarnation *string
		var lane, lsn *int64
		if err := rows.Scan(&stream, &c.Epoch, &lanes, &c.owner, &lane, &incarnation, &lsn); err != nil {
			return c, err
		}
		if stream == nil {
			return c, errUnclaimed
		}
		found = true
		if c.Stream, err = uuid.Parse(*stream); err != nil {
			return c, err
		}
		if lane == nil {
			break
		}
		if *lane != int64(len(c.Lanes)) {
			return c, fmt.Errorf("%w: the row of lane %d is missing in %s.lane", sinks.ErrNoCheckpoint, len(c.Lanes), s.schema)
		}
		point := sinks.Point{LSN: sinks.LSN(*lsn)}
		if point.Incarnation, err = uuid.Parse(*incarnation); err != nil {
			return c, err
		}
		c.Lanes = append(c.Lanes, point)
	}
	if err := rows.Err(); err != nil {
		return c, err
	}
	switch {
	case !found:
		return c, fmt.Errorf("%w: the row of %s.store is missing", sinks.ErrNoCheckpoint, s.schema)
	case len(c.Lanes) != lanes || lanes == 0:
		return c, fmt.Errorf("%w: %s.lane has %d rows of %d", sinks.ErrNoCheckpoint, s.schema, len(c.Lanes), lanes)
	}
	return c, nil
}

// Position implements sinks.Positioner. It takes no lock and creates nothing.
func (s *Sink) Position(ctx context.Context) (sinks.Checkpoint, error) {
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return sinks.Checkpoint{}, err
	}
	defer leave()
	var found stored
	err = s.onConn(ctx, s.readPool, func(conn *pgx.Conn) error {
		version, err := s.version(ctx, conn)
		switch {
		case err != nil:
			return err
		case version == 0:
			return fmt.Errorf("%w: there is no schema %s", sinks.ErrNoCheckpoint, s.schema)
		}
		found, err = s.checkpoint(ctx, conn)
		return err
	})
	if err != nil {
		return sinks.Checkpoint{}, s.closedOr(s.classify(err, false))
	}
	return found.Checkpoint, nil
}

// Resume implements sinks.Sink. It waits for what the stream's last owner has
// under way. While another process owns the stream its error is *OwnedError,
// marked Retry.
func (s *Sink) Resume(ctx context.Context, c sinks.Claim) (sinks.Checkpoint, error) {
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return sinks.Checkpoint{}, err
	}
	defer leave()
	var claimed sinks.Checkpoint
	err = s.onConn(ctx, s.applyPool, func(conn *pgx.Conn) (err error) {
		claimed, err = s.resume(ctx, conn, c)
		return err
	})
	if err != nil {
		return sinks.Checkpoint{}, s.closedOr(s.classify(err, false))
	}
	return claimed, nil
}

func (s *Sink) resume(ctx context.Context, conn *pgx.Conn, c sinks.Claim) (claimed sinks.Checkpoint, err error) {
	version, err := s.version(ctx, conn)
	switch {
	case err != nil:
		return claimed, err
	case version == 0 && !c.Fresh:
		return claimed, fmt.Errorf("%w: there is no schema %s", sinks.ErrNoCheckpoint, s.schema)
	case version != schemaVersion:
		if err := s.migrate(ctx, conn); err != nil {
			return claimed, err
		}
	}
	// Before the lock: a wrong stream is not to wait for the right one's owner.
	if err := s.admit(ctx, conn, c); err != nil {
		return claimed, err
	}
	if err := s.owner.take(ctx, c); err != nil {
		return claimed, err
	}
	err = s.inTransaction(ctx, conn, func(tx *pgx.Conn) error {
		claimed, err = s.claim(ctx, tx, c)
		return err
	})
	if err != nil {
		return claimed, err
	}
	identity := identityOf(conn)
	s.claimed.Store(&identity)
	s.owner.claimed(claimed.Epoch, c.Owner)
	s.sweep.claimed(claimed)
	if !s.owner.holds() {
		// Lost before the epoch was known, under which it could be taken again.
		return claimed, sinks.WithOutcome(sinks.Retry, fmt.Errorf("sink postgres: %w", errNotOwner))
	}
	return claimed, s.planner.refresh(ctx, conn.PgConn(), true)
}

// admit says whether the stream may claim the store.
func (s *Sink) admit(ctx context.Context, conn *pgx.Conn, c sinks.Claim) error {
	stored, err := s.checkpoint(ctx, conn)
	switch {
	case err == nil && stored.Stream != c.Stream:
		return fmt.Errorf("%w: schema %s holds %v, the claim is for %v", sinks.ErrForeignStream, s.schema, stored.Stream, c.Stream)
	case errors.Is(err, errUnclaimed) && c.Fresh:
		if c.Lanes < 1 || c.Lanes > maxLanes {
			return sinks.WithOutcome(sinks.Halt, fmt.Errorf("claim: lanes: %d, want 1 to %d", c.Lanes, maxLanes))
		}
		return nil
	}
	return err
}

// claim raises the epoch of the stream and of all its lanes. The row locks make
// it wait for batches of the old owner that are under way.
func (s *Sink) claim(ctx context.Context, tx *pgx.Conn, c sinks.Claim) (claimed sinks.Checkpoint, err error) {
	for _, lock := range []string{"SELECT FROM %s.store FOR UPDATE", "SELECT FROM %s.lane ORDER BY lane FOR UPDATE"} {
		if _, err := tx.Exec(ctx, fmt.Sprintf(lock, s.schema)); err != nil {
			return claimed, err
		}
	}
	if err := s.admit(ctx, tx, c); err != nil { // again, behind the locks
		return claimed, err
	}
	_, err = tx.Exec(ctx, fmt.Sprintf(`INSERT INTO %[1]s.lane (lane, incarnation, lsn, epoch)
		SELECT lane, '00000000-0000-0000-0000-000000000000', 0, 0 FROM generate_series(0, $1::int - 1) AS lane
		WHERE NOT EXISTS (SELECT FROM %[1]s.store WHERE stream IS NOT NULL)`, s.schema), c.Lanes)
	if err != nil {
		return claimed, err
	}
	_, err = tx.Exec(ctx, fmt.Sprintf(`UPDATE %s.store SET epoch = epoch + 1, owner = $2, claimed_at = now(),
		lanes = CASE WHEN stream IS NULL THEN $3::int ELSE lanes END, stream = $1::uuid`, s.schema),
		c.Stream.String(), c.Owner, c.Lanes)
	if err != nil {
		return claimed, err
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %[1]s.lane SET epoch = (SELECT epoch FROM %[1]s.store)", s.schema)); err != nil {
		return claimed, err
	}
	now, err := s.checkpoint(ctx, tx)
	return now.Checkpoint, err
}
