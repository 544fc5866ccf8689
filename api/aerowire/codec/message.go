package codec

import "encoding/binary"

// HeaderBytes is the size of an AS_MSG header.
const HeaderBytes = 22

// Bits of Info1.
const (
	Info1Read       = 1 << 0
	Info1GetAll     = 1 << 1
	Info1ShortQuery = 1 << 2
	Info1Batch      = 1 << 3
	Info1NoBins     = 1 << 5
	Info1Compress   = 1 << 7
)

// Bits of Info2.
const (
	Info2Write         = 1 << 0
	Info2Delete        = 1 << 1
	Info2Generation    = 1 << 2
	Info2GenerationGT  = 1 << 3
	Info2DurableDelete = 1 << 4
	Info2CreateOnly    = 1 << 5
	Info2RespondAll    = 1 << 7
)

// Bits of Info3.
const (
	Info3Last            = 1 << 0
	Info3PartitionDone   = 1 << 2
	Info3UpdateOnly      = 1 << 3
	Info3CreateOrReplace = 1 << 4
	Info3ReplaceOnly     = 1 << 5
	Info3ReadType        = 1 << 6 // without Info3ReadRelax: linearized
	Info3ReadRelax       = 1 << 7
)

// Field types.
const (
	FieldNamespace     = 0
	FieldSet           = 1
	FieldKey           = 2
	FieldRecordVersion = 3
	FieldDigest        = 4
	FieldTransaction   = 5
	FieldDeadline      = 6
	FieldTaskID        = 7
	FieldSocketTimeout = 9
	FieldPerSecond     = 10
	FieldPartitions    = 11
	FieldDigests       = 12
	FieldMaxRecords    = 13
	FieldBinValues     = 15 // of a query by an index that goes on: 8 bytes for each digest
	FieldIndexName     = 21
	FieldIndexRange    = 22
	FieldIndexContext  = 23
	FieldIndexType     = 26
	FieldUDFPackage    = 30
	FieldUDFFunction   = 31
	FieldUDFArguments  = 32
	FieldUDFOp         = 33
	FieldBinList       = 40
	FieldBatch         = 41
	FieldBatchWithSet  = 42
	FieldFilter        = 43
)

// Op types.
const (
	OpRead       = 1
	OpWrite      = 2
	OpCDTRead    = 3
	OpCDTModify  = 4
	OpIncrement  = 5
	OpExpRead    = 7
	OpExpModify  = 8
	OpAppend     = 9
	OpPrepend    = 10
	OpTouch      = 11
	OpBitsRead   = 12
	OpBitsModify = 13
	OpDelete     = 14
	OpHLLRead    = 15
	OpHLLModify  = 16
)

// Header of an AS_MSG, without the counts.
type Header struct {
	Info1, Info2, Info3, Info4 byte
	Result                     Result
	Generation                 uint32
	// TTL of a request in seconds, with special values; in an answer the end of
	// the record in seconds since 2010, 0: never.
	TTL uint32
	// Timeout of a request in milliseconds; in a batch's answer the row.
	Timeout uint32
}

// Field of a message.
type Field struct {
	Type byte
	Data []byte
}

// Op of a message.
type Op struct {
	Type     byte
	Particle byte // type of the particle
	Name     []byte
	Value    []byte // the particle
}

// Message is an AS_MSG.
type Message struct {
	Header
	Fields []Field
	Ops    []Op
}

// Field returns the data of the first field of a type.
func (m *Message) Field(kind byte) (data []byte, ok bool) {
	for i := range m.Fields {
		if m.Fields[i].Type == kind {
			return m.Fields[i].Data, true
		}
	}
	return nil, false
}

// ParseMessage parses the body of a message of TypeMessage.
func ParseMessage(body []byte) (*Message, error) {
	r := reader{rest: body}
	m := r.message()
	if r.err != nil {
		return nil, r.err
	}
	if len(r.rest) > 0 {
		return nil, malformed("%d bytes behind the last op", len(r.rest))
	}
	return m, nil
}

// ParseMessages parses the body of an answer with many records, as batches and
// scans get them: one AS_MSG behind the other.
func ParseMessages(body []byte) ([]*Message, error) {
	var all []*Message
	for r := (reader{rest: body}); len(r.rest) > 0; {
		m := r.message()
		if r.err != nil {
			return nil, r.err
		}
		all = append(all, m)
	}
	return all, nil
}

// message reads an AS_MSG; nil if there is none.
func (r *reader) message() *Message {
	head := r.take(HeaderBytes, "AS_MSG header")
	if r.err == nil && head[0] != HeaderBytes {
		r.err = malformed("AS_MSG header of %d bytes", head[0])
	}
	if r.err != nil {
		return nil
	}
	m := &Message{Header: Header{
		Info1: head[1], Info2: head[2], Info3: head[3], Info4: head[4], Result: Result(head[5]),
		Generation: binary.BigEndian.Uint32(head[6:]),
		TTL:        binary.BigEndian.Uint32(head[10:]),
		Timeout:    binary.BigEndian.Uint32(head[14:]),
	}}
	fields, ops := binary.BigEndian.Uint16(head[18:]), binary.BigEndian.Uint16(head[20:])
	m.Fields = r.fields(int(fields))
	m.Ops = r.ops(int(ops))
	return m
}

// reader reads from the front of rest; the first error stays.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) take(n int, what string) []byte {
	if r.err == nil && (n < 0 || n > len(r.rest)) {
		r.err = malformed("%s of %d bytes, %d are left", what, n, len(r.rest))
	}
	if r.err != nil {
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uint8(what string) byte {
	if b := r.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16(what string) uint16 {
	if b := r.take(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32(what string) uint32 {
	if b := r.take(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// fieldHead and opHead are the sizes of an empty field and op.
const (
	fieldHead = 5
	opHead    = 8
)

func (r *reader) fields(n int) []Field {
	if r.err == nil && n*fieldHead > len(r.rest) {
		r.err = malformed("%d fields in %d bytes", n, len(r.rest))
	}
	if r.err != nil || n == 0 {
		return nil
	}
	fields := make([]Field, 0, n)
	for range n {
		size := r.uint32("field length")
		if r.err == nil && size == 0 {
			r.err = malformed("field without a type")
		}
		kind := r.uint8("field type")
		if kind == FieldBatch || kind == FieldBatchWithSet {
			// Clients count the filter in front of it as well; it is the last field.
			size = min(size, uint32(len(r.rest)+1))
		}
		data := r.take(int(size)-1, "field")
		if r.err != nil {
			return nil
		}
		fields = append(fields, Field{kind, data})
	}
	return fields
}

func (r *reader) ops(n int) []Op {
	if r.err == nil && n*opHead > len(r.rest) {
		r.err = malformed("%d ops in %d bytes", n, len(r.rest))
	}
	if r.err != nil || n == 0 {
		return nil
	}
	ops := make([]Op, 0, n)
	for range n {
		size := int(r.uint32("op length"))
		body := reader{rest: r.take(size, "op"), err: r.err}
		op := Op{Type: body.uint8("op type"), Particle: body.uint8("particle type")}
		flags := body.uint8("op flags")
		op.Name = body.take(int(body.uint8("bin name length")), "bin name")
		if flags&1 != 0 {
			body.take(8, "bin's update time") // of cross-datacenter writes only
		}
		op.Value = body.rest
		if r.err = body.err; r.err != nil {
			return nil
		}
		ops = append(ops, op)
	}
	return ops
}

// AppendHeader appends an AS_MSG header.
func AppendHeader(dst []byte, h *Header, fields, ops int) []byte {
	dst = append(dst, HeaderBytes, h.Info1, h.Info2, h.Info3, h.Info4, byte(h.Result))
	dst = binary.BigEndian.AppendUint32(dst, h.Generation)
	dst = binary.BigEndian.AppendUint32(dst, h.TTL)
	dst = binary.BigEndian.AppendUint32(dst, h.Timeout)
	dst = binary.BigEndian.AppendUint16(dst, uint16(fields))
	return binary.BigEndian.AppendUint16(dst, uint16(ops))
}

// AppendField appends a field.
func AppendField[T ~string | ~[]byte](dst []byte, kind byte, data T) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(data)+1))
	dst = append(dst, kind)
	return append(dst, data...)
}

// AppendOp appends an op.
func AppendOp(dst []byte, op *Op) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(4+len(op.Name)+len(op.Value)))
	dst = append(dst, op.Type, op.Particle, 0, byte(len(op.Name)))
	dst = append(dst, op.Name...)
	return append(dst, op.Value...)
}

// AppendMessage appends m with its header, without the proto header in front.
func AppendMessage(dst []byte, m *Message) []byte {
	dst = AppendHeader(dst, &m.Header, len(m.Fields), len(m.Ops))
	for i := range m.Fields {
		dst = AppendField(dst, m.Fields[i].Type, m.Fields[i].Data)
	}
	for i := range m.Ops {
		dst = AppendOp(dst, &m.Ops[i])
	}
	return dst
}
