// Package portable is the file of `log export`: a log, and what the state store
// keeps beside it, in one file that is written and read from front to end.
//
//	"walproxy export\n"             16 bytes
//	block block ... block           the first is the head, the last the end
//
//	block:  0  magic "WPXB"          4   16  length of the payload   4
//	        4  version (1)           2   20  CRC32C of the payload   4
//	        6  kind                  1   24  CRC32C of bytes 0 to 23 4
//	        7  flags, 1: zstd        1   28  payload
//	        8  index, from 0         8
//
// All numbers are little endian. Kinds and their payloads:
//
//	1 head     JSON: see Head
//	2 records  LSN of the first 8, then each: length uvarint, payload
//	3 gap      first LSN 8, last LSN 8: records that are lost
//	4 state    each: length uvarint, key, length uvarint, value
//	5 end      last LSN 8, records 8, gaps 8, state entries 8, CRC32C over the
//	           bytes 0 to 23 of all blocks before 4
//
// LSNs follow each other without a hole. The length in the header counts what is
// in the file; with zstd the payload is what comes out of that, 65 MiB at most.
package portable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/position"
)

// Version of the file that is written, and the highest that is read.
const Version = 1

const (
	fileMagic   = "walproxy export\n"
	blockMagic  = 0x42585057 // "WPXB"
	blockHeader = 28
	flagZstd    = 1

	// blockTarget is where a block is ended; a larger record makes one of its own.
	blockTarget = 1 << 20
	// blockMax bounds a payload: the largest record, or state entry, and its LSN.
	blockMax = 1<<30 + 1<<20
	headMax  = 16 << 20
	// packedMax bounds what is compressed, so that a few bytes take no reader more than that.
	// A larger payload is written as it is.
	packedMax = 64<<20 + 1<<20
	endSize   = 36
)

type kind uint8

const (
	kindHead    kind = 1
	kindRecords kind = 2
	kindGap     kind = 3
	kindState   kind = 4
	kindEnd     kind = 5
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

var (
	// ErrNotExport: the file is something else.
	ErrNotExport = errors.New("not a file of `walproxy log export`")
	// ErrTruncated: the file ends before its end block.
	ErrTruncated = errors.New("the file is cut short")
	// ErrDamaged: a checksum, or what it protects, is wrong.
	ErrDamaged = errors.New("the file is damaged")
	// ErrVersion: a newer program wrote it.
	ErrVersion = errors.New("unknown version")
)

// FormatError says where in the file it is not what it should be.
type FormatError struct {
	Offset int64 // of the block
	Err    error // wraps one of the above
}

func (e *FormatError) Error() string { return fmt.Sprintf("at offset %d: %v", e.Offset, e.Err) }
func (e *FormatError) Unwrap() error { return e.Err }

// Head says what is in the file.
type Head struct {
	Version      int           `json:"version"`
	Export       uuid.UUID     `json:"export"` // of this file
	Created      time.Time     `json:"created"`
	Program      string        `json:"program"`
	Stream       uuid.UUID     `json:"stream"`
	Incarnations []Incarnation `json:"incarnations"`
	// First is the LSN of the first record, or of the next to come.
	First position.LSN `json:"first_lsn"`
	// Boot is the boot counter in the newest segment.
	Boot uint64 `json:"boot"`
	// State says that the state store is in the file. Without it dead letters,
	// held records, claims and request ids are not.
	State bool `json:"state"`
	// Live: a server was writing; the file ends at what was durable.
	Live bool `json:"live"`
}

// Incarnation of a log and its first LSN.
type Incarnation struct {
	ID    uuid.UUID    `json:"id"`
	First position.LSN `json:"first_lsn"`
}

// Summary is what was written, or read.
type Summary struct {
	Last    position.LSN `json:"last_lsn"`
	Records uint64       `json:"records"`
	Gaps    uint64       `json:"gaps"`
	State   uint64       `json:"state_entries"`
	Bytes   int64        `json:"bytes"` // of the file
}
