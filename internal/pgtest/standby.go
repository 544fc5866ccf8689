package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"
)

// fromPrimary fills the data directory with a base backup of a running cluster
// and makes a streaming standby of it. It is what pg_basebackup does, which not
// every package of a server has, and which refuses servers newer than itself.
func (c *Cluster) fromPrimary(p *Cluster) error {
	files := map[string]string{
		"standby.signal":       "",
		"postgresql.auto.conf": fmt.Sprintf("primary_conninfo = 'host=127.0.0.1 port=%d user=%s'\n", p.port, Superuser),
	}
	err := p.session(func(ctx context.Context, conn *pgx.Conn) error {
		var version int
		if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
			return err
		}
		start, stop := "SELECT pg_backup_start('standby', true)", "SELECT labelfile FROM pg_backup_stop(false)"
		if version < 150_000 {
			start, stop = "SELECT pg_start_backup('standby', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)"
		}
		if _, err := conn.Exec(ctx, start); err != nil {
			return err
		}
		if err := copyTree(p.dir, c.dir); err != nil {
			return err
		}
		var label string
		err := conn.QueryRow(ctx, stop).Scan(&label)
		files["backup_label"] = label
		return err
	})
	if err != nil {
		return fmt.Errorf("pgtest: base backup: %w", err)
	}
	if err := os.Remove(filepath.Join(c.dir, "postmaster.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for name, text := range files {
		path := filepath.Join(c.dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), give(path)); err != nil {
			return err
		}
	}
	return nil
}
