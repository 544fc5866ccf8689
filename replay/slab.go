package replay

import "strings"

// slabSize is how much memory a lane takes at once for the payloads it queues.
const slabSize = 64 << 10

// slab keeps payloads one behind the other, so that each need not be an
// allocation. Its lane is done with them in the same order.
type slab struct {
	size    int
	builder strings.Builder
}

// copy returns payload as a string of its own.
func (s *slab) copy(payload []byte) string {
	if len(payload) > s.size/4 {
		return string(payload)
	}
	b := &s.builder
	if b.Cap()-b.Len() < len(payload) {
		b.Reset() // the strings made of it stay as they are
		b.Grow(s.size)
	}
	start := b.Len()
	b.Write(payload)
	return b.String()[start:]
}
