package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/sinks"
)

// identityKey is where a connection's CustomData keeps which store it leads to.
const identityKey = "walproxy.identity"

func identityOf(conn *pgx.Conn) string {
	identity, _ := conn.PgConn().CustomData()[identityKey].(string)
	return identity
}

// Identity implements sinks.Identifier: the cluster's system identifier and the
// database's OID. A logical copy of the data (a dump restored elsewhere, or into
// another database) differs; a physical copy of the cluster does not.
func (s *Sink) Identity(ctx context.Context) (identity string, err error) {
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	err = s.onConn(ctx, s.applyPool, func(conn *pgx.Conn) error {
		identity = identityOf(conn)
		return nil
	})
	return identity, s.classify(err, false)
}

// sameStore refuses a connection that leads to another store than the claimed one:
// names may come to mean something else while a process runs, and a copy holds the
// same checkpoint.
func (s *Sink) sameStore(conn *pgx.Conn) error {
	claimed := s.claimed.Load()
	if found := identityOf(conn); claimed != nil && found != *claimed {
		return sinks.WithOutcome(sinks.Halt, fmt.Errorf("sink postgres: the dsn leads to another store now: %q, claimed was %q; nothing was written there", found, *claimed))
	}
	return nil
}
