// Package pgtest starts throw-away PostgreSQL clusters for tests: real servers,
// made with initdb, on a free loopback port, as an unprivileged user if the test
// runs as root. They can be stopped, killed, paused, restarted, filled up, copied,
// and reached through a proxy that cuts connections at a chosen moment.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		dsn := pgtest.Shared(t).Database(t)
//		...
//	}
//
// A test that harms its server makes one of its own with New. Without PostgreSQL
// on the machine the tests fail: they are never skipped. WALPROXY_TEST_PGBIN
// names the directory of another version's programs (initdb, postgres).
//
// Nothing stays behind: a cluster ends with its test, and if the test process is
// killed a watchdog, which holds the other end of a pipe, kills every server whose
// working directory is below the process's root directory and removes that.
package pgtest
