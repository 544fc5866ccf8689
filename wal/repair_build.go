package wal

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// built is a segment's file as it was written.
type built struct {
	end     segmentEnd
	records uint64
	crc     uint32 // of all of it
}

// builder writes a segment's file.
type builder struct {
	built
	out    io.Writer // nil: nowhere, to see what comes out
	layout layout
	seed   seed
	buf    []byte
}

// write writes the planned segment: its header, its records, and gaps where there
// are none.
func (s *plannedSegment) write(out io.Writer, in *Inspection) (built, error) {
	b := &builder{out: out, layout: s.layout, seed: s.header.seed()}
	if err := b.header(s.header); err != nil {
		return b.built, err
	}
	gaps := s.gaps
	upTo := func(lsn LSN) error { // writes the gaps before lsn
		for len(gaps) > 0 && gaps[0].first < lsn {
			if err := b.gap(gaps[0]); err != nil {
				return err
			}
			gaps = gaps[1:]
		}
		return nil
	}
	for rest := s.runs; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].from == rest[0].from {
			n++
		}
		for f, err := range rest[0].from.Frames() {
			if err != nil {
				if !errors.As(err, new(*CorruptError)) && !errors.As(err, new(*TornTailError)) {
					return b.built, err
				}
				continue
			}
			if !has(rest[:n], f.LSN) {
				continue
			}
			if err := upTo(f.LSN); err != nil {
				return b.built, err
			}
			if err := b.frame(f); err != nil {
				return b.built, err
			}
		}
		rest = rest[n:]
	}
	if err := upTo(^LSN(0)); err != nil {
		return b.built, err
	}
	b.end.last = max(b.end.last, s.header.base-1)
	if s.end.last != b.end.last {
		return b.built, fmt.Errorf("%w: %s would end at LSN %d, not %d: it changed while it was read", ErrCorrupt, s.place(), b.end.last, s.end.last)
	}
	return b.built, nil
}

// has reports whether the frame of lsn is one of runs.
func has(runs []piece, lsn LSN) bool {
	at, found := slices.BinarySearchFunc(runs, lsn, func(p piece, lsn LSN) int { return cmp.Compare(p.first, lsn) })
	return found || at > 0 && lsn <= runs[at-1].last
}

func (b *builder) header(h segmentHeader) error {
	f, err := h.frame()
	if err != nil {
		return err
	}
	b.end.last = h.pred.last
	return b.put(f, h.pred.last, h.pred.last)
}

func (b *builder) frame(f Frame) error {
	if f.Gap {
		return b.gap(lsnRun{f.LSN, f.Last})
	}
	b.records++
	return b.put(b.encode(kindRecord, f.LSN, f.Payload), f.Durable, f.LSN)
}

func (b *builder) gap(g lsnRun) error {
	return b.put(b.encode(kindGap, g.first, le.AppendUint64(nil, uint64(g.last))), g.first-1, g.last)
}

func (b *builder) encode(kind frameKind, lsn LSN, payload []byte) []byte {
	var header [frameHeaderSize]byte
	putFrame(header[:], kind, lsn, len(payload), payloadCRC(payload))
	b.buf = append(append(b.buf[:0], header[:]...), payload...)
	return b.buf
}

// put writes a frame, the last LSN of which is last.
func (b *builder) put(frame []byte, durable, last LSN) error {
	if lsn := LSN(le.Uint64(frame[8:])); frame[5] != byte(kindHeader) && lsn != b.end.last+1 {
		return fmt.Errorf("%w: a repair would write LSN %d behind %d", ErrCorrupt, lsn, b.end.last)
	}
	prefix := b.layout.appendPrefix(nil, len(frame))
	b.end.offset += int64(len(prefix))
	b.end.crc = b.seed.stamp(frame, durable, b.end.offset)
	b.end.offset += int64(len(frame))
	b.end.last = last
	for _, part := range [][]byte{prefix, frame} {
		b.built.crc = crc32.Update(b.built.crc, castagnoli, part)
		if b.out == nil {
			continue
		}
		if _, err := b.out.Write(part); err != nil {
			return err
		}
	}
	return nil
}

func (tidwallLayout) appendPrefix(b []byte, n int) []byte {
	return binary.AppendUvarint(b, uint64(n))
}
