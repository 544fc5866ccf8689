package portable

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"

	"github.com/walproxy/walproxy/internal/position"
)

// Item is a record, a gap or an entry of the state store. Its bytes are valid until
// the next one.
type Item struct {
	LSN     position.LSN // of a record or a gap; 0: an entry of the state store
	Last    position.LSN // = LSN but for a gap
	Gap     bool
	Payload []byte
	Key     []byte // of the state store
	Value   []byte
}

// Reader reads an export, and believes nothing before its checksum. Not for
// concurrent use. It holds one block.
type Reader struct {
	r       io.Reader
	head    Head
	decoder *zstd.Decoder
	summary Summary
	offset  int64 // of the block at hand
	index   uint64
	chain   uint32
	raw     bytes.Buffer
	plain   []byte

	kind kind
	rest []byte
	next position.LSN
	done bool
}

// NewReader reads the head. Its errors and those of Next are *FormatError, or the
// file's.
func NewReader(r io.Reader) (*Reader, error) {
	p := &Reader{r: r}
	magic := make([]byte, len(fileMagic))
	n, err := io.ReadFull(r, magic)
	p.summary.Bytes = int64(n)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	if string(magic[:n]) != fileMagic {
		return nil, &FormatError{0, ErrNotExport}
	}
	if err := p.block(); err != nil {
		return nil, err
	}
	if p.kind != kindHead {
		return nil, p.damaged("it does not begin with a head")
	}
	if err := json.Unmarshal(p.rest, &p.head); err != nil {
		return nil, p.damaged("head: %v", err)
	}
	if p.head.Version != Version {
		return nil, &FormatError{p.offset, fmt.Errorf("%w %d; this program knows version %d", ErrVersion, p.head.Version, Version)}
	}
	if err := p.head.validate(); err != nil {
		return nil, p.damaged("head: %v", err)
	}
	p.rest, p.next = nil, p.head.First
	return p, nil
}

func (h Head) validate() error {
	if h.Stream == uuid.Nil || h.First == 0 || len(h.Incarnations) == 0 {
		return errors.New("no stream, no LSN or no incarnation")
	}
	for i, in := range h.Incarnations {
		if in.ID == uuid.Nil || in.First == 0 || i > 0 && in.First <= h.Incarnations[i-1].First {
			return fmt.Errorf("incarnation %d of %d", i+1, len(h.Incarnations))
		}
	}
	if first := h.Incarnations[0].First; first > h.First {
		return fmt.Errorf("the first record is LSN %d, the first incarnation begins at %d", h.First, first)
	}
	return nil
}

// Head is what the file says of itself.
func (p *Reader) Head() Head { return p.head }

// Summary is what was read so far; of the whole file after io.EOF.
func (p *Reader) Summary() Summary { return p.summary }

// Next returns the next item; io.EOF behind a good end.
func (p *Reader) Next() (Item, error) {
	for len(p.rest) == 0 {
		if p.done {
			return Item{}, io.EOF
		}
		if err := p.block(); err != nil {
			return Item{}, err
		}
		if err := p.open(); err != nil {
			return Item{}, err
		}
	}
	switch p.kind {
	case kindRecords:
		payload, ok := p.take()
		if !ok {
			return Item{}, p.damaged("a record is longer than its block")
		}
		item := Item{LSN: p.next, Last: p.next, Payload: payload}
		p.next++
		p.summary.Records++
		p.summary.Last = item.Last
		return item, nil
	case kindState:
		key, ok := p.take()
		value, ok2 := p.take()
		if !ok || !ok2 {
			return Item{}, p.damaged("an entry of the state store is longer than its block")
		}
		p.summary.State++
		return Item{Key: key, Value: value}, nil
	}
	item := Item{LSN: p.next, Last: position.LSN(le.Uint64(p.rest[8:])), Gap: true}
	p.rest = nil
	p.next = item.Last + 1
	p.summary.Gaps++
	p.summary.Last = item.Last
	return item, nil
}

// open looks at the beginning of a block.
func (p *Reader) open() error {
	switch p.kind {
	case kindRecords:
		if len(p.rest) < 9 || position.LSN(le.Uint64(p.rest)) != p.next {
			return p.damaged("records where LSN %d is due", p.next)
		}
		p.rest = p.rest[8:]
	case kindGap:
		if len(p.rest) != 16 || position.LSN(le.Uint64(p.rest)) != p.next || position.LSN(le.Uint64(p.rest[8:]))+1 <= p.next {
			return p.damaged("a gap where LSN %d is due", p.next)
		}
	case kindState:
		if !p.head.State {
			return p.damaged("state, though the head says that there is none")
		}
		if len(p.rest) == 0 {
			return p.damaged("an empty block")
		}
	case kindEnd:
		return p.end()
	default:
		return p.damaged("a block of unknown kind %d", p.kind)
	}
	return nil
}

// end compares what was read with what was written.
func (p *Reader) end() error {
	if len(p.rest) != endSize {
		return p.damaged("an end of %d bytes", len(p.rest))
	}
	got := Summary{Last: p.next - 1, Records: p.summary.Records, Gaps: p.summary.Gaps, State: p.summary.State}
	want := Summary{Last: position.LSN(le.Uint64(p.rest)), Records: le.Uint64(p.rest[8:]), Gaps: le.Uint64(p.rest[16:]), State: le.Uint64(p.rest[24:])}
	if got != want {
		return p.damaged("it holds %+v, and says %+v", got, want)
	}
	if p.chain != le.Uint32(p.rest[32:]) {
		return p.damaged("its blocks are not those that were written")
	}
	p.summary.Last, p.rest, p.done = got.Last, nil, true
	if n, err := io.CopyN(io.Discard, p.r, 1); n > 0 {
		p.offset = p.summary.Bytes
		return p.damaged("there is more after the end")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	p.Close()
	return nil
}

// Close frees memory. It may be called twice.
func (p *Reader) Close() {
	if p.decoder != nil {
		p.decoder.Close()
		p.decoder = nil
	}
}

func (p *Reader) take() ([]byte, bool) {
	size, n := binary.Uvarint(p.rest)
	if n <= 0 || size > uint64(len(p.rest)-n) {
		return nil, false
	}
	b := p.rest[n : n+int(size) : n+int(size)]
	p.rest = p.rest[n+int(size):]
	return b, true
}

// block reads a block into rest, verified.
func (p *Reader) block() error {
	chain := p.chain // of all before
	var h [blockHeader]byte
	p.offset = p.summary.Bytes
	if err := p.read(h[:]); err != nil {
		return err
	}
	if le.Uint32(h[:]) != blockMagic || le.Uint32(h[24:]) != crc32.Checksum(h[:24], castagnoli) {
		return p.damaged("block header checksum mismatch")
	}
	if v := le.Uint16(h[4:]); v != Version {
		return &FormatError{p.offset, fmt.Errorf("%w %d; this program knows version %d", ErrVersion, v, Version)}
	}
	if le.Uint64(h[8:]) != p.index {
		return p.damaged("block %d where %d is due", le.Uint64(h[8:]), p.index)
	}
	p.kind, p.index = kind(h[6]), p.index+1
	length := int64(le.Uint32(h[16:]))
	if length > blockMax || p.kind == kindHead && length > headMax {
		return p.damaged("a block of %d bytes", length)
	}
	p.raw.Reset()
	if p.raw.Cap() > 4*blockTarget {
		p.raw = bytes.Buffer{}
	}
	// What is not there is not allocated for.
	n, err := io.CopyN(&p.raw, p.r, length)
	p.summary.Bytes += n
	if errors.Is(err, io.EOF) {
		return &FormatError{p.offset, ErrTruncated}
	}
	if err != nil {
		return err
	}
	if crc32.Checksum(p.raw.Bytes(), castagnoli) != le.Uint32(h[20:]) {
		return p.damaged("block checksum mismatch")
	}
	if p.kind != kindEnd {
		p.chain = crc32.Update(chain, castagnoli, h[:24])
	}
	return p.unpack(h[7])
}

func (p *Reader) unpack(flags byte) error {
	p.rest = p.raw.Bytes()
	switch flags {
	case 0:
		return nil
	case flagZstd:
	default:
		return p.damaged("unknown flags %#x", flags)
	}
	if p.decoder == nil {
		var err error
		if p.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(packedMax)); err != nil {
			return err
		}
	}
	if cap(p.plain) > 4*blockTarget {
		p.plain = nil
	}
	var err error
	if p.plain, err = p.decoder.DecodeAll(p.rest, p.plain[:0]); err != nil {
		return p.damaged("zstd: %v", err)
	}
	p.rest = p.plain
	if p.kind == kindHead && len(p.rest) > headMax {
		return p.damaged("a head of %d bytes", len(p.rest))
	}
	return nil
}

func (p *Reader) read(b []byte) error {
	n, err := io.ReadFull(p.r, b)
	p.summary.Bytes += int64(n)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &FormatError{p.offset, ErrTruncated}
	}
	return err
}

func (p *Reader) damaged(format string, args ...any) error {
	return &FormatError{p.offset, fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))}
}
