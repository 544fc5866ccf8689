// Package position names places in a log. It exists so that sinks can speak of
// LSNs without importing the log, and the log without importing sinks: both
// alias these types.
package position

import (
	"fmt"
	"strconv"

	"github.com/google/uuid"
)

// LSN is the position of a record in its log: from 1, without gaps but for
// what a repair marked. 0 is none.
type LSN uint64

func (l LSN) String() string { return strconv.FormatUint(uint64(l), 10) }

// Point is a record in one history of a log. The same LSN in another
// incarnation is another record: that is how a sink tells that an older copy of
// the log was put back. The zero Point lies before the first record of every
// history.
type Point struct {
	Incarnation uuid.UUID // the incarnation in which LSN was appended
	LSN         LSN
}

// IsZero reports whether p lies before the first record.
func (p Point) IsZero() bool { return p.LSN == 0 }

func (p Point) String() string {
	if p.IsZero() {
		return "0"
	}
	return fmt.Sprintf("%d@%s", p.LSN, p.Incarnation)
}
