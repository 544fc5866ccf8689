package pgwire

import "encoding/binary"

// message is one of a client's extended query, decoded as far as it matters.
type message struct {
	kind byte
	// name of the statement; of Execute and of what is about a portal, "".
	name string
	// portal of Bind, Execute, and Describe and Close where object is 'P'.
	portal string
	object byte // of Describe and Close: 'S' or 'P'

	sql     string // of Parse
	types   []uint32
	formats []int16 // of Bind
	results []int16 // ... of the columns of what it yields
	values  [][]byte

	prepared *prepared // what it is about, where that is looked for
}

// decode reads a message of the extended protocol; false: it is malformed, which is
// PostgreSQL's to say. It shares memory with body.
func decode(kind byte, body []byte) (m message, ok bool) {
	m.kind = kind
	switch kind {
	case cParse:
		if m.name, body, ok = cutString(body); !ok {
			return m, false
		}
		if m.sql, body, ok = cutString(body); !ok {
			return m, false
		}
		n, body, ok := count(body, 4)
		if !ok || len(body) != 4*n {
			return m, false
		}
		for i := range n {
			m.types = append(m.types, binary.BigEndian.Uint32(body[4*i:]))
		}
		return m, true
	case cBind:
		ok = m.bind(body)
		return m, ok
	case cDescribe, cClose:
		if len(body) == 0 {
			return m, false
		}
		m.object = body[0]
		name, rest, ok := cutString(body[1:])
		if m.object == 'P' {
			m.portal = name
		} else {
			m.name = name
		}
		return m, ok && len(rest) == 0 && (m.object == 'S' || m.object == 'P')
	case cExecute:
		m.portal, body, ok = cutString(body)
		return m, ok && len(body) == 4
	}
	return m, false
}

func (m *message) bind(body []byte) (ok bool) {
	if m.portal, body, ok = cutString(body); !ok {
		return false
	}
	if m.name, body, ok = cutString(body); !ok {
		return false
	}
	n, body, ok := count(body, 2)
	if !ok {
		return false
	}
	if n > 0 {
		m.formats = make([]int16, 0, n)
	}
	for i := range n {
		m.formats = append(m.formats, int16(binary.BigEndian.Uint16(body[2*i:])))
	}
	n, body, ok = count(body[2*n:], 4)
	if !ok {
		return false
	}
	m.values = make([][]byte, n)
	for i := range n {
		if len(body) < 4 {
			return false
		}
		size := int(int32(binary.BigEndian.Uint32(body)))
		body = body[4:]
		switch {
		case size == -1:
		case size < 0 || size > len(body):
			return false
		default:
			m.values[i], body = body[:size:size], body[size:]
		}
	}
	if n, body, ok = count(body, 2); !ok || len(body) != 2*n {
		return false
	}
	for i := range n {
		m.results = append(m.results, int16(binary.BigEndian.Uint16(body[2*i:])))
	}
	return true
}

// resultFormat is the format that is asked for of a result's column.
func (m *message) resultFormat(column int) int16 {
	switch {
	case len(m.results) == 1:
		return m.results[0]
	case column < len(m.results):
		return m.results[column]
	}
	return 0
}

// count reads how many elements follow, of at least so many bytes each.
func count(b []byte, bytes int) (n int, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, false
	}
	n, rest = int(binary.BigEndian.Uint16(b)), b[2:]
	return n, rest, len(rest) >= n*bytes
}
