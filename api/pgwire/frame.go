package pgwire

import (
	"encoding/binary"
	"fmt"
)

// Messages' types, as far as they matter here; c: a client's, s: a server's. See
// PostgreSQL's src/include/libpq/protocol.h.
const (
	cBind         = 'B'
	cClose        = 'C'
	cCopyData     = 'd'
	cCopyDone     = 'c'
	cCopyFail     = 'f'
	cDescribe     = 'D'
	cExecute      = 'E'
	cFlush        = 'H'
	cFunctionCall = 'F'
	cParse        = 'P'
	cPassword     = 'p' // every answer to an authentication request
	cQuery        = 'Q'
	cSync         = 'S'
	cTerminate    = 'X'

	sAuthentication  = 'R'
	sBindComplete    = '2'
	sCloseComplete   = '3'
	sCommandComplete = 'C'
	sCopyBoth        = 'W'
	sCopyIn          = 'G'
	sDataRow         = 'D'
	sEmptyQuery      = 'I'
	sError           = 'E'
	sKeyData         = 'K'
	sNoData          = 'n'
	sNotice          = 'N'
	sNotification    = 'A'
	sParameters      = 't' // ParameterDescription
	sParameterStatus = 'S'
	sParseComplete   = '1'
	sReady           = 'Z'
	sRowDescription  = 'T'
	sSuspended       = 's'
)

// headBytes of every message but a client's first: type, and the length of
// itself and the body.
const headBytes = 5

// frameError is a head that no message has, or none that is allowed.
type frameError struct {
	kind  byte
	bytes int64 // of the body; negative: the length cannot be
	limit int64
}

func (e *frameError) Error() string {
	if e.bytes < 0 {
		return fmt.Sprintf("message of type %q has the length %d", e.kind, e.bytes+4)
	}
	return fmt.Sprintf("message of type %q has %d bytes, more than %d", e.kind, e.bytes, e.limit)
}

// parseHead reads the head of a frame; body is how many bytes follow it.
func parseHead(b []byte, limit int64) (kind byte, body int64, err error) {
	body = int64(int32(binary.BigEndian.Uint32(b[1:headBytes]))) - 4
	if body < 0 || body > limit {
		return b[0], body, &frameError{kind: b[0], bytes: body, limit: limit}
	}
	return b[0], body, nil
}

// flow is one direction of a session: it finds the frames in a stream of bytes.
type flow struct {
	body  int64 // of the frame it is in: bytes still to come
	limit int64 // of a body
}

// scan calls see for every frame that begins in b, with what of its body is there.
// It returns how much of b may be passed on: a head that is not whole is not, and
// the caller shows it again with what follows. Behind an error nothing is to be
// read.
func (f *flow) scan(b []byte, see func(kind byte, body []byte) error) (n int, err error) {
	for {
		if f.body > 0 {
			step := min(f.body, int64(len(b)-n))
			n += int(step)
			if f.body -= step; f.body > 0 {
				return n, nil
			}
		}
		if len(b)-n < headBytes {
			return n, nil
		}
		kind, body, err := parseHead(b[n:], f.limit)
		if err != nil {
			return n, err
		}
		if kind == sReady && body == 1 && len(b)-n == headBytes {
			return n, nil // its body says in what state the session is
		}
		here := b[n+headBytes:]
		if err := see(kind, here[:min(int64(len(here)), body)]); err != nil {
			return n, err
		}
		n, f.body = n+headBytes, body
	}
}

// between reports that the flow is at the end of a frame.
func (f *flow) between() bool { return f.body == 0 }
