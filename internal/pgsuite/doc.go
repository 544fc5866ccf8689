// Package pgsuite runs the test suites of PostgreSQL drivers against PostgreSQL
// directly and through the endpoint of api/pgwire, and compares test by test.
//
// The suites are the drivers' modules, at the versions that go.mod names, copied
// out of the module cache. `make pgsuites` runs them all; they take minutes.
package pgsuite
