package wal

import "sync"

const (
	ringChunkSize  = 1 << 20
	ringEntryExtra = 4 // the payload's length
)

// ring keeps the newest durable records in memory, within a fixed number of
// bytes, as rows of length and payload. Its records are always the log's last
// ones, without gaps.
type ring struct {
	mu     sync.RWMutex
	limit  int
	size   int          // capacity of all chunks
	chunks []*ringChunk // oldest first
	nextID uint64
}

// ringChunk holds records first, first+1, ...
type ringChunk struct {
	id    uint64
	first LSN
	count int
	data  []byte // its capacity never changes
}

// ringCursor is where a reader is.
type ringCursor struct {
	lsn    LSN // next one
	chunk  uint64
	offset int
}

// end is the LSN after the newest; only with at least one chunk.
func (r *ring) end() LSN {
	c := r.chunks[len(r.chunks)-1]
	return c.first + LSN(c.count)
}

// add appends the records of a group: payloads are cut out of frames that end
// at ends. One that does not fit empties the ring: readers go to the file.
func (r *ring) add(first LSN, b []byte, ends []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	start := 0
	for i, end := range ends {
		r.push(first+LSN(i), b[start+frameHeaderSize:end])
		start = end
	}
}

func (r *ring) push(lsn LSN, payload []byte) {
	need := len(payload) + ringEntryExtra
	var c *ringChunk
	if n := len(r.chunks); n > 0 {
		c = r.chunks[n-1]
	}
	if c == nil || cap(c.data)-len(c.data) < need {
		if c = r.grow(need); c == nil {
			r.chunks, r.size = nil, 0
			return
		}
		c.first = lsn
		r.chunks = append(r.chunks, c)
	}
	c.data = le.AppendUint32(c.data, uint32(len(payload)))
	c.data = append(c.data, payload...)
	c.count++
}

// grow returns an empty chunk for need bytes, evicting the oldest; nil if need
// is more than all of it.
func (r *ring) grow(need int) *ringChunk {
	size := max(need, min(ringChunkSize, r.limit/4))
	if size > r.limit {
		return nil
	}
	r.nextID++
	for r.size+size > r.limit {
		old := r.chunks[0]
		r.chunks[0] = nil
		r.chunks = r.chunks[1:]
		r.size -= cap(old.data)
		if cap(old.data) == size {
			r.size += size
			return &ringChunk{id: r.nextID, data: old.data[:0]}
		}
	}
	r.size += size
	return &ringChunk{id: r.nextID, data: make([]byte, 0, size)}
}

// covers reports whether lsn is in the ring; safely if it is in the newer half,
// where a reader that leaves its file for the ring is not overtaken at once.
func (r *ring) covers(lsn LSN, safely bool) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := len(r.chunks)
	if n == 0 || lsn >= r.end() {
		return false
	}
	oldest := r.chunks[0]
	if safely {
		oldest = r.chunks[n/2]
	}
	return lsn >= oldest.first
}

// read appends entries from c.lsn on to dst, at most up to limit and about max
// bytes but at least one, and moves c. It returns dst as it was if the ring does
// not have c.lsn.
func (r *ring) read(c *ringCursor, limit LSN, dst []byte, max int) []byte {
	r.mu.RLock()
	defer r.mu.RUnlock()
	chunk := r.seek(c)
	if chunk == nil {
		return dst
	}
	end := c.offset
	for c.lsn <= limit && end < len(chunk.data) {
		size := ringEntryExtra + int(le.Uint32(chunk.data[end:]))
		if end > c.offset && end-c.offset+size > max {
			break
		}
		end += size
		c.lsn++
	}
	dst = append(dst, chunk.data[c.offset:end]...)
	c.offset = end
	return dst
}

// seek finds the chunk of c.lsn and c's offset in it.
func (r *ring) seek(c *ringCursor) *ringChunk {
	if len(r.chunks) == 0 || c.lsn < r.chunks[0].first || c.lsn >= r.end() {
		return nil
	}
	at := len(r.chunks) - 1
	for r.chunks[at].first > c.lsn {
		at--
	}
	chunk := r.chunks[at]
	if chunk.id == c.chunk {
		return chunk
	}
	c.chunk, c.offset = chunk.id, 0
	for range c.lsn - chunk.first {
		c.offset += ringEntryExtra + int(le.Uint32(chunk.data[c.offset:]))
	}
	return chunk
}
