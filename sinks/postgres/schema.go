package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/sinks"
)

// Migrations are never edited once released: a new one is added. {{schema}} is
// the schema's quoted name.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

// schemaVersion is the number of migrations, the version that this code needs.
var schemaVersion = len(migrationNames())

func migrationNames() []string {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		panic(err) // the pattern is constant
	}
	slices.Sort(names)
	return names
}

// migration returns the SQL that leads from version-1 to version.
func migration(schema string, version int) string {
	text, err := migrationFiles.ReadFile(migrationNames()[version-1])
	if err != nil {
		panic(err) // embedded
	}
	return strings.ReplaceAll(string(text), "{{schema}}", quote(schema)) +
		fmt.Sprintf("INSERT INTO %s.migration (version) VALUES (%d);\n", quote(schema), version)
}

// base makes the schema and the table of its version.
func base(schema string) string {
	return fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s.migration (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());\n", quote(schema))
}

// InitSQL is the SQL that makes walproxy's schema, or brings an older one up to
// date, for database administrators who run it themselves (`walproxy sink init
// --print`): in one transaction, with the grants that role needs for it if role is
// not empty. It can be run again.
func InitSQL(schema, role string) string {
	if schema == "" {
		schema = DefaultSchema
	}
	var b strings.Builder
	fmt.Fprintf(&b, "BEGIN;\nCREATE SCHEMA IF NOT EXISTS %s;\n%s", quote(schema), base(schema))
	for version := 1; version <= schemaVersion; version++ {
		fmt.Fprintf(&b, "\nDO $migration$ BEGIN\nIF NOT EXISTS (SELECT FROM %s.migration WHERE version = %d) THEN\n%sEND IF;\nEND $migration$;\n",
			quote(schema), version, migration(schema, version))
	}
	if role != "" {
		fmt.Fprintf(&b, "\nGRANT USAGE ON SCHEMA %[1]s TO %[2]s;\n"+
			"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %[1]s TO %[2]s;\n"+
			"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA %[1]s TO %[2]s;\n"+
			"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA %[1]s TO %[2]s;\n", quote(schema), quote(role))
	}
	b.WriteString("COMMIT;\n")
	return b.String()
}

// Init makes the schema, or brings it to the version this code needs; a schema
// that is there already is left alone. It is what the first Resume does.
func Init(ctx context.Context, o Options) (err error) {
	s, err := Open(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
	return s.onConn(ctx, s.applyPool, func(conn *pgx.Conn) error { return s.migrate(ctx, conn) })
}

// version reads the schema's version; 0: there is none.
func (s *Sink) version(ctx context.Context, q querier) (version int, err error) {
	var there bool
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = 'migration')`, s.o.Schema).Scan(&there)
	if err != nil || !there {
		return 0, err
	}
	err = q.QueryRow(ctx, fmt.Sprintf("SELECT coalesce(max(version), 0) FROM %s.migration", s.schema)).Scan(&version)
	return version, err
}

// querier is a connection or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// migrate brings the schema to schemaVersion, in one transaction, under a lock
// that other starting processes wait for.
func (s *Sink) migrate(ctx context.Context, conn *pgx.Conn) error {
	version, err := s.version(ctx, conn)
	if err != nil {
		return s.classify(err, false)
	}
	if version == schemaVersion {
		return nil
	}
	return s.inTransaction(ctx, conn, func(tx *pgx.Conn) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", lockKey("migrate", s.o.Schema)); err != nil {
			return err
		}
		version, err := s.version(ctx, tx)
		switch {
		case err != nil:
			return err
		case version > schemaVersion:
			return sinks.WithOutcome(sinks.Halt, fmt.Errorf("sink postgres: schema %s has version %d, this program knows %d: a newer walproxy was here; run that one", s.schema, version, schemaVersion))
		}
		if err := s.makeSchema(ctx, tx, version); err != nil {
			return err
		}
		for v := version + 1; v <= schemaVersion; v++ {
			if _, err := tx.PgConn().Exec(ctx, migration(s.o.Schema, v)).ReadAll(); err != nil {
				return s.initError(err)
			}
		}
		return nil
	})
}

func (s *Sink) makeSchema(ctx context.Context, conn *pgx.Conn, version int) error {
	if version > 0 {
		return nil
	}
	var there bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)", s.o.Schema).Scan(&there); err != nil {
		return err
	}
	if !there {
		if _, err := conn.Exec(ctx, "CREATE SCHEMA "+s.schema); err != nil {
			return s.initError(err)
		}
	}
	if _, err := conn.Exec(ctx, base(s.o.Schema)); err != nil {
		return s.initError(err)
	}
	return nil
}

// initError adds what to do about missing rights.
func (s *Sink) initError(err error) error {
	if codeOf(err) != "42501" {
		return err
	}
	return sinks.WithOutcome(sinks.Halt, fmt.Errorf("sink postgres: create schema %s: %w: let an administrator run what `walproxy sink init --print` prints", s.schema, err))
}

// cleanup bounds a rollback and everything else that tidies up after an error.
const cleanup = 5 * time.Second
