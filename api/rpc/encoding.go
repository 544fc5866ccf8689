package rpc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	encodingGzip = "gzip"
	encodingZstd = "zstd"
	// windowMost is how far back a zstd body may refer (RFC 9659), which is what its
	// decoder holds; gzip's holds less.
	windowMost = 8 << 20
	// encodeFrom is the size from which an answer is compressed.
	encodeFrom = 1 << 10
	// encodeOutcomesFrom is the same for what procedures that write answer: LSNs, ten bytes
	// each, for which compressing takes longer than all the rest of a call.
	encodeOutcomesFrom = 64 << 10
)

// encodingError: a body is not what its Content-Encoding says.
type encodingError struct {
	encoding string
	cause    error
}

func (e *encodingError) Error() string { return fmt.Sprintf("is not %s: %v", e.encoding, e.cause) }
func (e *encodingError) Unwrap() error { return e.cause }

// decodedReader reads a body as it was before its Content-Encoding. It begins with
// the first Read.
type decodedReader struct {
	in       sourceReader
	encoding string
	decoder  io.Reader
	close    func()
}

// sourceReader remembers how the body itself ended.
type sourceReader struct {
	io.Reader
	err error
}

func (r *sourceReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.err = err
	return n, err
}

// decoded returns body without its encoding, and what lets go of the decoder.
func decoded(body io.Reader, encoding string) (io.Reader, func()) {
	if encoding == "" {
		return body, func() {}
	}
	r := &decodedReader{in: sourceReader{Reader: body}, encoding: encoding, close: func() {}}
	return r, func() { r.close() }
}

func (r *decodedReader) Read(p []byte) (int, error) {
	if r.decoder == nil {
		if err := r.begin(); err != nil {
			return 0, r.error(err)
		}
	}
	n, err := r.decoder.Read(p)
	return n, r.error(err)
}

func (r *decodedReader) begin() error {
	if r.encoding == encodingGzip {
		decoder, err := gzip.NewReader(&r.in)
		if err == nil {
			r.decoder = decoder
		}
		return err
	}
	decoder, err := newZstdReader(&r.in)
	if err == nil {
		r.decoder, r.close = decoder, decoder.Close
	}
	return err
}

func newZstdReader(in io.Reader) (*zstd.Decoder, error) {
	return zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(windowMost))
}

// error tells a body that broke off from one that is encoded wrongly.
func (r *decodedReader) error(err error) error {
	switch {
	case err == nil, r.in.err == nil && errors.Is(err, io.EOF):
		return err
	case r.in.err != nil && !errors.Is(r.in.err, io.EOF):
		return r.in.err
	case errors.Is(err, io.EOF) && r.decoder != nil:
		return io.EOF
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	}
	return &encodingError{r.encoding, err}
}

// boundedReader ends with an error where there is more than so many bytes.
type boundedReader struct {
	io.Reader
	left, most int64
}

func (r *boundedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if r.left -= int64(n); r.left < 0 {
		return n, &http.MaxBytesError{Limit: r.most}
	}
	return n, err
}

// contentEncoding of a request: "", gzip or zstd.
func contentEncoding(r *http.Request) (string, *Error) {
	switch enc := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); enc {
	case "", "identity":
		return "", nil
	case encodingGzip, encodingZstd:
		return enc, nil
	default:
		return "", unsupported("Content-Encoding", "%q is not supported; want gzip or zstd", clip(enc))
	}
}

// encodingBytes is what a decoder may hold.
func encodingBytes(encoding string) int64 {
	switch encoding {
	case encodingGzip:
		return 64 << 10
	case encodingZstd:
		return windowMost
	}
	return 0
}

// acceptEncoding is the encoding in which the client would like its answer.
func acceptEncoding(r *http.Request) string {
	gzip := ""
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, params, _ := strings.Cut(part, ";")
		weight, _ := strings.CutPrefix(strings.TrimSpace(params), "q=")
		if q, err := strconv.ParseFloat(weight, 64); err == nil && q == 0 {
			continue
		}
		switch strings.ToLower(strings.TrimSpace(name)) {
		case encodingZstd:
			return encodingZstd
		case encodingGzip:
			gzip = encodingGzip
		}
	}
	return gzip
}

// Encoders of whole answers: nothing is held while a client takes its answer.
var (
	gzipWriters = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}
	zstdWriter  = sync.OnceValues(newZstdWriter)
)

func newZstdWriter() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(256<<10))
}

// encode returns body compressed, if the client takes that and it is worth it.
func (w *statusWriter) encode(body []byte) []byte {
	if w.encoding == "" || len(body) < encodeFrom {
		return body
	}
	w.Header().Set("Vary", "Accept-Encoding")
	out := bytes.NewBuffer(make([]byte, 0, len(body)/4))
	if w.encoding == encodingZstd {
		encoder, err := zstdWriter()
		if err != nil {
			return body // options that do not fit: tested
		}
		out = bytes.NewBuffer(encoder.EncodeAll(body, out.Bytes()))
	} else {
		encoder := gzipWriters.Get().(*gzip.Writer)
		defer gzipWriters.Put(encoder)
		encoder.Reset(out)
		_, err := encoder.Write(body)
		if errors.Join(err, encoder.Close()) != nil {
			return body // a Buffer takes everything
		}
	}
	w.Header().Set("Content-Encoding", w.encoding)
	return out.Bytes()
}

// withZstd lets procedures be compressed by zstd too; gzip they know.
func withZstd() connect.HandlerOption {
	return connect.WithCompression(encodingZstd,
		func() connect.Decompressor {
			decoder, err := newZstdReader(nil)
			if err != nil {
				panic(err) // options that do not fit
			}
			return zstdDecompressor{decoder}
		},
		func() connect.Compressor {
			encoder, err := newZstdWriter()
			if err != nil {
				panic(err)
			}
			return encoder
		})
}

// zstdDecompressor is reused behind its Close.
type zstdDecompressor struct{ *zstd.Decoder }

func (d zstdDecompressor) Close() error { return d.Decoder.Reset(nil) }
