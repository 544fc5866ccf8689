// Package postgres is the PostgreSQL sink: records become rows of tables, in the
// same transaction as the checkpoints of their lanes.
//
// # Exactly once
//
// The first statement of every apply transaction moves the checkpoints of the
// batch's lanes, from where its owner left them and only under its owner's epoch;
// if one of them does not move the transaction ends there. After a commit without
// an answer the retry waits for the row lock of the old transaction, whatever
// became of it, and then moves nothing: the stored points say whether the batch
// was applied.
//
// # One owner
//
// A claim raises the epoch of every lane, which waits for what the old owner has
// under way and shuts it out from then on. So that a healthy owner is not shut
// out, a claimer first waits for the stream's advisory lock, which the owner holds
// on a connection of its own. The lock only keeps processes out of each other's
// way: nothing is wrong when two believe they hold it. Losing its connection stops
// applying until it is taken again under the same epoch. An owner whose session
// has been silent for Timeouts.Lease (a stopped process, a dead host) is ended by
// who wants the stream.
package postgres
