package portable

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/position"
)

func testHead() Head {
	return Head{Export: uuid.New(), Created: time.Unix(1, 0).UTC(), Program: "test", Stream: uuid.New(), First: 7, Boot: 3, State: true,
		Incarnations: []Incarnation{{uuid.New(), 1}, {uuid.New(), 9}}}
}

// written is an export of records 7 to 9, a gap of 10 to 20, record 21 and state.
func written(t testing.TB, compress bool) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, testHead(), compress)
	if err != nil {
		t.Fatal(err)
	}
	for lsn := position.LSN(7); lsn <= 9; lsn++ {
		err = errors.Join(err, w.Record(lsn, payload(lsn)))
	}
	err = errors.Join(err, w.Gap(10, 20), w.Record(21, nil), w.State([]byte("key"), []byte("value")), w.State([]byte("empty"), nil))
	summary, closeErr := w.Close()
	if err = errors.Join(err, closeErr); err != nil {
		t.Fatal(err)
	}
	if summary != (Summary{Last: 21, Records: 4, Gaps: 1, State: 2, Bytes: int64(out.Len())}) {
		t.Fatalf("%+v", summary)
	}
	return out.Bytes()
}

func payload(lsn position.LSN) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "record %d ", lsn), 20)
}

// read reads a whole export.
func read(b []byte) (items []Item, r *Reader, err error) {
	if r, err = NewReader(bytes.NewReader(b)); err != nil {
		return nil, nil, err
	}
	defer r.Close()
	for {
		item, err := r.Next()
		if errors.Is(err, io.EOF) {
			return items, r, nil
		}
		if err != nil {
			return items, r, err
		}
		item.Payload, item.Key, item.Value = bytes.Clone(item.Payload), bytes.Clone(item.Key), bytes.Clone(item.Value)
		items = append(items, item)
	}
}

func TestRoundTrip(t *testing.T) {
	for _, compress := range []bool{false, true} {
		b := written(t, compress)
		items, r, err := read(b)
		if err != nil {
			t.Fatal(err)
		}
		if len(items) != 7 || r.Head().First != 7 || len(r.Head().Incarnations) != 2 || r.Summary().Bytes != int64(len(b)) || r.Summary().Last != 21 {
			t.Fatalf("%+v, %+v", items, r.Summary())
		}
		for i, item := range items[:3] {
			if lsn := position.LSN(7 + i); item.LSN != lsn || !bytes.Equal(item.Payload, payload(lsn)) {
				t.Fatalf("%+v", item)
			}
		}
		if gap := items[3]; !gap.Gap || gap.LSN != 10 || gap.Last != 20 {
			t.Fatalf("%+v", gap)
		}
		if items[4].LSN != 21 || string(items[5].Key) != "key" || string(items[5].Value) != "value" || string(items[6].Key) != "empty" {
			t.Fatalf("%+v", items[4:])
		}
	}
}

// TestLargeRecords: each block is as large as it has to be, no larger.
func TestLargeRecords(t *testing.T) {
	var out bytes.Buffer
	head := testHead()
	w, err := NewWriter(&out, head, false)
	if err != nil {
		t.Fatal(err)
	}
	sizes := []int{10, blockTarget - 5, 3 * blockTarget, 0, 100, blockTarget}
	for i, size := range sizes {
		if err := w.Record(head.First+position.LSN(i), make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	items, _, err := read(out.Bytes())
	if err != nil || len(items) != len(sizes) {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for i, size := range sizes {
		if len(items[i].Payload) != size {
			t.Fatalf("record %d has %d bytes, want %d", i, len(items[i].Payload), size)
		}
	}
}

// zeros are a frame of zstd of n blocks of 128 KiB each, all zeros, as RFC 8878 has it, or
// what text has in place of the zeros: repeated.
func zeros(n int, text byte) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3}
	for i := range n {
		h := uint32(128<<10)<<3 | 1<<1 // a run of one byte
		if i == n-1 {
			h |= 1
		}
		b = append(b, byte(h), byte(h>>8), byte(h>>16), text)
	}
	return b
}

// TestHostile: a few bytes take no more memory than what is ever compressed, and a head no
// more than one may have.
func TestHostile(t *testing.T) {
	file := func(head []byte, k kind, payload []byte, flags byte) []byte {
		var out bytes.Buffer
		w := &Writer{w: &out}
		out.WriteString(fileMagic)
		if head != nil {
			if err := w.put(kindHead, head); err != nil {
				t.Fatal(err)
			}
		}
		at := out.Len()
		if err := w.put(k, payload); err != nil {
			t.Fatal(err)
		}
		out.Bytes()[at+7] = flags
		return mended(out.Bytes())
	}
	of := testHead()
	of.Version = Version
	head, err := json.Marshal(of)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"a head":  {file(nil, kindHead, zeros(17<<3, ' '), flagZstd), "a head of 17825792 bytes"},
		"records": {file(head, kindRecords, zeros(66<<3, 0), flagZstd), "zstd: decompressed size"},
		"a claim": {append(file(head, kindRecords, nil, 0)[:len(fileMagic)+blockHeader+len(head)], claim()...), "cut short"},
	} {
		var before, at runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := read(c.b)
		runtime.ReadMemStats(&at)
		if grew := at.TotalAlloc - before.TotalAlloc; err == nil || !strings.Contains(err.Error(), c.want) || grew > 512<<20 {
			t.Errorf("%s: %d bytes took %d of memory: %v; want %s", name, len(c.b), grew, err, c.want)
		}
	}
	// What is larger is written as it is.
	w, err := NewWriter(io.Discard, of, true)
	if err != nil {
		t.Fatal(err)
	}
	for size, flags := range map[int]byte{1 << 10: flagZstd, packedMax + 1: 0} {
		if err := w.put(kindRecords, make([]byte, size)); err != nil || w.header[7] != flags {
			t.Errorf("%d bytes are written with flags %d: %v", size, w.header[7], err)
		}
	}
}

// claim is the header of a block of 1 GiB.
func claim() []byte {
	h := make([]byte, blockHeader)
	le.PutUint32(h, blockMagic)
	le.PutUint16(h[4:], Version)
	h[6] = byte(kindRecords)
	le.PutUint64(h[8:], 1)
	le.PutUint32(h[16:], 1<<30)
	le.PutUint32(h[24:], crc32.Checksum(h[:24], castagnoli))
	return h
}

// TestOrder: what does not follow is refused when it is written.
func TestOrder(t *testing.T) {
	w, err := NewWriter(io.Discard, testHead(), false)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"a later record": w.Record(8, nil), "a later gap": w.Gap(8, 9), "a gap that ends before it begins": w.Gap(7, 6),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestTruncated: however short, it is said to be cut short, or to be no export.
func TestTruncated(t *testing.T) {
	for _, compress := range []bool{false, true} {
		b := written(t, compress)
		for n := range b {
			_, _, err := read(b[:n])
			want := ErrTruncated
			if n < len(fileMagic) {
				want = ErrNotExport
			}
			at, ok := errors.AsType[*FormatError](err)
			if !ok || !errors.Is(err, want) || at.Offset > int64(n) {
				t.Fatalf("%d of %d bytes: %v", n, len(b), err)
			}
		}
	}
}

// TestEveryBit: no flipped bit goes unnoticed.
func TestEveryBit(t *testing.T) {
	for _, compress := range []bool{false, true} {
		b := written(t, compress)
		for i := range b {
			damaged := bytes.Clone(b)
			damaged[i] ^= 1 << (i % 8)
			_, _, err := read(damaged)
			if at, ok := errors.AsType[*FormatError](err); !ok || at.Offset > int64(i) {
				t.Fatalf("byte %d: %v", i, err)
			}
		}
	}
}

// blocksOf cuts an export into its blocks.
func blocksOf(b []byte) (blocks [][]byte) {
	for b = b[len(fileMagic):]; len(b) > 0; {
		n := blockHeader + int(le.Uint32(b[16:]))
		blocks = append(blocks, b[:n:n])
		b = b[n:]
	}
	return blocks
}

func join(blocks [][]byte) []byte { return append([]byte(fileMagic), slices.Concat(blocks...)...) }

// reindex gives block b another place, with a right checksum.
func reindex(b []byte, index uint64) []byte {
	b = bytes.Clone(b)
	le.PutUint64(b[8:], index)
	le.PutUint32(b[24:], crc32.Checksum(b[:24], castagnoli))
	return b
}

// TestBlocks: blocks that are missing, doubled, swapped, foreign, newer or behind
// the end are noticed, though each is good in itself.
func TestBlocks(t *testing.T) {
	whole := blocksOf(written(t, false))
	if len(whole) != 6 {
		t.Fatalf("%d blocks", len(whole))
	}
	other := blocksOf(written(t, false))
	newer := bytes.Clone(whole[1])
	le.PutUint16(newer[4:], Version+1)
	newer = reindex(newer, 1)
	for name, c := range map[string]struct {
		blocks [][]byte
		want   error
	}{
		"missing":             {slices.Concat(whole[:1], whole[2:]), ErrDamaged},
		"missing, renumbered": {[][]byte{whole[0], whole[1], whole[2], whole[3], reindex(whole[5], 4)}, ErrDamaged},
		"doubled":             {slices.Concat(whole[:2], whole[1:]), ErrDamaged},
		"swapped":             {[][]byte{whole[0], whole[2], whole[1], whole[3], whole[4], whole[5]}, ErrDamaged},
		"foreign head":        {slices.Concat(other[:1], whole[1:]), ErrDamaged},
		"no head":             {whole[1:], ErrDamaged},
		"no end":              {whole[:5], ErrTruncated},
		"behind the end":      {slices.Concat(whole, whole[5:]), ErrDamaged},
		"newer":               {slices.Concat(whole[:1], [][]byte{newer}, whole[2:]), ErrVersion},
	} {
		if _, _, err := read(join(c.blocks)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestNewerHead: a head of a later version is refused as such.
func TestNewerHead(t *testing.T) {
	head := testHead()
	text, err := json.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := NewWriter(&out, head, false)
	if err != nil {
		t.Fatal(err)
	}
	out.Truncate(len(fileMagic))
	w.index = 0
	if err := w.put(kindHead, bytes.Replace(text, []byte(`"version":0`), []byte(`"version":2`), 1)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := read(out.Bytes()); !errors.Is(err, ErrVersion) {
		t.Fatal(err)
	}
}

// TestGolden: files of every version that was ever written are read. They are never
// changed.
func TestGolden(t *testing.T) {
	for name, compressed := range map[string]bool{"1.export": false, "1-zstd.export": true} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if errors.Is(err, fs.ErrNotExist) && *updateGolden {
			b = written(t, compressed)
			err = os.WriteFile(filepath.Join("testdata", name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		items, r, err := read(b)
		if err != nil || len(items) != 7 || r.Head().Version != 1 || r.Head().Boot != 3 || !r.Head().State || items[6].Key == nil ||
			!bytes.Equal(items[0].Payload, payload(7)) || !items[3].Gap || string(items[5].Value) != "value" {
			t.Fatalf("%s: %+v, %v", name, items, err)
		}
	}
}

var updateGolden = flag.Bool("update-golden", false, "write the golden files that do not exist")

// FuzzReader: whatever the bytes, also in blocks that verify, nothing panics, and
// LSNs follow each other.
func FuzzReader(f *testing.F) {
	for _, compress := range []bool{false, true} {
		b := written(f, compress)
		f.Add(b, false)
		f.Add(b[:len(b)-3], true)
	}
	f.Add([]byte(fileMagic), false)
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend {
			b = mended(b)
		}
		items, r, err := read(b)
		if err != nil {
			if _, ok := errors.AsType[*FormatError](err); !ok {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		next := r.Head().First
		for _, item := range items {
			if item.Key == nil && item.LSN != 0 {
				if item.LSN != next || item.Last < item.LSN {
					t.Fatalf("%+v where %d is due", item, next)
				}
				next = item.Last + 1
			}
		}
	})
}

// mended makes the checksums of an export's blocks right.
func mended(b []byte) []byte {
	b = bytes.Clone(b)
	for at := len(fileMagic); at+blockHeader <= len(b); {
		h := b[at:]
		n := int(le.Uint32(h[16:]))
		if n > len(h)-blockHeader {
			break
		}
		le.PutUint32(h, blockMagic)
		le.PutUint32(h[20:], crc32.Checksum(h[blockHeader:blockHeader+n], castagnoli))
		le.PutUint32(h[24:], crc32.Checksum(h[:24], castagnoli))
		at += blockHeader + n
	}
	return b
}
