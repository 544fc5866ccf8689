package portable

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/walproxy/walproxy/internal/position"
)

// Writer writes an export. Not for concurrent use. It holds one block.
type Writer struct {
	w       io.Writer
	encoder *zstd.Encoder // nil: nothing is compressed
	summary Summary
	index   uint64
	chain   uint32
	kind    kind // of what is in block; 0: nothing
	block   []byte
	packed  []byte
	header  [blockHeader]byte
}

// NewWriter begins an export.
func NewWriter(w io.Writer, head Head, compress bool) (*Writer, error) {
	p := &Writer{w: w, summary: Summary{Last: head.First - 1}}
	if compress {
		var err error
		if p.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)); err != nil {
			return nil, err
		}
	}
	head.Version = Version
	text, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	if len(text) > headMax {
		return nil, fmt.Errorf("a head of %d bytes is more than a file holds", len(text))
	}
	if err := p.write([]byte(fileMagic)); err != nil {
		return nil, err
	}
	return p, p.put(kindHead, text)
}

// Record adds the next record.
func (p *Writer) Record(lsn position.LSN, payload []byte) error {
	if lsn != p.summary.Last+1 {
		return fmt.Errorf("LSN %d cannot follow %d", lsn, p.summary.Last)
	}
	if err := p.begin(kindRecords, len(payload)); err != nil {
		return err
	}
	if len(p.block) == 0 {
		p.block = le.AppendUint64(p.block, uint64(lsn))
	}
	p.block = append(binary.AppendUvarint(p.block, uint64(len(payload))), payload...)
	p.summary.Last = lsn
	p.summary.Records++
	return nil
}

// Gap says that the records from first, the next, to last are lost.
func (p *Writer) Gap(first, last position.LSN) error {
	if first != p.summary.Last+1 || last < first {
		return fmt.Errorf("a gap of LSN %d to %d cannot follow LSN %d", first, last, p.summary.Last)
	}
	if err := p.flush(); err != nil {
		return err
	}
	p.summary.Last = last
	p.summary.Gaps++
	return p.put(kindGap, le.AppendUint64(le.AppendUint64(nil, uint64(first)), uint64(last)))
}

// State adds an entry of the state store.
func (p *Writer) State(key, value []byte) error {
	if err := p.begin(kindState, len(key)+len(value)); err != nil {
		return err
	}
	p.block = append(binary.AppendUvarint(p.block, uint64(len(key))), key...)
	p.block = append(binary.AppendUvarint(p.block, uint64(len(value))), value...)
	p.summary.State++
	return nil
}

// Close ends the file. It does not close what it is written to, nor sync it.
func (p *Writer) Close() (Summary, error) {
	if err := p.flush(); err != nil {
		return p.summary, err
	}
	s := &p.summary
	end := make([]byte, 0, endSize)
	for _, n := range []uint64{uint64(s.Last), s.Records, s.Gaps, s.State} {
		end = le.AppendUint64(end, n)
	}
	err := p.put(kindEnd, le.AppendUint32(end, p.chain))
	if p.encoder != nil {
		_ = p.encoder.Close() // it writes nowhere
	}
	return p.summary, err
}

// begin readies the block for size bytes of kind k.
func (p *Writer) begin(k kind, size int) error {
	if size > blockMax-64 {
		return fmt.Errorf("%d bytes are more than a block holds", size)
	}
	if p.kind != k || len(p.block)+size > blockTarget {
		if err := p.flush(); err != nil {
			return err
		}
	}
	p.kind = k
	return nil
}

func (p *Writer) flush() error {
	if len(p.block) == 0 {
		return nil
	}
	err := p.put(p.kind, p.block)
	p.block = p.block[:0]
	if cap(p.block) > 2*blockTarget {
		p.block = nil
	}
	return err
}

func (p *Writer) put(k kind, payload []byte) error {
	h, flags := p.header[:], byte(0)
	if p.encoder != nil && len(payload) > 64 && len(payload) <= packedMax {
		p.packed = p.encoder.EncodeAll(payload, p.packed[:0])
		if len(p.packed) < len(payload) {
			payload, flags = p.packed, flagZstd
		}
	}
	le.PutUint32(h, blockMagic)
	le.PutUint16(h[4:], Version)
	h[6], h[7] = byte(k), flags
	le.PutUint64(h[8:], p.index)
	le.PutUint32(h[16:], uint32(len(payload)))
	le.PutUint32(h[20:], crc32.Checksum(payload, castagnoli))
	le.PutUint32(h[24:], crc32.Checksum(h[:24], castagnoli))
	p.chain = crc32.Update(p.chain, castagnoli, h[:24]) // without its own checksum, which would make any header count alike
	p.index++
	if err := p.write(h); err != nil {
		return err
	}
	return p.write(payload)
}

func (p *Writer) write(b []byte) error {
	n, err := p.w.Write(b)
	p.summary.Bytes += int64(n)
	return err
}
