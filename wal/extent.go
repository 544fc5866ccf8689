package wal

// Extent is what one segment holds. One without records has First = Last+1.
type Extent struct {
	First, Last LSN   // Last: of what is durable
	Bytes       int64 // of its file
	Sealed      bool  // nothing more comes
}

// Extents are those of the segments kept, in order. The last one is not sealed.
func (l *Log) Extents() []Extent {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := len(l.mu.segments) - 1
	extents := make([]Extent, 0, last+1)
	for i, s := range l.mu.segments {
		extents = append(extents, Extent{First: s.base, Last: s.end.last, Bytes: s.end.offset, Sealed: i < last})
	}
	return extents
}

// MaxBytes is Options.MaxBytes, with its default filled in.
func (l *Log) MaxBytes() int64 { return l.o.MaxBytes }

// MinFree is Options.MinFree, with its default filled in; -1: no floor.
func (l *Log) MinFree() int64 { return l.o.MinFree }

// History returns where the incarnations began that hold the durable records
// from low to high, in order: what Contains would need to place a point between
// them, for when the log has freed them. What the log does not know any more is
// left out.
func (l *Log) History(low, high LSN) (begins []Point) {
	for i, in := range l.incarnations {
		if in.first <= high && (i+1 == len(l.incarnations) || l.incarnations[i+1].first > low) {
			begins = append(begins, Point{Incarnation: in.id, LSN: in.first})
		}
	}
	return begins
}
