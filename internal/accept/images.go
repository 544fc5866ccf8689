package accept

import (
	"sync"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// images are whole records with pending writes, for Modify, which need not wait
// then until those are applied. As in exactMap every entry covers all writes to
// its key or is not there, and any may be dropped at any time. It keeps the last
// ones put in, bounded in bytes.
type images struct {
	shards [16]imageShard
}

type imageShard struct {
	sync.Mutex
	entries  map[string]image
	queue    []string // keys as they were first put in; holds every key of entries
	bytes    int      // of entries, and of keys in the queue that have none
	bytesMax int
}

type image struct {
	doc   *mutation.Document // nil: absent
	lsn   wal.LSN            // of the last write to the key
	bytes int
}

func newImages(bytesMax int) *images {
	x := &images{}
	for i := range x.shards {
		x.shards[i].entries = map[string]image{}
		x.shards[i].bytesMax = bytesMax / len(x.shards)
	}
	return x
}

func (x *images) shard(hash uint64) *imageShard { return &x.shards[hash%uint64(len(x.shards))] }

// get returns the record with all its writes, while the last is not applied: then
// the store knows better.
func (x *images) get(hash uint64, key string, applied wal.LSN) (doc *mutation.Document, lsn wal.LSN, ok bool) {
	s := x.shard(hash)
	s.Lock()
	defer s.Unlock()
	e, ok := s.entries[key]
	if !ok {
		return nil, 0, false
	}
	if e.lsn <= applied { // an empty one has 0
		s.drop(key)
		return nil, 0, false
	}
	return e.doc, e.lsn, true
}

// put replaces what is known of key. doc is not changed any more.
func (x *images) put(hash uint64, key string, doc *mutation.Document, lsn wal.LSN) {
	s := x.shard(hash)
	s.Lock()
	defer s.Unlock()
	e := image{doc, lsn, entryBytes + 2*len(key) + documentBytes(doc)}
	if old, ok := s.entries[key]; ok {
		s.bytes -= old.bytes
	} else {
		s.queue = append(s.queue, key)
	}
	s.entries[key] = e
	s.bytes += e.bytes
	for s.bytes > s.bytesMax {
		oldest := s.queue[0]
		s.queue[0] = ""
		s.queue = s.queue[1:]
		s.bytes -= s.entries[oldest].bytes
		delete(s.entries, oldest)
	}
}

// forget drops what is known of key: it was written otherwise.
func (x *images) forget(hash uint64, key string) {
	s := x.shard(hash)
	s.Lock()
	defer s.Unlock()
	s.drop(key)
}

// drop leaves an empty entry, which keeps the key's place in the queue and the
// bytes that it takes there.
func (s *imageShard) drop(key string) {
	if e, ok := s.entries[key]; ok {
		s.bytes -= e.bytes
		left := image{bytes: entryBytes + 2*len(key)}
		s.entries[key] = left
		s.bytes += left.bytes
	}
}

// entryBytes and valueBytes are what an entry and a value take beside their content.
const (
	entryBytes = 256
	valueBytes = 96
)

func documentBytes(doc *mutation.Document) int {
	if doc == nil {
		return 0
	}
	return fieldsBytes(doc.Fields)
}

func fieldsBytes(fields map[string]*walproxyv1.Value) int {
	n := 0
	for name, v := range fields {
		n += 2*len(name) + valueSize(v)
	}
	return n
}

func valueSize(v *walproxyv1.Value) int {
	n := valueBytes
	switch k := v.GetKind().(type) {
	case *walproxyv1.Value_String_:
		n += len(k.String_)
	case *walproxyv1.Value_Bytes:
		n += len(k.Bytes)
	case *walproxyv1.Value_Decimal:
		n += len(k.Decimal)
	case *walproxyv1.Value_List_:
		for _, item := range k.List.GetValues() {
			n += valueSize(item)
		}
	case *walproxyv1.Value_Map_:
		n += fieldsBytes(k.Map.GetFields())
	}
	return n
}
