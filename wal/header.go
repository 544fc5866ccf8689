package wal

import (
	"fmt"

	"github.com/google/uuid"
)

const (
	headerFormat    = 1
	headerFixedSize = 84
	incarnationSize = 24

	// headerMaxBytes bounds the payload of a segment header: some 170,000
	// incarnations, which is that many starts within the records kept.
	headerMaxBytes = 4 << 20

	// headerIncarnation is where the segment's own incarnation lies in the
	// payload: at a fixed place, so that it can be tried when the header is damaged.
	headerIncarnation = 20
	headerStream      = 4
	headerBase        = 44
)

// segmentEnd is where a segment ends.
type segmentEnd struct {
	offset int64  // size of what was written
	last   LSN    // its last record, or the last before it
	crc    uint32 // header CRC of its last frame
}

// segmentHeader is the first frame of a segment.
type segmentHeader struct {
	stream       uuid.UUID
	seq          uint64
	base         LSN // of the first record to come
	boot         uint64
	pred         segmentEnd   // zero for the first segment
	incarnations incarnations // the last one is the segment's own
}

func (h segmentHeader) incarnation() uuid.UUID { return h.incarnations[len(h.incarnations)-1].id }

func (h segmentHeader) seed() seed { return newSeed(h.stream, h.incarnation(), h.seq) }

// payloadSize is the length of the payload.
func (h segmentHeader) payloadSize() int {
	return headerFixedSize + incarnationSize*len(h.incarnations)
}

// frame encodes the header as a frame without its CRC.
func (h segmentHeader) frame() ([]byte, error) {
	size := h.payloadSize()
	if size > headerMaxBytes {
		return nil, fmt.Errorf("wal: %d starts within the records kept are more than a segment header holds", len(h.incarnations))
	}
	b := make([]byte, frameHeaderSize+size)
	p := b[frameHeaderSize:]
	le.PutUint16(p, headerFormat)
	copy(p[4:], h.stream[:])
	own := h.incarnation()
	copy(p[headerIncarnation:], own[:])
	le.PutUint64(p[36:], h.seq)
	le.PutUint64(p[44:], uint64(h.base))
	le.PutUint64(p[52:], h.boot)
	le.PutUint64(p[60:], uint64(h.pred.offset))
	le.PutUint64(p[68:], uint64(h.pred.last))
	le.PutUint32(p[76:], h.pred.crc)
	le.PutUint32(p[80:], uint32(len(h.incarnations)))
	for i, in := range h.incarnations {
		at := p[headerFixedSize+i*incarnationSize:]
		copy(at, in.id[:])
		le.PutUint64(at[16:], uint64(in.first))
	}
	putFrame(b, kindHeader, h.base, size, payloadCRC(p))
	return b, nil
}

// decodeSegmentHeader decodes a header frame's payload.
func decodeSegmentHeader(p []byte) (segmentHeader, error) {
	if len(p) < headerFixedSize {
		return segmentHeader{}, fmt.Errorf("%w: %d bytes", errHeaderFrame, len(p))
	}
	if v := le.Uint16(p); v != headerFormat {
		return segmentHeader{}, fmt.Errorf("segment header of an %w: %d", ErrVersion, v)
	}
	h := segmentHeader{
		stream: uuid.UUID(p[4:20]),
		seq:    le.Uint64(p[36:]),
		base:   LSN(le.Uint64(p[44:])),
		boot:   le.Uint64(p[52:]),
		pred: segmentEnd{
			offset: int64(le.Uint64(p[60:])),
			last:   LSN(le.Uint64(p[68:])),
			crc:    le.Uint32(p[76:]),
		},
	}
	count := int64(le.Uint32(p[80:]))
	if int64(len(p)) != headerFixedSize+count*incarnationSize {
		return h, fmt.Errorf("%w: %d bytes for %d incarnations", errHeaderFrame, len(p), count)
	}
	h.incarnations = make(incarnations, count)
	for i := range h.incarnations {
		at := p[headerFixedSize+i*incarnationSize:]
		h.incarnations[i] = incarnation{uuid.UUID(at[:16]), LSN(le.Uint64(at[16:]))}
	}
	return h, h.validate(uuid.UUID(p[headerIncarnation : headerIncarnation+16]))
}

func (h segmentHeader) validate(own uuid.UUID) error {
	if err := h.incarnations.validate(); err != nil {
		return err
	}
	newest := h.incarnations[len(h.incarnations)-1]
	switch {
	case newest.id != own:
		return fmt.Errorf("%w: its incarnation is not the newest", errHeaderFrame)
	case h.seq == 0 || h.base == 0 || newest.first > h.base:
		return fmt.Errorf("%w: segment %d, base LSN %d, incarnation from LSN %d", errHeaderFrame, h.seq, h.base, newest.first)
	case h.pred.offset < 0 || h.pred.last != h.base-1:
		return fmt.Errorf("%w: base LSN %d after a predecessor that ends at LSN %d", errHeaderFrame, h.base, h.pred.last)
	}
	return nil
}

// decodeHeaderFrame decodes and verifies the header frame at the start of b,
// which lies at offset in its file, as segment seq of stream.
func decodeHeaderFrame(b []byte, offset int64, stream uuid.UUID, seq uint64) (segmentHeader, uint32, error) {
	raw, err := rawHeader(b)
	if err != nil {
		return segmentHeader{}, 0, err
	}
	if raw.kind != kindHeader || raw.length > headerMaxBytes {
		return segmentHeader{}, 0, errHeaderFrame
	}
	if len(b)-frameHeaderSize < int(raw.length) {
		return segmentHeader{}, 0, errShort
	}
	payload := b[frameHeaderSize : frameHeaderSize+int(raw.length)]
	if payloadCRC(payload) != raw.payloadCRC {
		return segmentHeader{}, 0, errPayloadCRC
	}
	h, err := decodeSegmentHeader(payload)
	if err != nil {
		return h, 0, err
	}
	if h.stream != stream {
		return h, 0, fmt.Errorf("%w: it belongs to stream %s, not %s", errHeaderFrame, h.stream, stream)
	}
	if h.seq != seq {
		return h, 0, fmt.Errorf("%w: it is segment %016x, not %016x", errHeaderFrame, h.seq, seq)
	}
	if _, err := h.seed().parse(b, offset); err != nil {
		return h, 0, err
	}
	if raw.lsn != h.base {
		return h, 0, fmt.Errorf("%w: LSN %d for base LSN %d", errHeaderFrame, raw.lsn, h.base)
	}
	return h, raw.crc, nil
}
