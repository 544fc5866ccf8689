// Package zstdfile reads and writes files that may be compressed with zstd: who writes
// one says so by its name, who reads one need not know.
package zstdfile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// ErrCorrupt: what was to be compressed is not, or not as the format has it.
var ErrCorrupt = errors.New("zstd: corrupt")

// windowMax bounds what a file may have a reader keep of what went before: zstd's own
// levels, up to 19, ask for no more.
const windowMax = 8 << 20

var magic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// Named reports whether a file of that name is to be compressed.
func Named(name string) bool { return strings.HasSuffix(name, ".zst") }

// NewWriter compresses to w. Close ends what is compressed; it does not close w.
func NewWriter(w io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(windowMax))
}

// NewReader reads r, decompressed if it is compressed. It holds some times 8 MiB,
// whatever r says. What is cut short ends in io.ErrUnexpectedEOF, what is damaged in
// ErrCorrupt; errors of r are r's. Close does not close r.
func NewReader(r io.Reader) (io.ReadCloser, error) {
	source := &source{Reader: r}
	in := bufio.NewReaderSize(source, 1<<16)
	head, err := in.Peek(len(magic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !bytes.Equal(head, magic) {
		return io.NopCloser(in), nil
	}
	decoder, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(windowMax))
	if err != nil {
		return nil, err
	}
	return &reader{decoder, source}, nil
}

// source remembers what reading failed with.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

type reader struct {
	decoder *zstd.Decoder
	source  *source
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.decoder.Read(b)
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
	case r.source.err != nil:
		err = r.source.err
	default:
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return n, err
}

func (r *reader) Close() error {
	r.decoder.Close()
	return nil
}
