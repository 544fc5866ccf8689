package postgres

import "github.com/jackc/pgx/v5"

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
