// Package aerospike is the Aerospike sink: records become records of sets, each
// with a guard that says how far the log is in it.
//
// # Exactly once
//
// Aerospike has no transaction over a record and a checkpoint. So every record
// that the sink writes carries its own: a bin named for the stream, the guard,
// that holds the LSN of the record's last write, and is its version too. A write
// is sent with a filter that the server evaluates under the record's lock (there
// is no guard, or it is below the first LSN of what is sent) and sets the guard to
// the last. Sent again after any outcome it is filtered out, and the guard says
// what of it the record has. The checkpoints of the lanes follow in a record of
// their own, after the data: they say where to go on, the guards what was done.
//
// A write that a server can do blindly is one message without a read before it.
// All others (preconditions, sums that could overflow, what a filter kept out) are
// read, computed here and written back under the generation that was read.
package aerospike
