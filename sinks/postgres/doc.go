// Package postgres is the PostgreSQL sink: records become rows of tables, in the
// same transaction as the checkpoints of their lanes.
package postgres
