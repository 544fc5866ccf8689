package aerowire

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/expression"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// scanPage is how many records are read from the store at once, less if they are
// large: about scanPageBytes.
const (
	scanPage      = 256
	scanPageBytes = 2 << 20
)

// scan is a message for all records of a set or namespace.
type scan struct {
	*operation
	// after says which partitions are asked for, and the digest behind which each
	// goes on; empty: from its first record.
	after map[int]string
	left  int64 // records to send; -1: no bound
	bins  []string
}

// scan answers a message that names no record.
func (s *Server) scan(ctx context.Context, m *codec.Message, client string, out *stream) error {
	if s.o.Store != nil {
		return s.frontScan(ctx, m, client, out)
	}
	sc, err := s.newScan(m)
	if err == nil && sc.rawFilter != nil {
		var release func()
		if release, err = s.reserve(ctx, sc.rawFilter); err == nil {
			defer release()
			sc.filter, err = expression.Parse(sc.rawFilter)
		}
	}
	if err == nil {
		err = s.sendScan(ctx, sc, out)
		if err != nil && !isCore(err) {
			return err // the connection's
		}
	}
	if err != nil {
		return refuseScan(m, s.told(err), out)
	}
	return out.last(codec.OK)
}

// refuseScan ends a scan with a result. That a store is away is said of every partition
// that is asked for, as a server says it: clients take the bare result for a record, or,
// at the end, for no error.
func refuseScan(m *codec.Message, r codec.Result, out *stream) error {
	if r != codec.Unavailable {
		return out.refuse(r)
	}
	for _, id := range partitionsOf(m) {
		away := codec.Header{Info3: codec.Info3PartitionDone, Result: r, Generation: uint32(id)}
		out.frame = codec.AppendHeader(out.frame, &away, 0, 0)
		if err := out.full(); err != nil {
			return err
		}
	}
	return out.last(codec.OK)
}

// partitionsOf are the partitions that a scan asks for.
func partitionsOf(m *codec.Message) []int {
	whole, named := m.Field(codec.FieldPartitions)
	partial, resumed := m.Field(codec.FieldDigests)
	var ids []int
	for b := range slices.Chunk(whole, 2) {
		if len(b) == 2 {
			ids = append(ids, int(binary.LittleEndian.Uint16(b)))
		}
	}
	for b := range slices.Chunk(partial, codec.DigestBytes) {
		if len(b) == codec.DigestBytes {
			ids = append(ids, partitionOf(b))
		}
	}
	if !named && !resumed {
		for id := range partitions {
			ids = append(ids, id)
		}
	}
	return ids
}

// coreError is an error of reading, as opposed to one of the connection.
type coreError struct{ error }

func (e coreError) Unwrap() error { return e.error }

func isCore(err error) bool {
	_, ok := errors.AsType[coreError](err)
	return ok
}

func (s *Server) newScan(m *codec.Message) (*scan, error) {
	for _, kind := range []byte{codec.FieldIndexRange, codec.FieldIndexName} {
		if _, indexed := m.Field(kind); indexed {
			return nil, codec.IndexNotFound // there are none
		}
	}
	if _, udf := m.Field(codec.FieldUDFOp); udf || m.Info2&codec.Info2Write != 0 {
		return nil, codec.Unsupported // aggregations and background jobs
	}
	digest := [codec.DigestBytes]byte{}
	o, err := s.operation(m, &digest)
	if err != nil {
		return nil, err
	}
	sc := &scan{operation: o, after: map[int]string{}, left: -1}
	whole, named := m.Field(codec.FieldPartitions)
	partial, resumed := m.Field(codec.FieldDigests)
	if len(whole)%2 != 0 || len(partial)%codec.DigestBytes != 0 {
		return nil, codec.Parameter
	}
	for b := range slices.Chunk(whole, 2) {
		id := int(binary.LittleEndian.Uint16(b))
		if id >= partitions {
			return nil, codec.Parameter
		}
		sc.after[id] = ""
	}
	for b := range slices.Chunk(partial, codec.DigestBytes) {
		sc.after[partitionOf(b)] = string(b)
	}
	if !named && !resumed {
		for id := range partitions {
			sc.after[id] = ""
		}
	}
	if limit, ok := m.Field(codec.FieldMaxRecords); ok {
		if len(limit) != 8 {
			return nil, codec.Parameter
		}
		if n := binary.BigEndian.Uint64(limit); n > 0 && n < 1<<62 {
			sc.left = int64(n)
		}
	}
	for i := range m.Ops {
		if m.Ops[i].Type != codec.OpRead {
			return nil, codec.Unsupported
		}
		if len(m.Ops[i].Name) == 0 {
			return nil, codec.BinName
		}
		sc.bins = append(sc.bins, string(m.Ops[i].Name))
	}
	return sc, nil
}

// sendScan sends every record that sc asks for. Errors of the store are coreError.
//
// Records of all sets together come in the order of their digests: a client goes on, on
// its next page or after a break, behind the last digest that it has of each partition,
// whatever set that was of.
func (s *Server) sendScan(ctx context.Context, sc *scan, out *stream) error {
	page, next := sc.asked()
	var walks []*walk
	err := s.eachCollection(ctx, sc.namespace, sc.set, func(collection string) error {
		walks = append(walks, &walk{collection: collection, next: next})
		return nil
	})
	for _, w := range walks {
		w.page = max(1, page/len(walks))
		w.bytes = scanPageBytes / len(walks)
	}
	if err == nil {
		err = s.merge(ctx, walks, func(collection string, e sinks.Entry) (more bool, err error) {
			if sc.left == 0 {
				return false, nil
			}
			return true, s.sendEntry(ctx, sc, collection, e, out)
		})
	}
	if err == nil && sc.Info3&codec.Info3PartitionDone == 0 {
		err = sc.done(out)
	}
	return err
}

// merge calls f with the records of all walks in the order of their keys, until f says
// that it wants no more.
func (s *Server) merge(ctx context.Context, walks []*walk, f func(collection string, e sinks.Entry) (more bool, err error)) error {
	h := make(walkHeap, 0, len(walks))
	for _, w := range walks {
		ok, err := s.advance(ctx, w)
		if err != nil {
			return err
		}
		if ok {
			h = append(h, w)
		}
	}
	heap.Init(&h)
	for len(h) > 0 {
		w := h[0]
		if more, err := f(w.collection, w.entry); err != nil || !more {
			return err
		}
		ok, err := s.advance(ctx, w)
		switch {
		case err != nil:
			return err
		case ok:
			heap.Fix(&h, 0)
		default:
			heap.Pop(&h)
		}
	}
	return nil
}

// walkHeap has the walk with the least key in front.
type walkHeap []*walk

func (h walkHeap) Len() int { return len(h) }
func (h walkHeap) Less(i, j int) bool {
	return bytes.Compare(h[i].entry.Key.GetBytes(), h[j].entry.Key.GetBytes()) < 0
}
func (h walkHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *walkHeap) Push(x any)   { *h = append(*h, x.(*walk)) }
func (h *walkHeap) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return w
}

// done tells clients that ask for it that every partition is.
func (sc *scan) done(out *stream) error {
	for _, id := range slices.Sorted(maps.Keys(sc.after)) {
		end := codec.Header{Info3: codec.Info3PartitionDone, Generation: uint32(id)}
		out.frame = codec.AppendHeader(out.frame, &end, 0, 0)
		if err := out.full(); err != nil {
			return err
		}
	}
	return nil
}

// eachCollection calls f with every collection of a namespace, or with a set's.
func (s *Server) eachCollection(ctx context.Context, namespace, set string, f func(collection string) error) error {
	if set != "" {
		return f(collectionOf(namespace, set))
	}
	if err := f(namespace); err != nil {
		return err
	}
	prefix := namespace + "."
	for after := strings.TrimSuffix(prefix, "."); ; {
		names, err := s.o.Core.Collections(ctx, namespace, after, scanPage)
		if err != nil {
			return coreError{err}
		}
		for _, name := range names {
			after = name
			if !strings.HasPrefix(name, prefix) {
				if name > prefix {
					return nil
				}
				continue
			}
			if err := f(name); err != nil {
				return err
			}
		}
		if len(names) < scanPage {
			return nil
		}
	}
}

// eachRecord calls f with every record of a collection.
func (s *Server) eachRecord(ctx context.Context, collection string, f func(e sinks.Entry) error) error {
	for w := (&walk{collection: collection, page: scanPage, bytes: scanPageBytes, next: behind}); ; {
		if ok, err := s.advance(ctx, w); !ok || err != nil {
			return err
		}
		if err := f(w.entry); err != nil {
			return err
		}
	}
}

// walk goes through the records of a collection, in the order of their keys.
type walk struct {
	collection string
	page       int // records that are read at once, less if they are large:
	bytes      int // about so many
	// next says after each page where to go on, by the last key: behind it or further
	// on; nil: nowhere.
	next func(last *walproxyv1.Key) *walproxyv1.Key

	entry   sinks.Entry   // where it is
	entries []sinks.Entry // read, and behind entry
	read    int           // of the next page; 0: nothing is read yet
	after   *walproxyv1.Key
	end     bool // nothing is behind entries
}

// advance goes to the next record; ok is false if there is none. Errors are coreError.
func (s *Server) advance(ctx context.Context, w *walk) (ok bool, err error) {
	if w.read == 0 {
		w.read = min(w.page, 16) // until it is known how large records are
	}
	for len(w.entries) == 0 {
		if w.end {
			w.entry = sinks.Entry{}
			return false, nil
		}
		if w.entries, err = s.scanPage(ctx, w.collection, w.after, w.read); err != nil {
			return false, coreError{err}
		}
		if len(w.entries) < w.read {
			w.end = true
			continue
		}
		size := 1
		for _, e := range w.entries {
			size += sizeOf(e.Document)
		}
		w.read = min(w.page, max(1, len(w.entries)*w.bytes/size))
		w.after = w.next(w.entries[len(w.entries)-1].Key)
		w.end = w.after == nil
	}
	w.entry, w.entries = w.entries[0], w.entries[1:]
	return true, nil
}

// behind is where to go on if every record is asked for.
func behind(last *walproxyv1.Key) *walproxyv1.Key { return last }

// scanPage does not wait for a store that is away: it looks whether that is there, as a
// read does, before the first page and whenever one takes long. All that was logged has
// to be applied before a page is read, so that alone says nothing.
func (s *Server) scanPage(ctx context.Context, collection string, after *walproxyv1.Key, limit int) ([]sinks.Entry, error) {
	if !s.o.Remote {
		return s.o.Core.Scan(ctx, collection, "", after, limit)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.o.RequestTimeout, errNotWaited)
	defer cancel()
	look := after == nil
	for patience := patienceMax; ; patience *= 2 {
		if look && s.absent(ctx, collection) {
			return nil, errNotWaited
		}
		within, cancel := context.WithTimeoutCause(ctx, patience, errNotWaited)
		entries, err := s.o.Core.Scan(within, collection, "", after, limit)
		late := within.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil || !late {
			return entries, err
		}
		look = true
	}
}

// absent reports whether the store does not answer: a record is read that nobody writes.
func (s *Server) absent(ctx context.Context, collection string) bool {
	return s.reach(ctx, true, func(ctx context.Context) error {
		_, err := s.tableOf(ctx, collection)
		if err == nil {
			_, err = s.o.Core.Read(ctx, collection, mutation.Bytes(make([]byte, codec.DigestBytes)))
		}
		if errors.Is(err, mutation.ErrNotFound) {
			return nil
		}
		return err
	})
}

// sizeOf is about what a document takes in memory.
func sizeOf(d *mutation.Document) int {
	n := 100
	for name, v := range d.Fields {
		n += 100 + len(name) + len(v.GetBytes()) + len(v.GetString_()) + len(v.GetMap().GetFields()[particleField].GetBytes())
	}
	return n
}

// asked is how many records to read at once, and where to go on after them: to
// every record of the partitions that are asked for, with some others between.
func (sc *scan) asked() (page int, next func(last *walproxyv1.Key) *walproxyv1.Key) {
	if len(sc.after) == partitions {
		return scanPage, behind
	}
	// A partition is twelve bits of a digest's first two bytes, so its records lie
	// in ranges, and what lies between them is jumped over.
	var asked [1 << 16]bool
	for id := range sc.after {
		for high := range 16 {
			asked[(id&0xff)<<8|high<<4|id>>8] = true
		}
	}
	return max(16, scanPage*len(sc.after)/partitions), func(last *walproxyv1.Key) *walproxyv1.Key {
		digest := last.GetBytes()
		if len(digest) < 2 {
			return last
		}
		for prefix := int(digest[0])<<8 | int(digest[1]); prefix < len(asked); prefix++ {
			if !asked[prefix] {
				continue
			}
			jump := []byte{byte(prefix >> 8), byte(prefix)} // in front of every digest that begins so
			if string(jump) > string(digest) {
				return mutation.Bytes(jump)
			}
			return last
		}
		return nil
	}
}

// sendEntry sends one stored record if it is asked for.
func (s *Server) sendEntry(ctx context.Context, sc *scan, collection string, e sinks.Entry, out *stream) error {
	digest := e.Key.GetBytes()
	if len(digest) != codec.DigestBytes {
		return nil // not written through here: it has no place among partitions
	}
	after, asked := sc.after[partitionOf(digest)]
	if !asked || string(digest) <= after {
		return nil
	}
	t, err := s.tableOf(ctx, collection)
	if err != nil {
		return coreError{err}
	}
	r, err := t.record(e.Document)
	if err != nil {
		return coreError{err}
	}
	_, set := splitCollection(collection)
	if sc.filter != nil {
		ok, err := s.filtered(ctx, sc, r, set, digest)
		if err != nil {
			return coreError{err}
		}
		if !ok {
			return nil
		}
	}
	ops, ok := sc.project(r)
	if !ok {
		return nil
	}
	if len(ops) > resultsMax { // written otherwise than through here
		return coreError{codec.RecordTooBig}
	}
	if sc.left > 0 {
		sc.left--
	}
	out.frame = sc.appendRecord(out.frame, r, set, digest, ops)
	return out.full()
}

// filtered reports whether a record passes the scan's filter.
func (s *Server) filtered(ctx context.Context, sc *scan, r *record, set string, digest []byte) (bool, error) {
	if n := r.room(); n > freeRoom {
		n = min(n, s.decodedMax)
		if err := s.decoded.Acquire(ctx, n); err != nil {
			return false, err
		}
		defer s.decoded.Release(n)
	}
	return sc.filter.Filter(subject(r, set, [codec.DigestBytes]byte(digest), s.now()))
}

// project returns the bins that are asked for; a record with none is left out.
func (sc *scan) project(r *record) (ops []codec.Op, ok bool) {
	switch {
	case sc.Info1&codec.Info1NoBins != 0:
		return nil, true
	case len(sc.bins) == 0:
		return allBins(r), true
	}
	for _, name := range sc.bins {
		if p, ok := r.get(name); ok {
			ops = append(ops, codec.Op{Type: codec.OpRead, Particle: p.Type, Name: []byte(name), Value: p.Data})
		}
	}
	return ops, len(ops) > 0
}

func (sc *scan) appendRecord(dst []byte, r *record, set string, digest []byte, ops []codec.Op) []byte {
	h := codec.Header{Info1: sc.Info1 & codec.Info1NoBins, Generation: r.generation, TTL: r.voidTime()}
	fields := 2
	if set != "" {
		fields++
	}
	if r.hasKey() {
		fields++
	}
	dst = codec.AppendHeader(dst, &h, fields, len(ops))
	dst = codec.AppendField(dst, codec.FieldNamespace, sc.namespace)
	dst = codec.AppendField(dst, codec.FieldDigest, digest)
	if set != "" {
		dst = codec.AppendField(dst, codec.FieldSet, set)
	}
	if r.hasKey() {
		dst = codec.AppendField(dst, codec.FieldKey, append([]byte{r.key.Type}, r.key.Data...))
	}
	for i := range ops {
		dst = codec.AppendOp(dst, &ops[i])
	}
	return dst
}
