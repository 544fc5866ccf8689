package aerospike

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walproxy/walproxy/sinks"
)

// Where nodes are killed more often than anything settles by its age, something else
// says that it has settled. A node that starts has what is on its disk and nothing
// else. So of a cluster of one node: what was acknowledged before it was started, and
// is found to be there when it is applied again, is on its disk. It need not be applied
// a third time. What had to be written again is as new as its answer, and so may be what
// comes behind it.
//
// Nothing of that is known of several nodes, which give each other what they have in
// memory, nor by a process that was not there before the start.

// proof is what one claim finds out about what was acknowledged before the node's start.
type proof struct {
	until sinks.LSN     // acknowledged before the start
	lost  atomic.Uint64 // LSN: the lowest that was written again, or may have been
}

func newProof(until sinks.LSN) *proof {
	p := &proof{until: until}
	p.lost.Store(math.MaxUint64)
	return p
}

// wrote says that what begins with an LSN was sent and not kept out. Nil is no proof.
func (p *proof) wrote(first sinks.LSN) {
	if p == nil {
		return
	}
	for {
		lost := p.lost.Load()
		if uint64(first) >= lost || p.lost.CompareAndSwap(lost, uint64(first)) {
			return
		}
	}
}

// sightTime is how long samples are kept apart from the last before it: a node says its
// age in whole seconds, so that its start is known that well.
const sightTime = 3 * time.Second

// maxPoints bounds what a proof may end at.
const maxPoints = 512

// sighted keeps where the lanes of a claim were at some time.
func (o *owner) sighted(claimed *state, at sample) {
	o.mu.Lock()
	defer o.mu.Unlock()
	m := &o.mu
	if m.state.Claim != claimed.Claim {
		return
	}
	m.sights = append(m.sights, at)
	for len(m.sights) > 1 && !m.sights[1].taken.After(at.taken.Add(-sightTime)) {
		m.sights = m.sights[1:]
	}
	m.points = withPoint(m.points, at.low, m.settled)
}

// withPoint is points, in order, with one more and without those up to settled, which no
// state record that is lost can bring back.
func withPoint(points []sinks.Point, p sinks.Point, settled sinks.LSN) []sinks.Point {
	byLSN := func(a sinks.Point, lsn sinks.LSN) int { return cmp.Compare(a.LSN, lsn) }
	if i, is := slices.BinarySearchFunc(points, p.LSN, byLSN); !is && p.LSN > settled {
		points = slices.Insert(points, i, p)
	}
	first, _ := slices.BinarySearchFunc(points, settled+1, byLSN)
	points = slices.Delete(points, 0, first)
	if len(points) > maxPoints { // every second of the older ones will do
		n := 0
		for i := 1; i < len(points); i++ {
			if i%2 == 0 || i > maxPoints/2 {
				points[n] = points[i]
				n++
			}
		}
		points = points[:n]
	}
	return points
}

// restarted is what is known of the start that found shows, if it is the one of the only
// node that there was and is: how far everything was acknowledged before it, and whether
// the state record that was read behind it, stored, is on the disk. The caller has mu.
func (o *owner) restartedLocked(found nodes, stored *state) (until sinks.LSN, kept bool) {
	mine := o.mu.state
	if mine == nil || len(found) != 1 || len(mine.Nodes) != 1 {
		return 0, false
	}
	for name, n := range found { // the one
		if was, ok := mine.Nodes[name]; !ok || !was.alone || !n.alone || o.sink.strays.since(n.after) {
			return 0, false
		}
		for _, s := range o.mu.sights {
			if !s.taken.After(n.after) {
				until = max(until, s.low.LSN)
			}
		}
		kept = stored != nil && stored.generation == mine.generation && stored.Claim == mine.Claim && !o.mu.saved.After(n.after)
	}
	return until, kept
}

// provenLocked is the highest point that is proven to be on the disk; zero: none is.
func (o *owner) provenLocked() (at sinks.Point) {
	p := o.mu.proof
	if p == nil {
		return at
	}
	reach := min(p.until, o.mu.at.Low().LSN, sinks.LSN(p.lost.Load()-1))
	for _, point := range o.mu.points {
		if point.LSN <= reach {
			at = point
		}
	}
	return at
}

// strays are messages that may change something and whose answer nobody waits for any
// more, though it was waited for in vain: what they carry may have been sent once more
// and acknowledged, and they may reach the node after its start.
type strays struct {
	mu    sync.Mutex
	open  int
	ended time.Time // the last one
}

// begun counts one until the returned function is called.
func (s *strays) begun() (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
		s.ended = time.Now()
	}
}

// since reports whether there was one after t.
func (s *strays) since(t time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open > 0 || s.ended.After(t)
}
