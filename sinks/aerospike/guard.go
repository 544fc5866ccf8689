package aerospike

import (
	"encoding/base32"
	"strings"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/google/uuid"

	"github.com/walproxy/walproxy/sinks"
)

// reserved begins the names of the bins that are walproxy's own.
const reserved = "wp."

// Bins beside the guard.
const (
	// binDead, of any value, marks a record that was deleted and whose guard stays
	// for a while: a late write of before the deletion finds it. For readers through
	// walproxy the record is absent.
	binDead = reserved + "dead"
	// binEvents is the list of the record's events: [LSN, map of fields] each.
	binEvents = reserved + "events"
)

// guardName is the bin that holds the LSN of a record's last write by a stream: 12
// of the 15 bytes that a bin's name may have are 60 bits of the stream's UUID.
func guardName(stream uuid.UUID) string {
	text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(stream[:])
	return reserved + text[:maxBin-len(reserved)]
}

// guarded is the filter under which a write whose first LSN is first may be done:
// the record has no guard, or one below it. A server evaluates it under the
// record's lock; an absent record passes every filter.
//
// With a floor, what the record is known to have, it must have a guard that is not
// below it (and the write must not create): a server that has lost it was
// restarted, and what it lost comes first.
func guarded(guard string, floor, first sinks.LSN) *as.Expression {
	below := as.ExpLess(as.ExpIntBin(guard), as.ExpIntVal(int64(first)))
	if floor > 0 {
		return as.ExpAnd(as.ExpGreaterEq(as.ExpIntBin(guard), as.ExpIntVal(int64(floor))), below)
	}
	return as.ExpOr(as.ExpNot(as.ExpBinExists(guard)), below)
}

// isOwn reports whether a bin is walproxy's and no field.
func isOwn(bin string) bool { return strings.HasPrefix(bin, reserved) }
