package powerfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// CutOptions say what of the unsynced survives; the zero value: nothing does.
type CutOptions struct {
	// Keep is the probability that an unsynced piece of data survives, and the
	// expected part of a directory's unsynced changes that do: a journal keeps
	// them in order, so it is always the oldest that survive.
	Keep float64
	// Granularity is the size in bytes in which data survives or not: 512 (a
	// sector, so that pages tear) or 4096 (default).
	Granularity int
	// Seed of the choices above.
	Seed uint64
}

// Cut is a power cut. When it returns, the live image is what survived and every
// call on the mounts made before it fails with EIO.
func (d *Disk) Cut(o CutOptions) {
	d.mu.Lock()
	defer d.mu.Unlock()
	rng := rand.New(rand.NewPCG(o.Seed, 0x70776572))
	lost := map[uint64]bool{}
	for _, ino := range slices.Sorted(maps.Keys(d.mu.nodes)) {
		n := d.mu.nodes[ino]
		n.lookups = 0
		if n.isDir() {
			keepChanges(n, o, rng, lost)
		} else {
			cutFile(n, o, rng)
		}
	}
	d.keepMoved(lost)
	for _, n := range d.mu.nodes {
		if n.isDir() {
			n.pending = nil
			n.live.names = maps.Clone(n.durable.names)
		}
	}
	d.mu.epoch++
	d.mu.stats.Cuts++
	d.sweep()
	d.recount()
}

// keepChanges makes the changes that survive durable and notes in lost what
// lost a name by it.
func keepChanges(n *node, o CutOptions, rng *rand.Rand, lost map[uint64]bool) {
	kept := 0
	for range n.pending {
		if rng.Float64() < o.Keep {
			kept++
		}
	}
	for _, c := range n.pending[:kept] {
		for name, ino := range c {
			lost[n.durable.names[name]] = true
			if ino == 0 {
				delete(n.durable.names, name)
			} else {
				n.durable.names[name] = ino
			}
		}
	}
}

// keepMoved gives what lost its last name its live ones: a rename from one
// directory to another does not survive by half.
func (d *Disk) keepMoved(lost map[uint64]bool) {
	for _, n := range d.mu.nodes {
		for _, ino := range n.durable.names {
			delete(lost, ino)
		}
	}
	for ino := range lost {
		d.syncEntriesOf(ino)
	}
}

// cutFile makes the live data what survived.
func cutFile(n *node, o CutOptions, rng *rand.Rand) {
	if o.Keep > 0 {
		for _, i := range slices.Sorted(maps.Keys(n.dirty)) {
			keepPage(n, i, o, rng)
		}
		n.durable.size = keptSize(n, o, rng)
	}
	clear(n.dirty)
	trim(&n.durable)
	n.live.pages, n.live.size = maps.Clone(n.durable.pages), n.durable.size
}

// keepPage puts the pieces of dirty page i that survive into the durable image.
func keepPage(n *node, i int64, o CutOptions, rng *rand.Rand) {
	piece := o.Granularity
	if piece <= 0 || piece > pageSize {
		piece = pageSize
	}
	var mixed, live page
	if p := n.durable.pages[i]; p != nil {
		mixed = *p
	}
	if p := n.live.pages[i]; p != nil {
		live = *p
	}
	changed := false
	for at := 0; at < pageSize; at += piece {
		if rng.Float64() < o.Keep {
			copy(mixed[at:min(at+piece, pageSize)], live[at:])
			changed = true
		}
	}
	if changed {
		n.durable.pages[i] = &mixed
	}
}

// keptSize is the new size, the old one, or something in between.
func keptSize(n *node, o CutOptions, rng *rand.Rand) int64 {
	was, is := n.durable.size, n.live.size
	switch {
	case was == is || rng.Float64() < o.Keep:
		return is
	case rng.Float64() < o.Keep:
		return min(was, is) + rng.Int64N(max(was, is)-min(was, is))
	}
	return was
}

// trim drops what lies beyond the size: a later, longer size shows zeros there.
func trim(im *image) {
	for i, p := range im.pages {
		switch keep := im.size - i*pageSize; {
		case keep <= 0:
			delete(im.pages, i)
		case keep < pageSize:
			short := *p
			clear(short[keep:])
			im.pages[i] = &short
		}
	}
}

// recount sets links, parents and space by the live image.
func (d *Disk) recount() {
	d.mu.stats.Bytes = 0
	for _, n := range d.mu.nodes {
		n.nlink = 0
		d.mu.stats.Bytes += int64(len(n.live.pages)) * pageSize
	}
	d.mu.nodes[rootIno].nlink = 2
	for _, dir := range d.mu.nodes {
		for _, ino := range dir.live.names {
			n := d.mu.nodes[ino]
			n.nlink++
			if n.isDir() {
				n.nlink++
				n.parent = dir.ino
				dir.nlink++
			}
		}
	}
}
