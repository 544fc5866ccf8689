// Package bench holds benchmarks that measure walproxy beside its peers in one
// run, on one disk. Ratios between the rows of a run are what they are for;
// absolute numbers belong to the machine. results/ keeps runs worth keeping;
// peers/, a module of its own, measures the log beside other logs and databases
// (make peers).
package bench
