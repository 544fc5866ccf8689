package pgdrivers

import (
	"encoding/binary"
	"fmt"
	"io"
)

// messageMax is the longest message that is taken.
const messageMax = 1 << 20

// readMessage reads a message; one without a type is a startup packet.
func readMessage(from io.Reader, typed bool) ([]byte, error) {
	at := 0
	if typed {
		at = 1
	}
	m := make([]byte, at+4)
	if _, err := io.ReadFull(from, m); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(m[at:])
	if n < 4 || n > messageMax {
		return nil, fmt.Errorf("pgdrivers: a message of %d bytes", n)
	}
	m = append(m, make([]byte, n-4)...)
	_, err := io.ReadFull(from, m[at+4:])
	return m, err
}

// asynchronous messages belong to no query.
func asynchronous(kind byte) bool { return kind == 'A' || kind == 'S' || kind == 'N' }

// kinds adds a message's type to those of an answer.
func kinds(answer string, kind byte) string {
	if asynchronous(kind) || kind == 'D' && len(answer) > 0 && answer[len(answer)-1] == 'D' || kind == 'd' && len(answer) > 0 && answer[len(answer)-1] == 'd' {
		return answer
	}
	return answer + string(kind)
}

// Codes in the place of a protocol version.
const (
	codeCancel = 1234<<16 | 5678
	codeTLS    = 1234<<16 | 5679
	codeGSS    = 1234<<16 | 5680
)

// startupCode of a startup packet.
func startupCode(m []byte) uint32 {
	if len(m) < 8 {
		return 0
	}
	return binary.BigEndian.Uint32(m[4:])
}
