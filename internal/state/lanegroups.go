package state

import (
	"fmt"
	"maps"
	"slices"
)

// LaneGroups returns which collections of a sink share lanes, by the name of
// their group, as it was put last; empty if it never was.
func (s *Store) LaneGroups(sink string) (groups map[string]string, err error) {
	groups = map[string]string{}
	err = s.use(func() error {
		value, found, err := s.get(laneGroupsKey(sink))
		if err != nil || !found {
			return err
		}
		if groups, err = decodeLaneGroups(value); err != nil {
			return fmt.Errorf("lane groups of sink %q: %w", sink, err)
		}
		return nil
	})
	return groups, err
}

// PutLaneGroups stores groups, durably.
func (s *Store) PutLaneGroups(sink string, groups map[string]string) error {
	return s.use(func() error {
		b := s.db.NewBatch()
		defer b.Close()
		if err := b.Set(laneGroupsKey(sink), encodeLaneGroups(groups), nil); err != nil {
			return err
		}
		return s.commit(b)
	})
}

func laneGroupsKey(sink string) []byte { return append([]byte{'g'}, sink...) }

// The value: collection and group, each after its length (uvarint), in the order
// of the collections.
func encodeLaneGroups(groups map[string]string) (value []byte) {
	for _, collection := range slices.Sorted(maps.Keys(groups)) {
		value = appendPiece(appendPiece(value, []byte(collection)), []byte(groups[collection]))
	}
	return value
}

func decodeLaneGroups(value []byte) (map[string]string, error) {
	groups := map[string]string{}
	for len(value) > 0 {
		collection, rest, err := takePiece(value)
		if err != nil {
			return nil, err
		}
		group, rest, err := takePiece(rest)
		if err != nil {
			return nil, err
		}
		groups[string(collection)] = string(group)
		value = rest
	}
	return groups, nil
}
