// Package peers measures the log beside others that make records durable, in one
// run on one disk, and writes the tables and plots of docs/benchmarks.md. It is a
// module of its own, so that who uses walproxy does not get its peers:
//
//	cd bench/peers && go test -run TestPeers -timeout 2h -budget 6m -docs ../../docs -results ../results
//
// -budget is how long the measuring may take; twice of it makes each number the mean
// of twice the time. All targets of a cell are open at the same time and take turns,
// so that a machine that is busy with something else is so for all of them.
package peers
