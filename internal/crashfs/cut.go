package crashfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// Cut says what of the unsynced survives a power cut; the zero value: nothing does.
type Cut struct {
	// Keep is the probability that a sector of an unsynced write, a resize or a
	// change of names survives.
	Keep float64
	// Sector is the size in which data survives or not. 512.
	Sector int
	// Ordered keeps the oldest changes of names only, as a journal does; else any.
	Ordered bool
	// Names, if set, says which of the pending changes of names survive, by their number
	// from 0, in the order they were made.
	Names func(i int) bool
	// Stale shows old bytes of other files where a file became longer and the data
	// did not survive; else zeros.
	Stale bool
	// Seed of the choices above.
	Seed uint64
}

// Cut returns the disk that a power cut now would leave. The disk itself goes on.
func (d *Disk) Cut(o Cut) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o.Sector <= 0 {
		o.Sector = 512
	}
	c := cutter{Cut: o, disk: d.clone(), rng: rand.New(rand.NewPCG(o.Seed, 0x63757473))}
	c.names()
	numbers := slices.Sorted(maps.Keys(c.disk.nodes))
	for _, number := range numbers {
		if n := c.disk.nodes[number]; !n.isDir {
			c.file(number, n)
		}
	}
	c.settle()
	return c.disk
}

// Pending is how many changes of names are not durable.
func (d *Disk) Pending() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.pending)
}

type cutter struct {
	Cut
	disk *Disk
	rng  *rand.Rand
}

func (c *cutter) survives() bool { return c.rng.Float64() < c.Keep }

func (c *cutter) names() {
	for i, change := range c.disk.pending {
		survives := c.survives()
		if c.Names != nil {
			survives = c.Names(i)
		}
		if survives {
			c.disk.keep(change)
		} else if c.Ordered {
			break
		}
	}
	c.disk.pending, c.disk.lost = nil, nil
}

// file makes what survives of its pending changes on disk.
func (c *cutter) file(number uint64, n *node) {
	if len(n.pending) == 0 || c.Keep == 0 {
		return
	}
	was := int64(len(n.kept))
	written := map[int64]bool{} // sectors beyond what was durable, with data
	for _, pending := range n.pending {
		switch {
		case pending.Kind == Write:
			c.write(n, pending, written)
		case c.survives():
			n.kept = change(n.kept, pending)
		}
	}
	if c.survives() { // the size is not the data
		n.kept = change(n.kept, Call{Kind: Resize, Size: max(int64(len(n.kept)), int64(len(n.data)))})
	}
	if c.Stale {
		c.stale(number, n, was, written)
	}
}

// write lets sectors of a write survive.
func (c *cutter) write(n *node, w Call, written map[int64]bool) {
	sector := int64(c.Sector)
	for at := w.Offset; at < w.Offset+int64(len(w.Data)); {
		end := min((at/sector+1)*sector, w.Offset+int64(len(w.Data)))
		if c.survives() {
			n.kept = change(n.kept, Call{Kind: Write, Offset: at, Data: w.Data[at-w.Offset : end-w.Offset]})
			written[at/sector] = true
		}
		at = end
	}
}

// stale fills what is beyond the durable size and has no data with bytes that are on
// the disk at the same place of another file.
func (c *cutter) stale(number uint64, n *node, was int64, written map[int64]bool) {
	others := slices.DeleteFunc(slices.Sorted(maps.Keys(c.disk.nodes)), func(o uint64) bool {
		return o == number || c.disk.nodes[o].isDir || len(c.disk.nodes[o].kept) == 0
	})
	if len(others) == 0 {
		return
	}
	sector := int64(c.Sector)
	for at := was; at < int64(len(n.kept)); at = (at/sector + 1) * sector {
		end := min((at/sector+1)*sector, int64(len(n.kept)))
		other := c.disk.nodes[others[c.rng.IntN(len(others))]].kept
		if !written[at/sector] && at < int64(len(other)) {
			copy(n.kept[at:end], other[at:])
		}
	}
}

// settle shows what is on disk, and forgets what no name leads to.
func (c *cutter) settle() {
	reached := map[uint64]bool{}
	var reach func(number uint64)
	reach = func(number uint64) {
		n := c.disk.nodes[number]
		n.links++
		if reached[number] {
			return
		}
		reached[number] = true
		for _, to := range n.keptNames {
			reach(to)
		}
	}
	for _, n := range c.disk.nodes {
		n.links = 0
	}
	reach(rootNode)
	c.disk.used = 0
	for number, n := range c.disk.nodes {
		if !reached[number] {
			delete(c.disk.nodes, number)
			continue
		}
		n.pending = nil
		n.data, n.names = slices.Clone(n.kept), maps.Clone(n.keptNames)
		c.disk.used += int64(len(n.data))
	}
}
