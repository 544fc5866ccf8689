package mutation

import (
	"time"
	"unsafe"
)

// AcceptedAt reads from an encoded record when it was accepted, and nothing else;
// false: it does not say.
func AcceptedAt(payload []byte) (time.Time, bool) {
	w := wire{rest: unsafe.String(unsafe.SliceData(payload), len(payload))} // read only, while payload is valid
	for {
		number, kind, ok := w.next()
		if !ok {
			return time.Time{}, false
		}
		if number == recordAccepted && kind == wireVarint {
			nanos := w.zigzag()
			return time.Unix(0, nanos).UTC(), !w.bad && nanos != 0
		}
		w.skip(kind)
	}
}
