package wal

import (
	"hash/crc32"

	"golang.org/x/sys/cpu"
)

// Package crc32 is made for long buffers: before it begins it gets aligned, byte by
// byte, and only 504 bytes and more go three at a time. Most records are shorter,
// and lie anywhere, so that a verification would spend most of its time there.

// crcWords is the state of the CRC after words times 8 bytes at p. words may be 0.
//
//go:noescape
func crcWords(crc uint32, p *byte, words int) uint32

// crcLanes begins in three places at once: a is the state from crc on after words
// times 8 bytes at p, b and c are those from 0 on after the next as many. words is
// more than 0.
//
//go:noescape
func crcLanes(crc uint32, p *byte, words int) (a, b, c uint32)

// lane is a third of what is taken at a time, and how a state goes on over so many
// zero bytes: what each of its four bytes makes of them.
type lane struct {
	words int
	zeros [4][256]uint32
}

var lanes = func() (lanes [3]lane) {
	for i, words := range [...]int{168, 40, 8} {
		l := &lanes[i]
		l.words = words
		zeros := make([]byte, 8*words)
		for at := range l.zeros {
			for b := range l.zeros[at] {
				l.zeros[at][b] = ^crc32.Update(^(uint32(b) << (8 * at)), castagnoli, zeros)
			}
		}
	}
	return lanes
}()

func (l *lane) over(crc uint32) uint32 {
	return l.zeros[0][byte(crc)] ^ l.zeros[1][byte(crc>>8)] ^ l.zeros[2][byte(crc>>16)] ^ l.zeros[3][crc>>24]
}

// quickCRC is crc32.Update with Castagnoli's table.
func quickCRC(crc uint32, b []byte) uint32 {
	if !cpu.X86.HasSSE42 || len(b) < 8 {
		return crc32.Update(crc, castagnoli, b)
	}
	crc = ^crc
	for i := range lanes {
		l := &lanes[i]
		for size := 24 * l.words; len(b) >= size; b = b[size:] {
			a, x, y := crcLanes(crc, &b[0], l.words)
			crc = l.over(l.over(a)^x) ^ y
		}
	}
	if n := len(b) / 8; n > 0 {
		crc = crcWords(crc, &b[0], n)
		b = b[8*n:]
	}
	for _, c := range b {
		crc = castagnoli[byte(crc)^c] ^ crc>>8
	}
	return ^crc
}

// quickHeaderCRC is the CRC of the frame header at the start of h, from a state on.
func quickHeaderCRC(state uint32, h []byte) uint32 {
	if !cpu.X86.HasSSE42 {
		return crc32.Update(^state, castagnoli, h[:frameHeaderChecked])
	}
	h = h[:frameHeaderChecked]
	return ^crcWords(state, &h[0], frameHeaderChecked/8)
}
