package wal

import (
	"hash/crc32"
	"runtime"
	"runtime/debug"

	"github.com/walproxy/walproxy/internal/vfs"
)

// skimBytes is how much is skimmed before progress is told.
const skimBytes = 4 << 20

// skimmer verifies frames where the file is mapped, without copying them: that
// takes about a third of the time of the scanner. It goes on only over frames
// that the scanner would return; anything else is left to the scanner.
type skimmer struct {
	b     []byte
	unmap func() error
}

// mapped maps a file; nil if it cannot be: it is read the usual way then.
func mapped(file vfs.File, size int64) *skimmer {
	mapper, ok := file.(vfs.Mapper)
	if !ok || size == 0 || int64(int(size)) != size {
		return nil
	}
	b, unmap, err := mapper.Map(int(size))
	if err != nil {
		return nil
	}
	return &skimmer{b, unmap}
}

// close unmaps what was mapped: that does not fail, and would cost nothing but memory.
func (k *skimmer) close() {
	if k != nil {
		_ = k.unmap()
	}
}

// pass moves sc over good records, most of them up to LSN stop, and returns what it
// passed. intact is false if the disk did not give what is mapped: then sc is where
// it was, and reads what there is.
func (k *skimmer) pass(sc *scanner, bytesMax int64, stop LSN) (end segmentEnd, durable LSN, n Tally, intact bool) {
	vfs.Populate(k.b, sc.offset, min(sc.limit, sc.offset+min(bytesMax, sc.limit)))
	intact = k.guarded(func() { end, durable, n = sc.skim(k.b[:min(sc.limit, int64(len(k.b)))], bytesMax, stop) })
	if !intact {
		return end, durable, Tally{}, false
	}
	if n != (Tally{}) {
		sc.offset, sc.next = end.offset, end.last+1
	}
	return end, durable, n, true
}

// guarded is false if the disk did not give what look wanted of what is mapped.
func (k *skimmer) guarded(look func()) (intact bool) {
	defer func(old bool) {
		debug.SetPanicOnFault(old)
		if fault := recover(); fault != nil {
			if _, ok := fault.(runtime.Error); !ok {
				panic(fault)
			}
			intact = false
		}
	}(debug.SetPanicOnFault(true))
	look()
	return true
}

// skimmed passes over good frames, up to LSN stop; false: the caller has had
// enough.
func (sv *survey) skimmed(stop LSN) bool {
	for {
		from, first := sv.sc.offset, sv.sc.next
		ok := sv.skimSome(stop)
		if sv.sc.offset > from {
			sv.told = max(sv.told, sv.sc.next-1)
			sv.skipped(first, sv.sc.next-1)
			if sv.progress != nil {
				sv.progress(sv.sc.offset - from)
			}
		}
		if sv.done() != nil {
			sv.stopped = true
			return false
		}
		if !ok {
			return true
		}
	}
}

// skimSome is false if the scanner has to look.
func (sv *survey) skimSome(stop LSN) (more bool) {
	end, _, n, intact := sv.skim.pass(sv.sc, skimBytes, stop)
	if !intact {
		sv.skim = nil
		return false
	}
	if n == (Tally{}) {
		return false
	}
	sv.end = end
	sv.tally.add(n)
	return n.Verified >= skimBytes
}

// skim verifies records of b, the file up to the limit, from s.offset on: most of
// them up to LSN stop; durable is what the last one says was durable. What it does
// not pass is not bad for that.
func (s *scanner) skim(b []byte, bytesMax int64, stop LSN) (end segmentEnd, durable LSN, n Tally) {
	const kindAt, magicAndVersion = 5, uint64(frameMagic) | frameVersion<<32
	offset, next := s.offset, s.next
	from := offset
	likeLast, prefixOf := int64(-1), 0 // records of one size have one prefix
	for next <= stop && offset-from < bytesMax && offset+maxPrefix+frameHeaderSize <= int64(len(b)) {
		prefix, claim, err := s.layout.prefix(b[offset : offset+maxPrefix])
		start := offset + int64(prefix)
		if err != nil || start+frameHeaderSize > int64(len(b)) {
			break
		}
		h := b[start : start+frameHeaderSize]
		crc := le.Uint32(h[frameHeaderChecked:])
		if le.Uint64(h)&(1<<40-1) != magicAndVersion || h[kindAt] != byte(kindRecord) || s.seed.frameCRC(h, start) != crc {
			break
		}
		size := frameHeaderSize + int64(le.Uint32(h[24:]))
		if size != likeLast {
			likeLast, prefixOf = size, s.layout.prefixLen(int(size))
		}
		if LSN(le.Uint64(h[8:])) != next || LSN(le.Uint64(h[16:])) >= next || start+size > int64(len(b)) ||
			claim >= 0 && claim != size || prefix != prefixOf ||
			crc32.Checksum(b[start+frameHeaderSize:start+size], castagnoli) != le.Uint32(h[28:]) {
			break
		}
		offset = start + size
		end, durable = segmentEnd{offset, next, crc}, LSN(le.Uint64(h[16:]))
		next++
		n.Records++
		n.Payload += size - frameHeaderSize
	}
	n.Verified = offset - from
	return end, durable, n
}
