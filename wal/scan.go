package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"
)

const (
	scanBufferSize = 256 << 10
	// scanBufferKeep is the largest buffer that is kept after a large record.
	scanBufferKeep = 1 << 20
)

// frame is a frame in a file. payload is valid until the scanner moves on.
type frame struct {
	frameHeader
	offset  int64 // of the prefix
	end     int64
	last    LSN // of a gap; else lsn
	payload []byte
}

// verify checks what the scanner does not: the payload.
func (f *frame) verify() error {
	if payloadCRC(f.payload) != f.payloadCRC {
		return errPayloadCRC
	}
	if f.kind == kindGap {
		_, err := gapLast(f.lsn, f.payload)
		return err
	}
	return nil
}

// badFrameError is the first thing in a file that is not the frame it should be.
type badFrameError struct {
	offset int64
	err    error
}

func (e *badFrameError) Error() string { return fmt.Sprintf("offset %d: %v", e.offset, e.err) }
func (e *badFrameError) Unwrap() error { return e.err }

// scanner reads the frames of one segment's file, in order, through a buffer
// that grows only to the largest frame.
type scanner struct {
	file   io.ReaderAt
	layout layout
	seed   seed
	limit  int64 // frames end here or before
	offset int64 // of the next frame's prefix
	next   LSN   // the next frame's

	// step is how much is read at a time, and grows up to scanBufferSize; 0: that.
	// Who may stop after the first frame begins with less.
	step int64
	buf  []byte
	at   int64 // file offset of buf[0]
}

// peek returns n bytes from offset at, fewer only at the limit.
func (s *scanner) peek(at int64, n int64) ([]byte, error) {
	n = min(n, s.limit-at)
	if n <= 0 {
		return nil, nil
	}
	if at < s.at || at+n > s.at+int64(len(s.buf)) {
		if err := s.fill(at, n); err != nil {
			return nil, err
		}
	}
	lo := at - s.at
	return s.buf[lo : lo+min(n, int64(len(s.buf))-lo)], nil
}

func (s *scanner) fill(at, n int64) error {
	size := int64(scanBufferSize)
	if s.step > 0 {
		size = min(s.step, size)
		s.step *= 4
	}
	return s.fillExactly(at, max(n, size))
}

func (s *scanner) fillExactly(at, size int64) error {
	size = min(size, s.limit-at)
	if int64(cap(s.buf)) < size || int64(cap(s.buf)) > max(scanBufferKeep, size) {
		s.buf = make([]byte, size)
	}
	got, err := s.file.ReadAt(s.buf[:size], at)
	s.at, s.buf = at, s.buf[:got]
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// header reads the segment header, which must be the first thing in the file,
// and readies the scanner for the records.
func (s *scanner) header(stream uuid.UUID, seq uint64) (segmentHeader, uint32, error) {
	b, err := s.peek(0, maxPrefix)
	if err != nil {
		return segmentHeader{}, 0, err
	}
	n, claim, err := s.layout.prefix(b)
	if err != nil {
		return segmentHeader{}, 0, &badFrameError{0, err}
	}
	if b, err = s.peek(int64(n), frameHeaderSize); err != nil {
		return segmentHeader{}, 0, err
	}
	raw, err := rawHeader(b)
	if err != nil {
		return segmentHeader{}, 0, &badFrameError{0, s.orRoom(b, err)}
	}
	size := frameHeaderSize + min(int64(raw.length), headerMaxBytes+1)
	if claim >= 0 && claim != size || n != s.layout.prefixLen(int(size)) {
		return segmentHeader{}, 0, &badFrameError{0, errPrefix}
	}
	if b, err = s.peek(int64(n), size); err != nil {
		return segmentHeader{}, 0, err
	}
	h, crc, err := decodeHeaderFrame(b, int64(n), stream, seq)
	if err != nil {
		return h, 0, &badFrameError{0, err}
	}
	s.seed, s.offset, s.next = h.seed(), int64(n)+size, h.base
	return h, crc, nil
}

// frame returns the next frame, with its header verified but not its payload;
// io.EOF at the limit; *badFrameError; the file's error.
func (s *scanner) frame() (frame, error) {
	if s.offset >= s.limit {
		return frame{}, io.EOF
	}
	f := frame{offset: s.offset}
	bad := func(err error) (frame, error) { return f, &badFrameError{f.offset, err} }

	b, err := s.peek(s.offset, maxPrefix+frameHeaderSize)
	if err != nil {
		return f, err
	}
	n, claim, err := s.layout.prefix(b[:min(len(b), maxPrefix)])
	if err != nil {
		return bad(err)
	}
	start := s.offset + int64(n)
	if f.frameHeader, err = s.seed.parse(b[n:], start); err != nil {
		return bad(s.orRoom(b[n:], err))
	}
	size := frameHeaderSize + int64(f.length)
	if claim >= 0 && claim != size || n != s.layout.prefixLen(int(size)) {
		return bad(errPrefix)
	}
	return f, s.body(&f, start)
}

// orRoom is err, which says why b is no frame's header, or errRoom.
func (s *scanner) orRoom(b []byte, err error) error {
	b = b[:min(len(b), frameHeaderSize)]
	if s.layout.roomy() && len(bytes.TrimLeft(b, "\x00")) == 0 {
		return errRoom
	}
	return err
}

// isRoom reports whether bad, which s met, is where room begins: no frame of s's
// segment is behind it. Zeros before one are a hole in what was written. Frames of
// freed segments, in whose file this one may be, are older than all of its own.
func (s *scanner) isRoom(bad *badFrameError) (bool, error) {
	if bad == nil || !errors.Is(bad, errRoom) {
		return false, nil
	}
	sc := scanner{file: s.file, layout: s.layout, limit: s.limit}
	_, _, found, err := sc.search(bad.offset+1, []seed{s.seed}, func(h frameHeader) bool { return h.lsn >= s.next })
	return err == nil && !found, err
}

// body completes f, whose header at start has verified, and moves behind it. f
// must be the next one. *badFrameError; the file's error.
func (s *scanner) body(f *frame, start int64) error {
	bad := func(err error) error { return &badFrameError{f.offset, err} }
	size := frameHeaderSize + int64(f.length)
	if f.kind == kindHeader || f.lsn != s.next || f.durable >= f.lsn {
		return bad(fmt.Errorf("%w: LSN %d where %d is due", errSequence, f.lsn, s.next))
	}
	if start+size > s.limit {
		return bad(errShort)
	}
	b, err := s.peek(start, size)
	if err != nil {
		return err
	}
	if int64(len(b)) < size {
		return bad(errShort)
	}
	f.payload, f.end, f.last = b[frameHeaderSize:], start+size, f.lsn
	if f.kind == kindGap {
		if f.last, err = gapLast(f.lsn, f.payload); err != nil {
			return bad(err)
		}
	}
	s.offset, s.next = f.end, f.last+1
	return nil
}

// verified is frame with the payload verified too: *badFrameError if it is not
// what was written.
func (s *scanner) verified() (frame, error) {
	f, err := s.frame()
	if err == nil {
		if err = f.verify(); err != nil {
			err = &badFrameError{f.offset, err}
		}
	}
	return f, err
}

var magicBytes = le.AppendUint32(nil, frameMagic)

// search looks at every byte from offset on for a frame header that verifies
// under one of seeds and satisfies want; at is where it is.
func (s *scanner) search(offset int64, seeds []seed, want func(frameHeader) bool) (h frameHeader, at int64, found bool, err error) {
	for offset < s.limit {
		n := s.at + int64(len(s.buf)) - offset // what is in the buffer, if enough
		if offset < s.at || n < frameHeaderSize {
			n = scanBufferSize
		}
		b, err := s.peek(offset, n)
		if err != nil {
			return h, 0, false, err
		}
		if len(b) < frameHeaderSize {
			return h, 0, false, nil
		}
		i := bytes.Index(b, magicBytes)
		if i < 0 {
			offset += int64(len(b) - len(magicBytes) + 1)
			continue
		}
		offset += int64(i)
		if b, err = s.peek(offset, frameHeaderSize); err != nil {
			return h, 0, false, err
		}
		for _, seed := range seeds {
			if h, err := seed.parse(b, offset); err == nil && h.kind != kindHeader && want(h) {
				return h, offset, true, nil
			}
		}
		offset++
	}
	return h, 0, false, nil
}
