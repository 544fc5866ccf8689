//go:build !amd64

package wal

import "hash/crc32"

// quickCRC is crc32.Update with Castagnoli's table.
func quickCRC(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }

// quickHeaderCRC is the CRC of the frame header at the start of h, from a state on.
func quickHeaderCRC(state uint32, h []byte) uint32 {
	return crc32.Update(^state, castagnoli, h[:frameHeaderChecked])
}
