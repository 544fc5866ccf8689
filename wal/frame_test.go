package wal

import (
	"bytes"
	"hash/crc32"
	"os"
	"testing"
)

// TestFrameCRC: the offset is hashed as crc32 would, before the header.
func TestFrameCRC(t *testing.T) {
	s := newSeed(fuzzStream, fuzzIncarnation, 3)
	frame := make([]byte, frameHeaderSize)
	putFrame(frame, kindRecord, 1, 0, 0)
	for _, offset := range []int64{0, 1, 255, 256, 1 << 33, 0x0102030405060708} {
		whole := le.AppendUint64(append(fuzzStream[:], fuzzIncarnation[:]...), 3)
		want := crc32.Checksum(append(le.AppendUint64(whole, uint64(offset)), frame[:frameHeaderChecked]...), castagnoli)
		if got := s.frameCRC(frame, offset); got != want {
			t.Errorf("offset %#x: %08x, want %08x", offset, got, want)
		}
	}
}

// TestFrameVerifiesOnlyInPlace: not in another stream, incarnation, segment or
// at another offset.
func TestFrameVerifiesOnlyInPlace(t *testing.T) {
	s := newSeed(fuzzStream, fuzzIncarnation, 3)
	frame := make([]byte, frameHeaderSize)
	putFrame(frame, kindRecord, 9, 0, 0)
	s.stamp(frame, 8, 1000)
	if h, err := s.parse(frame, 1000); err != nil || h.lsn != 9 || h.durable != 8 {
		t.Fatalf("%+v, %v", h, err)
	}
	for name, other := range map[string]seed{
		"stream":      newSeed(fuzzIncarnation, fuzzIncarnation, 3),
		"incarnation": newSeed(fuzzStream, fuzzStream, 3),
		"segment":     newSeed(fuzzStream, fuzzIncarnation, 4),
	} {
		if _, err := other.parse(frame, 1000); err == nil {
			t.Errorf("verifies in another %s", name)
		}
	}
	if _, err := s.parse(frame, 1001); err == nil {
		t.Error("verifies at another offset")
	}
}

// TestEmbeddedFrames: payloads made of frames, even of this very segment, are
// never taken for frames.
func TestEmbeddedFrames(t *testing.T) {
	dir := memoryDir(t)
	l := mustOpen(t, dir, testOptions())
	appendN(t, l, 5, 50)
	active := l.mu.segments[len(l.mu.segments)-1]
	b := mustRead(t, segmentFileOf(dir, active.seq))
	for range 5 {
		if _, err := l.Append(testContext(t), b); err != nil {
			t.Fatal(err)
		}
	}
	payloads, err := readAll(l, 1)
	if err != nil || len(payloads) != 10 || string(payloads[9]) != string(b) {
		t.Fatalf("%d records, %v", len(payloads), err)
	}
	awaitWatermark(t, l)
	copyDir(t, dir, dir+".torn")
	t.Cleanup(func() { _ = os.RemoveAll(dir + ".torn") })
	mustClose(t, l)

	// Torn within the embedding record and never witnessed: no inner frame is
	// a witness. The watermark is made older than the record.
	l = mustOpen(t, dir, testOptions())
	mark := mustRead(t, dir+"/watermark")
	appendBytes(t, l, b)
	active = l.mu.segments[len(l.mu.segments)-1]
	copyDir(t, dir, dir+".torn")
	mustWrite(t, dir+".torn/watermark", mark)
	whole := mustRead(t, segmentFileOf(dir+".torn", active.seq))
	whole[active.headerEnd+8] ^= 1
	mustWrite(t, segmentFileOf(dir+".torn", active.seq), whole)
	mustClose(t, l)
	l = mustOpen(t, dir+".torn", testOptions())
	if l.Durable() != 10 {
		t.Fatalf("durable %d, want 10", l.Durable())
	}
	mustClose(t, l)
}

func appendBytes(t *testing.T, l *Log, b []byte) {
	t.Helper()
	if _, err := l.Append(testContext(t), b); err != nil {
		t.Fatal(err)
	}
}

// TestSearchEveryByte: a magic number just before a frame does not hide it, nor
// does the end of a buffer.
func TestSearchEveryByte(t *testing.T) {
	s := newSeed(fuzzStream, fuzzIncarnation, 3)
	for lead := range 8 {
		for _, at := range []int{0, 100, scanBufferSize - 40, scanBufferSize - 20, scanBufferSize - 2, scanBufferSize, 3*scanBufferSize - 1} {
			b := append(make([]byte, at), "WPXFWPXF"[:lead]...)
			offset := int64(len(b))
			frame := make([]byte, frameHeaderSize)
			putFrame(frame, kindRecord, 9, 0, 0)
			s.stamp(frame, 8, offset)
			b = append(b, frame...)
			sc := scanner{file: bytes.NewReader(b), layout: testLayout(), limit: int64(len(b))}
			h, _, ok, err := sc.search(0, []seed{s}, func(frameHeader) bool { return true })
			if err != nil || !ok || h.lsn != 9 {
				t.Fatalf("after %d bytes and %d of a magic number: found %v, %v", at, lead, ok, err)
			}
		}
	}
}
