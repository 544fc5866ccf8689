// Package catalogue is what PostgreSQL's catalogue says of the tables that are
// declared write-behind: enough to judge a write to one before it is acknowledged,
// and to say which of them any other statement may touch.
//
// A Snapshot never changes. A Watch holds the current one: it compares a signature
// of the catalogue every so often and when it is told that the schema may have
// changed, and reads everything again if it has. Between a change made past the
// proxy and the next look a snapshot is stale; the sink then finds a table that is
// not as it knows it and reads it again before it applies anything, so what is
// lost is the early refusal, never the order of writes.
//
// The package asks through a Query and knows no driver.
package catalogue
