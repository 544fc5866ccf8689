package wal

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
)

var (
	fuzzStream      = uuid.MustParse("11111111-2222-4333-8444-555555555555")
	fuzzIncarnation = uuid.MustParse("66666666-7777-4888-8999-aaaaaaaaaaaa")
)

func fuzzHeader() segmentHeader {
	return segmentHeader{stream: fuzzStream, seq: 3, base: 7, boot: 5, pred: segmentEnd{100, 6, 9},
		incarnations: incarnations{{uuid.New(), 1}, {fuzzIncarnation, 4}}}
}

// fuzzSegment is a whole file: header, two records, a gap.
func fuzzSegment(t testing.TB) []byte {
	h := fuzzHeader()
	frames := [][]byte{}
	b, err := h.frame()
	if err != nil {
		t.Fatal(err)
	}
	frames = append(frames, b)
	gap := le.AppendUint64(nil, 12)
	for i, payload := range [][]byte{[]byte("first"), {}, gap} {
		kind := kindRecord
		if i == 2 {
			kind = kindGap
		}
		f := append(make([]byte, frameHeaderSize), payload...)
		putFrame(f, kind, LSN(7+i), len(payload), payloadCRC(payload))
		frames = append(frames, f)
	}
	var file []byte
	for i, f := range frames {
		file = testLayout().appendPrefix(file, len(f))
		h.seed().stamp(f, LSN(6+max(0, i-1)), int64(len(file)))
		file = append(file, f...)
	}
	return file
}

// FuzzFrame: what verifies re-encodes to the same bytes.
func FuzzFrame(f *testing.F) {
	s := newSeed(fuzzStream, fuzzIncarnation, 3)
	frame := append(make([]byte, frameHeaderSize), "payload"...)
	putFrame(frame, kindRecord, 8, 7, payloadCRC([]byte("payload")))
	s.stamp(frame, 7, 42)
	f.Add(frame, int64(42))
	f.Add(frame, int64(43))
	f.Add([]byte("WPXF"), int64(0))
	f.Fuzz(func(t *testing.T, b []byte, offset int64) {
		h, err := s.parse(b, offset)
		if err != nil {
			return
		}
		again := make([]byte, frameHeaderSize)
		putFrame(again, h.kind, h.lsn, int(h.length), h.payloadCRC)
		copy(again[6:8], b[6:8])
		if s.stamp(again, h.durable, offset); !bytes.Equal(again, b[:frameHeaderSize]) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", b[:frameHeaderSize], h, again)
		}
	})
}

// FuzzSegmentHeader: likewise for the payload of a segment header.
func FuzzSegmentHeader(f *testing.F) {
	b, err := fuzzHeader().frame()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[frameHeaderSize:])
	f.Add(b[frameHeaderSize : len(b)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeSegmentHeader(b)
		if err != nil {
			return
		}
		again, err := h.frame()
		if err != nil {
			t.Fatal(err)
		}
		copy(again[frameHeaderSize+2:frameHeaderSize+4], b[2:4]) // reserved
		if !bytes.Equal(again[frameHeaderSize:], b) {
			t.Fatalf("%x decodes to %+v", b, h)
		}
	})
}

// FuzzGap: a gap ends where it says, not before it begins, and is read back as it
// was written.
func FuzzGap(f *testing.F) {
	f.Add(uint64(6), le.AppendUint64(nil, 8))
	f.Add(uint64(6), le.AppendUint64(nil, 5))
	f.Add(uint64(1), le.AppendUint64(nil, 1<<64-1))
	f.Add(uint64(6), []byte("short"))
	f.Fuzz(func(t *testing.T, first uint64, payload []byte) {
		last, err := gapLast(LSN(first), payload)
		if err != nil {
			if !errors.Is(err, errGap) {
				t.Fatal(err)
			}
			return
		}
		if first == 0 || last < LSN(first) || last == 1<<64-1 {
			t.Fatalf("from %d to %d", first, last)
		}
		b := &builder{layout: testLayout(), seed: newSeed(fuzzStream, fuzzIncarnation, 3)}
		b.end.last = LSN(first) - 1
		out := &bytes.Buffer{}
		b.out = out
		if err := b.gap(lsnRun{LSN(first), last}); err != nil {
			t.Fatal(err)
		}
		sc := scanner{file: bytes.NewReader(out.Bytes()), layout: testLayout(), limit: int64(out.Len()), seed: b.seed, next: LSN(first)}
		if fr, err := sc.verified(); err != nil || fr.kind != kindGap || fr.lsn != LSN(first) || fr.last != last || !bytes.Equal(fr.payload, payload) {
			t.Fatalf("%+v, %v", fr, err)
		}
	})
}

func FuzzFormat(f *testing.F) {
	f.Add(encodeFormat(1, fuzzStream))
	f.Add(encodeFormat(2, fuzzStream))
	f.Fuzz(func(t *testing.T, b []byte) {
		stream, err := decodeFormat(b)
		if err == nil && !bytes.Equal(b, encodeFormat(formatVersion, stream)) {
			t.Fatalf("accepted %q", b)
		}
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
	})
}

func FuzzWatermark(f *testing.F) {
	w := watermark{stream: fuzzStream, incarnation: fuzzIncarnation, slot: 7, durable: 9, segment: 2, end: 100, first: 1, clean: true}
	f.Add(w.encode()[:watermarkSize])
	f.Add(append(w.encode(), w.encode()...))
	f.Fuzz(func(t *testing.T, b []byte) {
		w, ok := newestWatermark(b, fuzzStream)
		if ok && (w.stream != fuzzStream || w.end < 0) {
			t.Fatalf("%+v", w)
		}
		if again, ok2 := decodeWatermark(w.encode()); ok && (!ok2 || again != w) {
			t.Fatalf("%+v encodes to %+v", w, again)
		}
	})
}

// FuzzSegment scans arbitrary bytes as a segment: no panic, no frame out of
// order, none beyond the file, and the search agrees.
func FuzzSegment(f *testing.F) {
	whole := fuzzSegment(f)
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add(append(bytes.Clone(whole), whole...))
	f.Fuzz(func(t *testing.T, b []byte) {
		sc := scanner{file: bytes.NewReader(b), layout: testLayout(), limit: int64(len(b))}
		h, _, err := sc.header(fuzzStream, 3)
		if err != nil {
			var bad *badFrameError
			if !errors.As(err, &bad) {
				t.Fatal(err)
			}
			sc.seed = newSeed(fuzzStream, fuzzIncarnation, 3)
			_, _, _, err = sc.search(0, []seed{sc.seed}, func(frameHeader) bool { return false })
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		next := h.base
		for {
			fr, err := sc.frame()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				var bad *badFrameError
				if !errors.As(err, &bad) || bad.offset >= int64(len(b)) {
					t.Fatal(err)
				}
				break
			}
			if fr.lsn != next || fr.last < fr.lsn || fr.end > int64(len(b)) {
				t.Fatalf("%+v, next is %d", fr, next)
			}
			next = fr.last + 1
			_ = fr.verify()
			found, ok, err := sc.searchCopy(fr.offset, fr.lsn)
			if err != nil || !ok || found != fr.crc {
				t.Fatalf("search does not find the frame at %d: %v", fr.offset, err)
			}
		}
	})
}

// searchCopy searches for the frame of lsn without moving s.
func (s scanner) searchCopy(offset int64, lsn LSN) (uint32, bool, error) {
	s.buf = nil
	h, _, ok, err := s.search(offset, []seed{s.seed}, func(h frameHeader) bool { return h.lsn == lsn })
	return h.crc, ok, err
}

// FuzzOpen opens a log of which one file was replaced by arbitrary bytes: it
// holds what was acknowledged, or is refused.
func FuzzOpen(f *testing.F) {
	root, err := os.MkdirTemp("/dev/shm", "walproxy-fuzz-")
	if err != nil {
		root = f.TempDir()
	}
	f.Cleanup(func() { _ = os.RemoveAll(root) })
	origin := filepath.Join(root, "origin")
	l := mustOpen(f, origin, testOptions())
	appendN(f, l, 5, damageSize)
	mustClose(f, l)
	names := []string{"FORMAT", "watermark", filepath.Join("segments", segmentName(1), testLayout().file())}
	for i, name := range names {
		b := mustRead(f, filepath.Join(origin, name))
		f.Add(uint8(i), b)
		f.Add(uint8(i), b[:len(b)-1])
	}
	f.Fuzz(func(t *testing.T, file uint8, b []byte) {
		dir := filepath.Join(memoryDir(t), "log")
		copyDir(t, origin, dir)
		mustWrite(t, filepath.Join(dir, names[int(file)%len(names)]), b)
		l, err := Open(dir, testOptions())
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		checkRecords(t, l, 1, 5, damageSize)
		mustClose(t, l)
	})
}
