package rpc

import (
	"strconv"

	"github.com/walproxy/walproxy"
)

// written is the answer to a write that was acknowledged.
type written struct {
	walproxy.Result
	state  string
	status int // 202 if it was to be applied and is not yet
}

// append writes {"lsn":N,"version":N,"state":"logged"}.
func (a written) append(dst []byte) []byte {
	return append(a.appendMembers(append(dst, '{')), '}')
}

func (a written) appendMembers(dst []byte) []byte {
	dst = appendNumber(dst, `"lsn":`, uint64(a.LSN))
	dst = appendNumber(dst, `,"version":`, uint64(a.LSN))
	dst = append(dst, `,"state":"`...)
	dst = append(append(dst, a.state...), '"')
	if a.EventCount > 0 {
		dst = appendNumber(dst, `,"event_count":`, a.EventCount)
	}
	if a.Repeat {
		dst = append(dst, `,"repeat":true`...)
	}
	return dst
}

func appendNumber(dst []byte, name string, n uint64) []byte {
	return strconv.AppendUint(append(dst, name...), n, 10)
}
