// Package crashtest kills walproxy in every way there is and compares what it
// had acknowledged with what its store holds afterwards: SIGKILL at random
// instants and at named places, power cuts, full disks, failing fsyncs, old
// copies of the log. There is nothing in it but tests; they run the real binary,
// built with the tag failpoint.
//
// `go test` runs the short form; WALPROXY_LONG=1 (`make crash`) the long one.
// Tests that mount something need root and say so where they are skipped.
package crashtest
