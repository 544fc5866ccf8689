package postgres

import "errors"

// errStale: the catalogue has changed since it was read.
var errStale = errors.New("sink postgres: the schema has changed")
