// Package pgsuite runs the test suites of PostgreSQL and of its drivers against
// PostgreSQL directly and through the endpoint of api/pgwire, and compares test by test.
//
// Those of drivers in Go are their modules, at the versions that go.mod names, copied
// out of the module cache; PostgreSQL's are built from Debian's sources by
// `make install-drivers`; that of node-postgres needs a checkout. `make pgsuites` runs
// them all; they take minutes.
package pgsuite
