package wal

import (
	"bytes"
	"runtime"
)

const (
	// strideMost is how far the second one of two skimmers begins before the first:
	// long enough for a goroutine to cost nothing, and short enough for little to be
	// verified in vain behind the last frame.
	strideMost = 2 << 20
	// strides is how often at least a file is divided, so that a small one is, too.
	strides   = 8
	strideMin = 256
)

// tandem verifies frames of a mapped file on two processors: while one goes on from
// where everything is good, the other begins a stride further on, at the next frame
// whose header verifies. What it passed counts only if the first one comes to just
// that frame: then one alone would have passed the same.
type tandem struct {
	*skimmer
	stride int64
	alone  bool // there is one processor
}

func (k *skimmer) tandem() *tandem {
	stride := min(max(int64(len(k.b))/strides, strideMin), strideMost)
	return &tandem{k, stride, runtime.GOMAXPROCS(0) == 1}
}

// passing is what a pass made of it.
type passing struct {
	end     segmentEnd
	durable LSN
	n       Tally
	intact  bool
}

func (p *passing) add(o passing) {
	if o.n != (Tally{}) {
		p.end, p.durable = o.end, o.durable
		p.n.add(o.n)
	}
	p.intact = o.intact
}

// pass moves sc over good records to the last one, if none between is anything else;
// see skimmer.pass. If what is mapped is not intact it returns what it passed before.
func (d *tandem) pass(sc *scanner) (p passing) {
	for {
		second := d.second(sc)
		if second == nil {
			first := d.one(sc, 2*d.stride, ^LSN(0))
			p.add(first)
			if !first.intact || first.n.Verified < 2*d.stride {
				return p
			}
			continue
		}
		offset, next := second.offset, second.next
		done := make(chan passing, 1)
		go func() { done <- d.one(second, d.stride, ^LSN(0)) }()
		p.add(d.one(sc, offset-sc.offset, next-1))
		ahead := <-done
		if !p.intact || sc.offset != offset || sc.next != next {
			return p // whoever looks at what is there sees whether it is damage
		}
		p.add(ahead)
		sc.offset, sc.next = second.offset, second.next
		if !ahead.intact || ahead.n.Verified < d.stride {
			return p
		}
	}
}

func (d *tandem) one(sc *scanner, bytesMax int64, stop LSN) (p passing) {
	p.end, p.durable, p.n, p.intact = d.skimmer.pass(sc, bytesMax, stop)
	return p
}

// second is a scanner at the first frame that is a stride or more behind sc, but not
// two; nil: there is none.
func (d *tandem) second(sc *scanner) (second *scanner) {
	if d.alone {
		return nil
	}
	d.guarded(func() { // a fault is found again by who comes there
		b := d.b[:min(sc.limit, int64(len(d.b)))]
		at := sc.offset + d.stride
		until := min(at+d.stride, int64(len(b))-frameHeaderSize)
		for at < until {
			i := bytes.Index(b[at:until], magicBytes)
			if i < 0 {
				return
			}
			at += int64(i)
			h, err := sc.seed.parse(b[at:], at)
			if err == nil && h.kind == kindRecord && h.lsn > sc.next {
				prefix := int64(sc.layout.prefixLen(frameHeaderSize + int(h.length)))
				if at-prefix > sc.offset {
					second = &scanner{layout: sc.layout, seed: sc.seed, limit: sc.limit, offset: at - prefix, next: h.lsn}
				}
				return
			}
			at++
		}
	})
	return second
}
