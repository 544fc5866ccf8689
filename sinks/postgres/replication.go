package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/walproxy/walproxy/sinks"
)

// With synchronous standbys a COMMIT waits for them. If that wait is cancelled
// (by our own request when a call's time is up, or by an administrator) the server
// reports success, with a warning: the transaction has committed, and a failover
// may lose it. Such a commit counts as unknown.

// errNotReplicated: a commit did not wait for the synchronous standbys.
var errNotReplicated = errors.New("committed, but the wait for the synchronous standby was cancelled")

// replicationKey marks, in CustomData, a connection whose wait was cancelled.
const replicationKey = "walproxy.not-replicated"

// noteReplication is the apply connections' OnNotice. The warning has no SQLSTATE
// of its own; the name of the function that gives it is the same in every
// language.
func noteReplication(conn *pgconn.PgConn, n *pgconn.Notice) {
	if n.Routine == "SyncRepWaitForLSN" {
		conn.CustomData()[replicationKey] = true
	}
}

// replicated returns errNotReplicated if a wait was cancelled since it was asked
// last.
func replicated(conn *pgconn.PgConn) error {
	if _, marked := conn.CustomData()[replicationKey]; !marked {
		return nil
	}
	delete(conn.CustomData(), replicationKey)
	return errNotReplicated
}

// confirm makes sure that what was found applied is as safe as a commit that was
// answered: a small commit behind it waits for the same standbys.
func (s *Sink) confirm(ctx context.Context, conn *pgxpool.Conn, b *sinks.Batch) error {
	_, err := conn.Exec(ctx, fmt.Sprintf("UPDATE %s.lane SET lsn = lsn WHERE lane = $1 AND epoch = $2", s.schema),
		b.Moves[0].Lane, int64(b.Epoch))
	if err == nil {
		err = replicated(conn.Conn().PgConn())
	}
	return err
}
