package postgres

import "errors"

// errExists: rows that were inserted in the hope that they are new exist.
var errExists = errors.New("rows exist that were taken for new")

// errStale: the catalogue has changed since it was read.
var errStale = errors.New("the schema has changed")
