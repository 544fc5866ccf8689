package replay

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"
	"go.uber.org/zap"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// laneMap says which lane a key belongs to: that of its collection's group, all
// keys alike, else that of its hash among the lanes of its collection's class.
type laneMap struct {
	classes []state.LaneClass // the first is of all without one
	places  func(collection string) state.LanePlace
}

func (m laneMap) of(collection string, key *walproxyv1.Key) int {
	return m.place(collection).lane(mutation.Hash(collection, key))
}

// place is where the keys of one collection go: to lanes first, first+1, ...
type place struct {
	first int
	lanes uint64
	fixed int // the lane of them all, or -1
}

func (m laneMap) place(collection string) place { return m.placed(m.places(collection)) }

func (m laneMap) placed(said state.LanePlace) place {
	at := place{fixed: -1}
	for _, class := range m.classes {
		if class.Name == said.Class {
			at.lanes = uint64(class.Lanes)
			break
		}
		at.first += class.Lanes
	}
	if said.Group != "" {
		at.fixed = at.first + int(xxhash.Sum64String(said.Group)%at.lanes)
	}
	return at
}

// lane of a key with this mutation.Hash.
func (at place) lane(hash uint64) int {
	if at.fixed >= 0 {
		return at.fixed
	}
	return at.first + int(hash%at.lanes)
}

func total(classes []state.LaneClass) (lanes int) {
	for _, class := range classes {
		lanes += class.Lanes
	}
	return lanes
}

func even(c sinks.Checkpoint) bool {
	return !slices.ContainsFunc(c.Lanes, func(p sinks.Point) bool { return p != c.Lanes[0] })
}

// storedMap is the lane map by which the sink's checkpoint came about. Where all
// lanes are at one point any map says the same: the lanes are switched at the
// sink first, the new map is stored then, and lanes move after that.
func (l *Loop) storedMap(c sinks.Checkpoint) (laneMap, error) {
	var err error
	if l.lanes.stored, err = l.state.LaneMap(l.o.Name); err != nil {
		return laneMap{}, &HaltError{Sink: l.o.Name, Err: err}
	}
	if claim, _, err := l.state.Claim(l.o.Name); err != nil {
		return laneMap{}, &HaltError{Sink: l.o.Name, Err: err}
	} else if claim.Rebuilt && !even(c) && (l.places() || len(l.o.Classes) > 0) {
		return laneMap{}, &ResumeError{Sink: l.o.Name, Err: ErrLaneMapLost,
			Found: fmt.Sprintf("the state store was rebuilt; its checkpoint has %d lanes at different points, and which of them holds which collection is not known any more", len(c.Lanes)),
			Next:  fmt.Sprintf("restore the state store from a backup, or run `walproxy sink accept %s --after LSN`, naming the LSN up to which the store has this log", l.o.Name)}
	}
	stored := l.lanes.stored
	stored.Places = maps.Clone(stored.Places)
	return laneMapOf(l.o.Name, c, stored)
}

// mustRelane reports whether lanes are at different points of a map that may not
// be the one to go on with, or are not as many.
func (l *Loop) mustRelane(c sinks.Checkpoint) bool {
	if len(c.Lanes) != l.o.total() {
		return true
	}
	same := slices.Equal(l.lanes.stored.Classes, l.o.classes()) && len(l.lanes.stored.Places) == 0 && !l.places()
	return !same && !even(c)
}

// places reports whether collections may be placed apart.
func (l *Loop) places() bool { return l.o.LaneKey != nil || l.o.OwnLanes != nil || l.linker != nil }

// nextMap is the lane map from now on. All lanes are at one point: what was
// stored of the map before means nothing any more.
func (l *Loop) nextMap() (laneMap, error) {
	l.lanes.Lock()
	defer l.lanes.Unlock()
	stored := &l.lanes.stored
	before, classes := len(stored.Places), stored.Classes
	maps.DeleteFunc(stored.Places, func(collection string, at state.LanePlace) bool {
		said, err := l.sayLocked(collection)
		return err != nil || said != at
	})
	stored.Classes = l.o.classes()
	if len(stored.Places) != before || !slices.Equal(stored.Classes, classes) {
		if err := l.state.PutLaneMap(l.o.Name, *stored); err != nil {
			return laneMap{}, &HaltError{Sink: l.o.Name, Err: err}
		}
	}
	// From here on the map is known again.
	if _, err := l.state.ChangeClaim(l.o.Name, func(c *state.Claim) { c.Rebuilt = false }); err != nil {
		return laneMap{}, &HaltError{Sink: l.o.Name, Err: err}
	}
	m := laneMap{classes: stored.Classes, places: func(collection string) state.LanePlace {
		l.lanes.Lock()
		defer l.lanes.Unlock()
		return l.lanes.stored.Places[collection]
	}}
	if m.classes == nil {
		m.classes = []state.LaneClass{{Lanes: l.o.Lanes}}
	}
	return m, nil
}

// sayLocked is what options and sink say about a collection. lanes is locked, so
// that they are asked one call at a time.
func (l *Loop) sayLocked(collection string) (at state.LanePlace, err error) {
	if l.o.LaneKey != nil {
		at.Group = l.o.LaneKey(collection)
	}
	if at.Group == "" && l.linker != nil {
		at.Group = l.linker.LaneGroup(collection)
	}
	if l.o.OwnLanes != nil {
		at.Class = l.o.OwnLanes(collection)
	}
	if at.Class != "" && !slices.ContainsFunc(l.o.Classes, func(c Class) bool { return c.Name == at.Class }) {
		return at, fmt.Errorf("collection %q is to have lanes of class %q, which Options.Classes lacks", collection, at.Class)
	}
	return at, nil
}

// notePlace makes the place of a collection durable before a lane is chosen by
// it: after a crash the checkpoint is read by the same map. A group is of the
// class of its first collection.
func (l *Loop) notePlace(collection string) error {
	if !l.places() {
		return nil
	}
	l.lanes.Lock()
	defer l.lanes.Unlock()
	at, err := l.sayLocked(collection)
	if err != nil {
		return &HaltError{Sink: l.o.Name, Err: err}
	}
	stored := l.lanes.stored.Places
	known, ok := stored[collection]
	if known == at {
		return nil
	}
	if ok && known.Group == at.Group { // by its group's first collection
		return nil
	}
	for other, is := range stored {
		if at.Group != "" && is.Group == at.Group && is.Class != at.Class {
			l.logger.Warn("a collection shares a lane, and with it the class, of another one",
				zap.String("collection", collection), zap.String("with", other), zap.String("class", is.Class))
			at.Class = is.Class
			break
		}
	}
	stored[collection] = at
	l.logger.Info("a collection has a place of its own",
		zap.String("collection", collection), zap.String("group", at.Group), zap.String("class", at.Class))
	if err := l.state.PutLaneMap(l.o.Name, l.lanes.stored); err != nil {
		return &HaltError{Sink: l.o.Name, Err: err}
	}
	return nil
}
