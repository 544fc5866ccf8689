// Package pgdrivers has the drivers of PostgreSQL do one programme, and keeps what they
// send as data.
//
// programme/steps.tsv says what is done; for each driver an interpreter does it and
// prints what it was told. They run where the driver is installed (see Driver.Missing).
//
// corpus/ has what each driver sent to PostgreSQL, message by message, recorded once:
//
//	go run ./internal/pgdrivers/record -server postgres://postgres@127.0.0.1:5432/postgres
//
// Replay sends the same to another server, so that CI sees the habits of every driver
// without having one. Compare tells where two servers answered differently.
package pgdrivers
