package pgwire

import "github.com/walproxy/walproxy/wal"

// ackLevel is when a write that can be written behind is answered.
type ackLevel string

const (
	ackLogged  ackLevel = "logged"  // once it is durable in the log
	ackApplied ackLevel = "applied" // once it is in PostgreSQL, too
	ackOff     ackLevel = "off"     // by PostgreSQL: everything passes through
)

// readLevel is what a read of tables that are written behind waits for.
type readLevel string

const (
	readSession readLevel = "session" // the session's own writes
	readAll     readLevel = "all"     // everybody's
	readAny     readLevel = "any"     // nothing
)

// settings are what a session has chosen, and what it is told. They belong to the
// goroutine that attends to its client.
type settings struct {
	ack  ackLevel
	read readLevel
	// requestID is the next write's; it is taken with it. "": none.
	requestID string
	// last is the LSN of the last write that was acknowledged from the log.
	last wal.LSN
	// why the last write was, or was not, written behind; for people.
	why string
}

func defaultSettings() settings { return settings{ack: ackLogged, read: readSession} }
