package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// generations is into how many the window of request ids is divided, as a rule. What is
// put into one is near in the key space and dropped by one deletion: Pebble neither
// merges it with older ones nor reads it again. A look-up asks each, the newest first.
const generations = 8

// generation is request ids that were put between two expiries, or more. The newest takes
// what is put.
type generation struct {
	number      uint64 // oldNumber: those of format 1
	count       uint64
	first, last time.Time // accepted, of all; when it began, as long as it is empty
}

// oldNumber is the generation of what was put by format 1, in keys without a number. It
// is dropped like others, with its index.
const oldNumber = 0

func (g *generation) add(accepted time.Time) {
	if g.count == 0 || accepted.Before(g.first) {
		g.first = accepted
	}
	if g.count == 0 || accepted.After(g.last) {
		g.last = accepted
	}
	g.count++
}

func (g *generation) key(principal, id string) []byte {
	if g.number == oldNumber {
		return appendRequest([]byte{kindOldRequest}, principal, id)
	}
	key := append(make([]byte, 0, 9+binary.MaxVarintLen32+len(principal)+len(id)), kindRequest)
	return appendRequest(binary.BigEndian.AppendUint64(key, g.number), principal, id)
}

func (g *generation) put(b *pebble.Batch) error {
	return b.Set(generationKey(g.number), encodeGeneration(*g), nil)
}

func (g *generation) drop(b *pebble.Batch) error {
	if g.number == oldNumber {
		return errors.Join(b.DeleteRange([]byte{kindOldRequest}, []byte{kindOldRequest + 1}, nil),
			b.DeleteRange([]byte{kindOldIndex}, []byte{kindOldIndex + 1}, nil), b.Delete(generationKey(oldNumber), nil))
	}
	from := binary.BigEndian.AppendUint64([]byte{kindRequest}, g.number)
	to := binary.BigEndian.AppendUint64([]byte{kindRequest}, g.number+1)
	return errors.Join(b.DeleteRange(from, to, nil), b.Delete(generationKey(g.number), nil))
}

// loadGenerations reads them, oldest first. was is the format that the store had.
func (s *Store) loadGenerations(was uint64) (gs []generation, err error) {
	if was == 1 {
		count, _, err := s.number(keyOldCount)
		if err != nil || count == 0 {
			return nil, err
		}
		now := time.Now() // none is newer, and when they were accepted is not read
		return []generation{{number: oldNumber, count: count, first: now, last: now}}, nil
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindGeneration}, UpperBound: []byte{kindGeneration + 1}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Error(), it.Close()) }()
	for it.First(); it.Valid(); it.Next() {
		g, err := decodeGeneration(it.Key(), it.Value())
		if err != nil {
			return nil, err
		}
		gs = append(gs, g)
	}
	return gs, nil
}

// raiseFormat puts into b what makes a store of an older format one of this.
func raiseFormat(b *pebble.Batch, gs []generation) error {
	var err error
	for _, g := range gs {
		err = errors.Join(err, g.put(b))
	}
	return errors.Join(err, b.Delete(keyOldCount, nil))
}

func generationKey(number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kindGeneration}, number)
}

// A generation's value: count, first and last accepted (Unix nanoseconds).
const generationBytes = 3 * 8

func encodeGeneration(g generation) []byte {
	value := binary.BigEndian.AppendUint64(make([]byte, 0, generationBytes), g.count)
	value = binary.BigEndian.AppendUint64(value, uint64(g.first.UnixNano()))
	return binary.BigEndian.AppendUint64(value, uint64(g.last.UnixNano()))
}

func decodeGeneration(key, value []byte) (g generation, err error) {
	if len(key) != 9 || len(value) != generationBytes {
		return g, fmt.Errorf("%w: generation of request ids: key of %d bytes, want 9, value of %d, want %d",
			ErrCorrupt, len(key), len(value), generationBytes)
	}
	g.number, g.count = binary.BigEndian.Uint64(key[1:]), binary.BigEndian.Uint64(value)
	g.first = time.Unix(0, int64(binary.BigEndian.Uint64(value[8:])))
	g.last = time.Unix(0, int64(binary.BigEndian.Uint64(value[16:])))
	return g, nil
}
