package aerospike

import (
	"encoding/base64"
	"encoding/binary"
	"slices"
	"sync"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
	"github.com/walproxy/walproxy/sinks"
)

// packed is an expression as it stands in a message.
func packed(e *as.Expression) []byte {
	text, failed := e.Base64()
	if failed != nil {
		panic(failed) // it is one of ours, of names and numbers
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return b
}

// Filters that let pass what was not deleted, and only that.
var (
	alive    = sync.OnceValue(func() []byte { return packed(as.ExpNot(as.ExpBinExists(binDead))) })
	deceased = sync.OnceValue(func() []byte { return packed(as.ExpBinExists(binDead)) })
)

// bothFilters begins the list of three whose first item is the number of "and".
var bothFilters = []byte{0x93, 16}

// withFilter returns the fields with a filter; one that is there has to let the
// record pass as well.
func withFilter(fields []codec.Field, filter []byte) []codec.Field {
	for i := range fields {
		if fields[i].Type == codec.FieldFilter {
			fields = slices.Clone(fields)
			fields[i].Data = slices.Concat(bothFilters, fields[i].Data, filter)
			return fields
		}
	}
	return append(slices.Clip(fields), codec.Field{Type: codec.FieldFilter, Data: filter})
}

// guardOp writes the guard.
func guardOp(guard string, lsn sinks.LSN) codec.Op {
	return codec.Op{Type: codec.OpWrite, Particle: value.ParticleInteger, Name: []byte(guard),
		Value: binary.BigEndian.AppendUint64(nil, uint64(lsn))}
}

// deadOp marks a record as deleted.
func deadOp() codec.Op {
	return codec.Op{Type: codec.OpWrite, Particle: value.ParticleInteger, Name: []byte(binDead), Value: binary.BigEndian.AppendUint64(nil, 1)}
}
