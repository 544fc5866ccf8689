package replay

import (
	"fmt"
	"slices"
	"strings"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// Count is a number of records, and their size in the log.
type Count struct {
	Records uint64
	Bytes   int64
}

func (c *Count) add(bytes int) {
	c.Records++
	c.Bytes += int64(bytes)
}

// Survey counts what a sink at a checkpoint has to get of a log, without a loop.
// Not for concurrent use.
type Survey struct {
	// All of it, and Lanes of it: of each lane of the checkpoint. What several lanes
	// share, or none has, is in Together.
	All, Together Count
	Lanes         []Count
	// Collections of it, by name; a record that writes to several counts for each. At
	// most surveyCollections; what else there is counts as Others.
	Collections map[string]*Count
	Others      Count
	// Oldest is when the first of it was accepted; zero: there is none.
	Oldest time.Time
	// Broken are the first records that cannot be decoded: a loop halts at each.
	Broken []DecodeError

	sink    string
	at      []wal.LSN // per lane
	only    map[string]bool
	by      laneMap
	outline mutation.Outline
}

const (
	surveyCollections = 1000
	surveyBroken      = 10
)

// NewSurvey makes a survey of a sink whose lanes are at these LSNs, and divided as
// the state store knows (of which collections that it does not know have no place
// of their own). only, unless it is empty, names the collections that count.
func NewSurvey(sink string, lanes []wal.LSN, stored state.LaneMap, only []string) *Survey {
	s := &Survey{Lanes: make([]Count, len(lanes)), Collections: map[string]*Count{}, sink: sink, at: lanes}
	points := make([]sinks.Point, len(lanes))
	s.by, _ = laneMapOf(sink, sinks.Checkpoint{Lanes: points}, stored) // at one point: any map says the same
	if len(only) > 0 {
		s.only = map[string]bool{}
		for _, name := range only {
			s.only[name] = true
		}
	}
	return s
}

// Add counts a record of the log, in the order of the log. own says that it is the
// sink's, whatever its routes say, because it is held for it.
func (s *Survey) Add(lsn wal.LSN, payload []byte, own bool) {
	if s.outline.Read(payload) {
		if own || s.outline.Routed(s.sink) {
			lane := s.by.place(s.outline.Collection).lane(mutation.HashEncoded(s.outline.Key))
			s.count(lsn, len(payload), lane, s.outline.Accepted, s.outline.Collection)
		}
		return
	}
	body, err := mutation.Decode(payload)
	if err != nil {
		if len(s.Broken) < surveyBroken {
			s.Broken = append(s.Broken, DecodeError{LSN: lsn, Sink: s.sink, Err: err})
		}
		return
	}
	if !own && !slices.Contains(body.GetRoutes(), s.sink) {
		return
	}
	lane, alone := -1, body.GetOrigin().GetSink() == s.sink
	var collections []string
	mutation.Keys(body, func(collection string, key *walproxyv1.Key) {
		of := s.by.of(collection, key)
		alone = alone || lane >= 0 && of != lane
		lane = of
		if !slices.Contains(collections, collection) {
			collections = append(collections, collection)
		}
	})
	if alone {
		lane = -1
	}
	s.count(lsn, len(payload), lane, body.GetAcceptedUnixNanos(), collections...)
}

// count counts a record of a lane; -1: of several, or of none.
func (s *Survey) count(lsn wal.LSN, bytes, lane int, accepted int64, collections ...string) {
	if lane >= 0 && lsn <= s.at[lane] || lane < 0 && lsn <= slices.Min(s.at) {
		return
	}
	if s.only != nil && !slices.ContainsFunc(collections, func(c string) bool { return s.only[c] }) {
		return
	}
	s.All.add(bytes)
	if lane >= 0 {
		s.Lanes[lane].add(bytes)
	} else {
		s.Together.add(bytes)
	}
	if s.Oldest.IsZero() {
		s.Oldest = time.Unix(0, accepted).UTC()
	}
	for _, name := range collections {
		if s.only != nil && !s.only[name] {
			continue
		}
		of := s.Collections[name]
		switch {
		case of == nil && len(s.Collections) >= surveyCollections:
			of = &s.Others
		case of == nil:
			of = &Count{}
			s.Collections[strings.Clone(name)] = of // it may share the payload's memory
		}
		of.add(bytes)
	}
}

// laneMapOf is the lane map by which a checkpoint came about, of what the state
// store knows. Where all lanes are at one point any map says the same.
func laneMapOf(sink string, c sinks.Checkpoint, stored state.LaneMap) (laneMap, error) {
	m := laneMap{classes: stored.Classes}
	if m.classes == nil {
		m.classes = []state.LaneClass{{Lanes: len(c.Lanes)}}
	}
	places := stored.Places
	if total(m.classes) != len(c.Lanes) {
		if !even(c) {
			return laneMap{}, &HaltError{Sink: sink, Err: fmt.Errorf(
				"its checkpoint has %d lanes at different points, and the state store knows of %d", len(c.Lanes), total(m.classes))}
		}
		m.classes, places = []state.LaneClass{{Lanes: len(c.Lanes)}}, nil
	}
	m.places = func(collection string) state.LanePlace { return places[collection] }
	return m, nil
}
