package state

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// LaneMap says which lanes of a sink's checkpoint hold which keys.
type LaneMap struct {
	// Classes divide the lanes, in order. The first is that of all collections
	// without a class of their own. None: all lanes are one class.
	Classes []LaneClass
	// Places are of collections whose keys are not spread over the first class.
	Places map[string]LanePlace
}

// LaneClass is a set of lanes.
type LaneClass struct {
	Name  string
	Lanes int
}

// LanePlace is where a collection's keys go.
type LanePlace struct {
	Group string // that shares one lane; "": none
	Class string // "": the first
}

// LaneMap returns the map of a sink as it was put last; empty if it never was.
func (s *Store) LaneMap(sink string) (m LaneMap, err error) {
	err = s.use(func() error {
		value, found, err := s.get(laneMapKey(sink))
		if err != nil || !found {
			return err
		}
		if m, err = decodeLaneMap(value); err != nil {
			return fmt.Errorf("lane map of sink %q: %w", sink, err)
		}
		return nil
	})
	if m.Places == nil {
		m.Places = map[string]LanePlace{}
	}
	return m, err
}

// PutLaneMap stores m, durably.
func (s *Store) PutLaneMap(sink string, m LaneMap) error {
	return s.use(func() error {
		b := s.db.NewBatch()
		defer b.Close()
		if err := b.Set(laneMapKey(sink), encodeLaneMap(m), nil); err != nil {
			return err
		}
		return s.commit(b)
	})
}

func laneMapKey(sink string) []byte { return append([]byte{'g'}, sink...) }

// The value: the number of classes (uvarint), name and lanes (uvarint) of each;
// then collection, group and class of each place, in the order of the
// collections. Texts come after their length (uvarint).
func encodeLaneMap(m LaneMap) (value []byte) {
	value = binary.AppendUvarint(nil, uint64(len(m.Classes)))
	for _, c := range m.Classes {
		value = binary.AppendUvarint(appendPiece(value, []byte(c.Name)), uint64(c.Lanes))
	}
	for _, collection := range slices.Sorted(maps.Keys(m.Places)) {
		at := m.Places[collection]
		for _, text := range []string{collection, at.Group, at.Class} {
			value = appendPiece(value, []byte(text))
		}
	}
	return value
}

func decodeLaneMap(value []byte) (m LaneMap, err error) {
	count, value, err := takeNumber(value)
	if err != nil {
		return m, err
	}
	for range count {
		var c LaneClass
		var name []byte
		var lanes uint64
		if name, value, err = takePiece(value); err != nil {
			return m, err
		}
		if lanes, value, err = takeNumber(value); err != nil {
			return m, err
		}
		if lanes < 1 || lanes > 1<<20 {
			return m, fmt.Errorf("%w: a class of %d lanes", ErrCorrupt, lanes)
		}
		c.Name, c.Lanes = string(name), int(lanes)
		m.Classes = append(m.Classes, c)
	}
	m.Places = map[string]LanePlace{}
	for len(value) > 0 {
		var texts [3]string
		for i := range texts {
			var piece []byte
			if piece, value, err = takePiece(value); err != nil {
				return m, err
			}
			texts[i] = string(piece)
		}
		m.Places[texts[0]] = LanePlace{Group: texts[1], Class: texts[2]}
	}
	return m, nil
}

func takeNumber(value []byte) (n uint64, rest []byte, err error) {
	n, size := binary.Uvarint(value)
	if size <= 0 {
		return 0, nil, fmt.Errorf("%w: a number is cut off", ErrCorrupt)
	}
	return n, value[size:], nil
}
