package pebble

import "github.com/walproxy/walproxy/internal/pebblekit"

// Metrics is a snapshot of what the store uses.
type Metrics struct {
	DiskBytes     int64  // all files, obsolete ones that are not removed yet too
	CacheBytes    int64  // block cache
	MemTableBytes int64  // all memtables
	Compactions   int64  // since Open
	Flushes       int64  // since Open
	Expired       uint64 // records removed because they had expired, since Open
}

// Metrics returns a snapshot, zero after Close or a failure of the store.
func (s *Sink) Metrics() (m Metrics) {
	leave, err := s.enter()
	if err != nil {
		return Metrics{}
	}
	defer leave()
	defer func() {
		if err != nil {
			m = Metrics{}
		}
	}()
	defer pebblekit.Catch(&err)
	p := s.db.Metrics()
	m = Metrics{
		DiskBytes:     int64(p.DiskSpaceUsage()),
		CacheBytes:    p.BlockCache.Size,
		MemTableBytes: int64(p.MemTable.Size),
		Compactions:   p.Compact.Count,
		Flushes:       p.Flush.Count,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Expired = s.sweep.removed
	return m
}

// Bytes is the store's size on disk, zero after Close or a failure of the store.
func (s *Sink) Bytes() int64 { return s.Metrics().DiskBytes }
