package mutation

import (
	"encoding/binary"
	"unicode/utf8"
	"unsafe"
)

// Outline is what can be told of an encoded record without decoding it: where it
// goes. Not for concurrent use.
type Outline struct {
	// Collection that the record writes. It shares the payload's memory.
	Collection string
	// Key is AppendKey of the collection and the key that the record writes. It is
	// valid until the next Read.
	Key []byte
	// Accepted is Record.accepted_unix_nanos.
	Accepted int64

	routes []string // share the payload's memory
}

// Body is the part of the payload of a mutation, as Encode makes it, that says what is
// written, and not when, where to and by whom: its last field. ok is false for others.
func Body(payload []byte) (body []byte, ok bool) {
	w := wire{rest: unsafe.String(unsafe.SliceData(payload), len(payload))} // read only, while payload is valid
	for {
		left := len(w.rest)
		number, kind, ok := w.next()
		if !ok {
			return nil, false
		}
		w.skip(kind)
		if number == recordMutation {
			return payload[len(payload)-left:], !w.bad && w.rest == ""
		}
	}
}

// Routed reports whether the record goes to sink.
func (o *Outline) Routed(sink string) bool {
	for _, route := range o.routes {
		if route == sink {
			return true
		}
	}
	return false
}

// Routes are the sinks that the record goes to. They share the payload's memory
// and are valid until the next Read.
func (o *Outline) Routes() []string { return o.routes }

// Read reads the outline of payload, without allocating. It returns false for
// all but a plain write to one key that retries nothing, and for anything
// unusual: Decode tells more then. What Read takes for a plain write Decode may
// still refuse; where both read it they agree.
func (o *Outline) Read(payload []byte) bool {
	w := wire{rest: unsafe.String(unsafe.SliceData(payload), len(payload))} // read only, while payload is valid
	format, body, collection, key := uint64(0), "", mutationCollection, mutationKey
	o.routes, o.Accepted = o.routes[:0], 0
	for {
		number, kind, ok := w.next()
		if !ok {
			break
		}
		switch {
		case number == recordFormat && kind == wireVarint:
			format = w.varint()
		case number == recordAccepted && kind == wireVarint:
			o.Accepted = w.zigzag()
		case number == recordRoutes && kind == wireBytes:
			o.routes = append(o.routes, w.bytes())
		case (number == recordPrincipal || number == recordTrace) && kind == wireBytes:
			w.bytes()
		case number == recordMutation && kind == wireBytes && body == "":
			body = w.bytes()
		case number == recordStatement && kind == wireBytes && body == "":
			body, collection, key = w.bytes(), statementCollection, statementKey
		default:
			return false
		}
	}
	return !w.bad && uint32(format) == Format && o.readTarget(body, collection, key)
}

// ReadRoutes reads at least the routes of payload, and when it was accepted, of whatever kind its record is:
// for Routed. Errors are Decode's.
func (o *Outline) ReadRoutes(payload []byte) error {
	if o.Read(payload) {
		return nil
	}
	body, err := Decode(payload)
	o.routes, o.Accepted = append(o.routes[:0], body.GetRoutes()...), body.GetAcceptedUnixNanos()
	return err
}

// readTarget reads what a mutation or a statement writes; the numbers are those of its
// fields.
func (o *Outline) readTarget(body string, collectionField, keyField int) bool {
	w := wire{rest: body}
	key := ""
	o.Collection = ""
	for {
		number, kind, ok := w.next()
		if !ok {
			break
		}
		switch {
		case number == collectionField && kind == wireBytes:
			o.Collection = w.bytes()
		case number == keyField && key != "":
			return false
		case number == keyField && kind == wireBytes:
			key = w.bytes()
		default:
			w.skip(kind)
		}
	}
	if w.bad || !utf8.ValidString(o.Collection) {
		return false
	}
	o.Key = AppendCollection(o.Key[:0], o.Collection)
	return o.readKey(key, true)
}

// readKey appends the part of a key. A key has one field: with none or several
// it is left to Decode.
func (o *Outline) readKey(key string, whole bool) bool {
	w := wire{rest: key}
	number, kind, _ := w.next()
	switch {
	case number == keyInt64 && kind == wireVarint:
		o.Key = binary.BigEndian.AppendUint64(append(o.Key, tagInt64), uint64(w.zigzag())^(1<<63))
	case number == keyString && kind == wireBytes:
		o.Key = append(appendText(append(o.Key, tagString), w.bytes()), 0x00, textEnd)
	case number == keyBytes && kind == wireBytes:
		o.Key = append(appendText(append(o.Key, tagBytes), w.bytes()), 0x00, textEnd)
	case number == keyComposite && kind == wireBytes && whole:
		parts := wire{rest: w.bytes()}
		o.Key = append(o.Key, tagComposite)
		for {
			number, kind, ok := parts.next()
			if !ok {
				break
			}
			if number != compositeParts || kind != wireBytes || !o.readKey(parts.bytes(), false) {
				return false
			}
		}
		if parts.bad {
			return false
		}
		o.Key = append(o.Key, tagEnd)
	default:
		return false
	}
	return !w.bad && len(w.rest) == 0
}
