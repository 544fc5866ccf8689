// Package pgstatement is the form in which a write that came over the Postgres wire
// is logged: what api/pgwire writes and sinks/postgres reads.
package pgstatement

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Formats of a parameter, as the Bind message has them.
const (
	Text   int16 = 0
	Binary int16 = 1
)

// ErrParameters: bytes that AppendParameters did not write, or a newer version did.
var ErrParameters = errors.New("pgstatement: unreadable parameters")

// parametersVersion is the first byte of the encoding.
const parametersVersion = 1

// AppendParameters appends the encoding of a row's parameters:
//
//	version   1
//	count     uvarint
//	formats   a bit each, from the lowest of the first byte: 1 is binary
//	values    each uvarint(its length + 1), 0 for null, and its bytes
func AppendParameters(dst []byte, formats []int16, values [][]byte) []byte {
	size := 1 + binary.MaxVarintLen16 + (len(values)+7)/8
	for _, v := range values {
		size += binary.MaxVarintLen32 + len(v)
	}
	dst = slices.Grow(dst, size)
	dst = binary.AppendUvarint(append(dst, parametersVersion), uint64(len(values)))
	start := len(dst)
	dst = append(dst, make([]byte, (len(values)+7)/8)...)
	for i := range values {
		if formats[i] == Binary {
			dst[start+i/8] |= 1 << (i % 8)
		}
	}
	for _, v := range values {
		if v == nil {
			dst = append(dst, 0)
			continue
		}
		dst = append(binary.AppendUvarint(dst, uint64(len(v))+1), v...)
	}
	return dst
}

// Parameters is the inverse of AppendParameters. The values share memory with
// encoded. Errors are ErrParameters.
func Parameters(encoded []byte) (formats []int16, values [][]byte, err error) {
	if len(encoded) == 0 || encoded[0] != parametersVersion {
		return nil, nil, fmt.Errorf("%w: unknown version", ErrParameters)
	}
	rest := encoded[1:]
	count, n := binary.Uvarint(rest)
	if n <= 0 || count > math.MaxUint16 || (count+7)/8+count > uint64(len(rest)-n) {
		return nil, nil, fmt.Errorf("%w: %d parameters in %d bytes", ErrParameters, count, len(encoded))
	}
	bits := rest[n : n+int(count+7)/8]
	rest = rest[n+len(bits):]
	formats, values = make([]int16, count), make([][]byte, count)
	for i := range values {
		formats[i] = int16(bits[i/8] >> (i % 8) & 1)
		size, n := binary.Uvarint(rest)
		if n <= 0 || size > uint64(len(rest)-n)+1 {
			return nil, nil, fmt.Errorf("%w: value %d of %d", ErrParameters, i+1, count)
		}
		if rest = rest[n:]; size > 0 {
			values[i] = rest[: size-1 : size-1]
			rest = rest[size-1:]
		}
	}
	if len(rest) > 0 {
		return nil, nil, fmt.Errorf("%w: %d bytes behind them", ErrParameters, len(rest))
	}
	return formats, values, nil
}
