package wal

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

// TestQuickCRC: the CRC of a verification is that of package crc32, of every length,
// at every alignment, from every state.
func TestQuickCRC(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 20_000)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	check := func(from, size int) {
		t.Helper()
		crc := rnd.Uint32()
		p := b[from : from+size : from+size]
		if got, want := quickCRC(crc, p), crc32.Update(crc, castagnoli, p); got != want {
			t.Fatalf("%d bytes from %d on: %08x, want %08x", size, from, got, want)
		}
	}
	for size := range 3000 {
		check(rnd.IntN(16), size)
	}
	for from := range 9 {
		for size := range 300 {
			check(from, size)
		}
	}
	for range 500 {
		from := rnd.IntN(1000)
		check(from, rnd.IntN(len(b)-from))
	}
}

// FuzzQuickCRC: likewise for any bytes.
func FuzzQuickCRC(f *testing.F) {
	f.Add(uint32(0), []byte("walproxy"), 1)
	f.Fuzz(func(t *testing.T, crc uint32, b []byte, from int) {
		b = b[min(max(from, 0), len(b)):]
		if got, want := quickCRC(crc, b), crc32.Update(crc, castagnoli, b); got != want {
			t.Fatalf("%08x, want %08x", got, want)
		}
	})
}
