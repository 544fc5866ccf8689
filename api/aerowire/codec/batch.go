package codec

// Flags in front of a batch's row.
const (
	rowRepeat     = 0x01
	rowInfo       = 0x02
	rowGeneration = 0x04
	rowTTL        = 0x08
	rowInfo4      = 0x10
)

// Flags of a batch.
const (
	// BatchRespondAll answers every row; without it a failure is the answer to all.
	BatchRespondAll = 0x04
)

// DigestBytes is the size of a record's digest.
const DigestBytes = 20

// Batch is the content of a batch's field.
type Batch struct {
	Flags byte
	Rows  []Row
}

// Row is one record of a batch. Rows that repeat the one before share its Message.
type Row struct {
	Index   uint32 // the client's
	Digest  [DigestBytes]byte
	Message *Message
}

// rowHead is the least that a row takes: index, digest, flags.
const rowHead = 4 + DigestBytes + 1

// ParseBatch parses a field of FieldBatch or FieldBatchWithSet. parent is the
// message it stands in. More rows than rowsMax are BatchTooLarge.
func ParseBatch(data []byte, parent *Message, rowsMax int) (*Batch, error) {
	r := reader{rest: data}
	n := int(r.uint32("batch"))
	b := &Batch{Flags: r.uint8("batch flags")}
	switch {
	case r.err != nil:
		return nil, r.err
	case n == 0:
		return nil, malformed("batch without rows")
	case n > rowsMax:
		return nil, BatchTooLarge
	case n > len(r.rest)/rowHead:
		return nil, malformed("%d rows in %d bytes", n, len(r.rest))
	}
	b.Rows = make([]Row, n)
	var last *Message
	for i := range b.Rows {
		row := &b.Rows[i]
		row.Index = r.uint32("row's index")
		copy(row.Digest[:], r.take(DigestBytes, "row's digest"))
		flags := r.uint8("row's flags")
		if flags&rowRepeat == 0 {
			last = r.row(flags, parent)
		} else if last == nil && r.err == nil {
			r.err = malformed("the first row repeats the one before")
		} else if last != nil && r.err == nil {
			if _, keyed := last.Field(FieldKey); keyed {
				r.err = malformed("row %d repeats a key", i)
			}
		}
		if r.err != nil {
			return nil, r.err
		}
		row.Message = last
	}
	if len(r.rest) > 0 {
		return nil, malformed("%d bytes behind the last row", len(r.rest))
	}
	return b, nil
}

// row parses what a row says that does not repeat the one before.
func (r *reader) row(flags byte, parent *Message) *Message {
	m := &Message{Header: Header{Timeout: parent.Timeout}}
	m.Info1 = r.uint8("row's info") &^ Info1Compress
	if flags&rowInfo != 0 {
		m.Info2, m.Info3 = r.uint8("row's info"), r.uint8("row's info")
	}
	if flags&rowInfo4 != 0 {
		m.Info4 = r.uint8("row's info")
	}
	if flags&rowGeneration != 0 {
		m.Generation = uint32(r.uint16("row's generation"))
	}
	if flags&rowTTL != 0 {
		m.TTL = r.uint32("row's ttl")
	}
	fields, ops := int(r.uint16("row's fields")), int(r.uint16("row's ops"))
	// Old clients say 0 and send the namespace all the same.
	m.Fields = r.fields(max(fields, 1))
	m.Ops = r.ops(ops)
	return m
}
