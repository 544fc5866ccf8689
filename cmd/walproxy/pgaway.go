package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/walproxy/walproxy/api/pgwire"
	"github.com/walproxy/walproxy/internal/config"
)

// loginsName is the file in the data directory that keeps logins.
const loginsName = "pgwire-logins.json"

// pgwireUsers are those of the file, and those of the configuration over them.
func pgwireUsers(c *config.PGWire) (users map[string]pgwire.Secret, err error) {
	users = map[string]pgwire.Secret{}
	if c.AuthFile != "" {
		f, err := os.Open(c.AuthFile)
		if err != nil {
			return nil, fmt.Errorf("pgwire.auth_file: %w", err)
		}
		list, err := pgwire.ReadUserlist(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("pgwire.auth_file: %s: %w", c.AuthFile, err)
		}
		users = list
	}
	for _, name := range slices.Sorted(maps.Keys(c.Users)) {
		if users[name], err = pgwire.ParseSecret(c.Users[name]); err != nil {
			return nil, fmt.Errorf("pgwire.users: the secret of %q: %w", name, err)
		}
	}
	return users, nil
}

func pgwireAuthQuery(q *config.PGAuthQuery) *pgwire.AuthQuery {
	if q == nil {
		return nil
	}
	return &pgwire.AuthQuery{User: q.User, Password: q.Password, Database: q.Database, SQL: q.SQL, Every: time.Duration(q.Every)}
}

func pgwirePool(p *config.PGPool) *pgwire.Pool {
	if p == nil || p.Mode == config.PoolSession {
		return nil
	}
	return &pgwire.Pool{
		Size: p.Size, MinSize: p.MinSize, Reserve: p.Reserve, ReserveTimeout: time.Duration(p.ReserveTimeout), MaxStatements: p.MaxStatements,
		WaitTimeout: time.Duration(p.WaitTimeout), IdleTimeout: time.Duration(p.IdleTimeout), MaxLifetime: time.Duration(p.MaxLifetime),
	}
}

func pgwireAway(a *config.PGAway, dataDir string) *pgwire.Away {
	if a == nil {
		return nil
	}
	o := &pgwire.Away{
		CheckInterval: time.Duration(a.CheckInterval),
		AttachTimeout: time.Duration(a.AttachTimeout),
		AnswerTimeout: time.Duration(a.AnswerTimeout),
	}
	if a.KeepLogins {
		o.File = filepath.Join(dataDir, loginsName)
	}
	return o
}
