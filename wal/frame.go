package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/google/uuid"
)

const (
	frameMagic      = 0x46585057 // "WPXF"
	frameVersion    = 1
	frameHeaderSize = 36

	// frameHeaderChecked is the part of the header that its CRC covers.
	frameHeaderChecked = 32
)

type frameKind uint8

const (
	kindHeader frameKind = 1
	kindRecord frameKind = 2
	kindGap    frameKind = 3
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

// What is wrong with a frame. They are wrapped in *CorruptError when they
// leave the package.
var (
	errShort       = errors.New("the file ends within a frame")
	errRoom        = errors.New("zeros where a frame should be")
	errMagic       = errors.New("no frame begins here")
	errHeaderCRC   = errors.New("frame header checksum mismatch")
	errPayloadCRC  = errors.New("payload checksum mismatch")
	errVersion     = fmt.Errorf("frame of an %w", ErrVersion)
	errKind        = errors.New("frame of an unknown kind")
	errPrefix      = errors.New("entry length and frame length differ")
	errSequence    = errors.New("frame out of sequence")
	errGap         = errors.New("malformed gap frame")
	errHeaderFrame = errors.New("malformed segment header")
	errEnds        = errors.New("the file ends here")
	errMissing     = errors.New("missing")
	errNoFile      = errors.New("the segment's file is missing")
)

// seed is what frames of one segment start their CRC from, but for their offset:
// the state of the CRC after stream, incarnation, segment and eight zero bytes. A
// CRC is linear, so that what the offset's bytes make of it is added.
type seed uint32

func newSeed(stream, incarnation uuid.UUID, seq uint64) seed {
	var b [48]byte
	copy(b[:], stream[:])
	copy(b[16:], incarnation[:])
	le.PutUint64(b[32:], seq)
	return seed(^crc32.Checksum(b[:], castagnoli))
}

// offsetTables[i] is what byte i of an offset adds to a CRC's state.
var offsetTables = func() (tables [8][256]uint32) {
	for i := range tables {
		for b := range tables[i] {
			crc := castagnoli[b]
			for range len(tables) - 1 - i {
				crc = castagnoli[byte(crc)] ^ crc>>8
			}
			tables[i][b] = crc
		}
	}
	return tables
}()

// frameCRC is the CRC of the header at the start of b, of a frame at offset.
func (s seed) frameCRC(b []byte, offset int64) uint32 {
	state := uint32(s) // of the CRC at the beginning of a frame at offset
	for i, rest := 0, uint64(offset); rest != 0; i, rest = i+1, rest>>8 {
		state ^= offsetTables[i&7][byte(rest)]
	}
	return crc32.Update(^state, castagnoli, b[:frameHeaderChecked])
}

// frameHeader is a decoded frame header.
type frameHeader struct {
	kind       frameKind
	lsn        LSN
	durable    LSN // highest durable LSN when the frame was written
	length     uint32
	payloadCRC uint32
	crc        uint32
}

// putFrame writes what is known of a frame when it is queued: all but the
// durable LSN and the header's CRC, which stamp adds. b has room for the header.
func putFrame(b []byte, kind frameKind, lsn LSN, length int, payloadCRC uint32) {
	le.PutUint32(b, frameMagic)
	b[4] = frameVersion
	b[5] = byte(kind)
	b[6], b[7] = 0, 0
	le.PutUint64(b[8:], uint64(lsn))
	le.PutUint32(b[24:], uint32(length))
	le.PutUint32(b[28:], payloadCRC)
}

// stamp completes the frame at the start of b and returns its header's CRC.
func (s seed) stamp(b []byte, durable LSN, offset int64) uint32 {
	le.PutUint64(b[16:], uint64(durable))
	crc := s.frameCRC(b, offset)
	le.PutUint32(b[frameHeaderChecked:], crc)
	return crc
}

// rawHeader decodes the header at the start of b without its CRC.
func rawHeader(b []byte) (frameHeader, error) {
	if len(b) < frameHeaderSize {
		return frameHeader{}, errShort
	}
	if le.Uint32(b) != frameMagic {
		return frameHeader{}, errMagic
	}
	return frameHeader{
		kind:       frameKind(b[5]),
		lsn:        LSN(le.Uint64(b[8:])),
		durable:    LSN(le.Uint64(b[16:])),
		length:     le.Uint32(b[24:]),
		payloadCRC: le.Uint32(b[28:]),
		crc:        le.Uint32(b[frameHeaderChecked:]),
	}, nil
}

// parse decodes and verifies the header of the frame at the start of b, which
// lies at offset in its file.
func (s seed) parse(b []byte, offset int64) (frameHeader, error) {
	h, err := rawHeader(b)
	if err != nil {
		return h, err
	}
	if s.frameCRC(b, offset) != h.crc {
		return h, errHeaderCRC
	}
	if b[4] != frameVersion {
		return h, fmt.Errorf("%w: %d", errVersion, b[4])
	}
	if h.kind != kindHeader && h.kind != kindRecord && h.kind != kindGap {
		return h, fmt.Errorf("%w: %d", errKind, h.kind)
	}
	return h, nil
}

const gapPayloadSize = 8

// gapLast decodes a gap frame's payload: the last LSN that is missing.
func gapLast(first LSN, payload []byte) (LSN, error) {
	if len(payload) != gapPayloadSize {
		return 0, errGap
	}
	last := LSN(le.Uint64(payload))
	if first == 0 || last < first || last == 1<<64-1 { // there is always a next one
		return 0, errGap
	}
	return last, nil
}

func payloadCRC(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
