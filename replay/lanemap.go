package replay

import (
	"maps"

	"github.com/cespare/xxhash/v2"
	"go.uber.org/zap"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// laneMap says which lane a key belongs to: that of its collection's group, all
// keys alike, else that of its hash.
type laneMap struct {
	lanes int
	group func(collection string) string // "": none
}

func (m laneMap) of(collection string, key *walproxyv1.Key) int {
	return m.place(collection).lane(mutation.Hash(collection, key))
}

// place is where the keys of one collection go.
type place struct {
	lanes uint64
	fixed int // the lane of them all, or -1
}

func (m laneMap) place(collection string) place {
	at := place{lanes: uint64(m.lanes), fixed: -1}
	if group := m.group(collection); group != "" {
		at.fixed = int(xxhash.Sum64String(group) % at.lanes)
	}
	return at
}

// lane of a key with this mutation.Hash.
func (at place) lane(hash uint64) int {
	if at.fixed >= 0 {
		return at.fixed
	}
	return int(hash % at.lanes)
}

// storedMap is the lane map by which the sink's checkpoint came about.
func (l *Loop) storedMap(c sinks.Checkpoint) (laneMap, error) {
	var err error
	if l.groups, err = l.state.LaneGroups(l.o.Name); err != nil {
		return laneMap{}, &HaltError{Sink: l.o.Name, Err: err}
	}
	stored := maps.Clone(l.groups)
	return laneMap{lanes: len(c.Lanes), group: func(collection string) string { return stored[collection] }}, nil
}

// mustRelane reports whether lanes are at different points of a map that may not
// be the one to go on with.
func (l *Loop) mustRelane(c sinks.Checkpoint) bool {
	if len(c.Lanes) != l.o.Lanes {
		return true
	}
	if len(l.groups) == 0 && !l.links() {
		return false
	}
	for _, p := range c.Lanes {
		if p != c.Lanes[0] {
			return true
		}
	}
	return false
}

// nextMap is the lane map from now on. All lanes are at one point: what was
// stored of the map before means nothing any more.
func (l *Loop) nextMap() (laneMap, error) {
	before := len(l.groups)
	maps.DeleteFunc(l.groups, func(collection, group string) bool { return l.groupOf(collection) != group })
	if len(l.groups) != before {
		if err := l.state.PutLaneGroups(l.o.Name, l.groups); err != nil {
			return laneMap{}, &HaltError{Sink: l.o.Name, Err: err}
		}
	}
	return laneMap{lanes: l.o.Lanes, group: l.groupOf}, nil
}

// links reports whether collections may have groups.
func (l *Loop) links() bool { return l.o.LaneKey != nil || l.linker != nil }

func (l *Loop) groupOf(collection string) (group string) {
	if l.o.LaneKey != nil {
		group = l.o.LaneKey(collection)
	}
	if group == "" && l.linker != nil {
		group = l.linker.LaneGroup(collection)
	}
	return group
}

// noteGroup makes the group of a collection durable before a lane is chosen by
// it: after a crash the checkpoint is read by the same map.
func (l *Loop) noteGroup(collection string) error {
	group := l.groupOf(collection)
	if l.groups[collection] == group {
		return nil
	}
	if l.groups == nil {
		l.groups = map[string]string{}
	}
	l.groups[collection] = group
	l.logger.Info("collections share a lane", zap.Int("collections", len(l.groups)))
	if err := l.state.PutLaneGroups(l.o.Name, l.groups); err != nil {
		return &HaltError{Sink: l.o.Name, Err: err}
	}
	return nil
}
